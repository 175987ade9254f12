import numpy as np
import pytest

from modeling_sen.world.tracking_drawing import draw_layers
from modeling_sen.world.tracking_effects import add_effects
from modeling_sen.world.tracking_scene import TRACKING_PRESETS, TrackingKnobs, make_tracking_scene

GREY = np.full((24, 64, 96, 3), 120, dtype=np.uint8)


@pytest.fixture(scope="module")
def drawn():
    return draw_layers(make_tracking_scene("base", 3))[0]


def test_without_effects_frames_stay_as_they_are(drawn):
    assert add_effects(drawn, TRACKING_PRESETS["base"], 1) is drawn


def test_light_changes_brightness_by_frame_and_from_left_to_right_only():
    lit = add_effects(GREY, TrackingKnobs(light=30), 1).astype(float)
    assert (lit == lit[:, :1, :, :1]).all(), "rows and colours alike"
    by_frame = lit.mean((1, 2, 3)) / 120
    assert 0.5 < by_frame.min() < 0.85
    assert 1.15 < by_frame.max() < 1.5
    sides = lit[:, 0, -1, 0] - lit[:, 0, 0, 0]
    assert abs(sides).max() > 0.1 * 120


def test_blur_is_the_repeated_1_2_1_filter_and_its_strength_changes(drawn):
    blurred = add_effects(drawn, TrackingKnobs(blur=6), 1)
    passes = []
    for before, after in zip(drawn, blurred, strict=True):
        expected, count = before.astype(float), 0
        while (expected != after).any():
            padded = np.pad(expected, ((1, 1), (1, 1), (0, 0)), mode="edge")
            down = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
            expected = np.floor((down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 4 + 0.5)
            count += 1
            assert count <= 6
        passes.append(count)
    assert (min(passes), max(passes)) == (0, 6)


def test_noise_has_the_asked_deviation_and_no_pattern():
    noise = add_effects(GREY, TrackingKnobs(noise=8), 1).astype(float) - 120
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(8, rel=0.02)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 1, "neighbours are independent"
    assert abs((noise[1:] * noise[:-1]).mean()) < 1, "frames are independent"
    assert (add_effects(GREY, TrackingKnobs(noise=8), 2).astype(float) - 120 != noise).any()


def test_jpeg_loses_more_at_lower_quality(drawn):
    errors = [
        abs(add_effects(drawn[:2], TrackingKnobs(jpeg=quality), 1).astype(int) - drawn[:2]).mean()
        for quality in (95, 60, 20)
    ]
    assert 0 < errors[0] < errors[1] < errors[2] < 20
