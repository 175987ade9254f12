"""Frames, tracks and visibility of tracking clips: exact, and the same on every machine."""

import hashlib
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from modeling_sen.world import TRACKING_PRESETS, TrackingClip, tracking_clip

RECORDED = json.loads(Path(__file__).with_name("tracking_sums.json").read_text())
ARRAYS = ("frames", "masks", "queries", "tracks", "visibility", "surface")


@cache
def clip(preset: str, seed: int = 0) -> TrackingClip:
    return tracking_clip(preset, seed)


def sums(found: TrackingClip) -> dict[str, str]:
    types = {"queries": "<f4", "tracks": "<f4", "surface": "<i8"}
    arrays = {name: np.ascontiguousarray(getattr(found, name), types.get(name)) for name in ARRAYS}
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def nearest_pixels(tracks: np.ndarray) -> np.ndarray:
    return np.floor(tracks + 0.5).astype(int)


def sample(grey: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Grey levels (N,) of a frame (H, W) at points (N, 2), bilinear."""
    column, row = np.floor(points).astype(int).clip(0, 254).T
    right, down = points.T - [column, row]
    upper = grey[row, column] * (1 - right) + grey[row, column + 1] * right
    lower = grey[row + 1, column] * (1 - right) + grey[row + 1, column + 1] * right
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['preset']}-{case['seed']}")
def test_clips_have_the_recorded_sums(case):
    assert sums(clip(case["preset"], case["seed"])) == case["sums"]


def test_sums_of_every_preset_are_recorded():
    assert {case["preset"] for case in RECORDED} == set(TRACKING_PRESETS)


def test_a_clip_drawn_again_is_the_same():
    assert sums(tracking_clip("all", 0)) == sums(clip("all"))


@pytest.mark.parametrize("preset", TRACKING_PRESETS)
def test_shapes_types_and_queries(preset):
    found = clip(preset)
    times, count = found.visibility.shape
    assert times == (72 if preset == "long" else 24)
    assert 48 <= count <= 64
    assert (found.frames.shape, found.frames.dtype) == ((times, 256, 256, 3), np.uint8)
    assert (found.masks.shape, found.masks.dtype) == ((times, 256, 256), np.uint8)
    assert (found.tracks.shape, found.tracks.dtype) == ((times, count, 2), np.float32)
    assert (found.queries.shape, found.queries.dtype) == ((count, 3), np.float32)
    assert (found.surface.shape, found.visibility.dtype) == ((count,), bool)
    assert (found.visibility.sum(0) >= 4).all()
    assert 0.25 < (found.surface == 0).mean() < 0.85
    for number, (time, x, y) in enumerate(found.queries.tolist()):
        assert time == np.flatnonzero(found.visibility[:, number])[0]
        assert [x, y] == found.tracks[int(time), number].tolist()


@pytest.mark.parametrize("preset", TRACKING_PRESETS)
def test_visibility_is_the_layer_seen_at_the_nearest_pixel(preset):
    found = clip(preset)
    pixels = nearest_pixels(found.tracks)
    hidden = 0
    for time in range(len(found.frames)):
        for number, (x, y) in enumerate(pixels[time].tolist()):
            inside = 0 <= x < 256 and 0 <= y < 256
            seen = inside and found.masks[time, y, x] == found.surface[number]
            assert found.visibility[time, number] == seen
            hidden += not seen
            if inside and not seen:  # only a nearer layer hides a point
                assert found.masks[time, y, x] > found.surface[number]
    assert 0 < hidden < 0.6 * found.visibility.size


def forward(surface, time: int, x: float, y: float) -> tuple[float, float]:
    """A point of a surface in a frame, in floating point: wave, turn, scale, move."""
    bend, turn = surface.bend / 256, 2 * math.pi / 16384
    x += bend * math.sin(turn * (surface.pitch * y + surface.phases[time, 0]))
    y += bend * math.sin(turn * (surface.pitch * x + surface.phases[time, 1]))
    angle, scale = turn * surface.angle[time], surface.zoom[time] / 65536
    return (
        scale * (math.cos(angle) * x - math.sin(angle) * y) + surface.path[time, 0] / 256,
        scale * (math.sin(angle) * x + math.cos(angle) * y) + surface.path[time, 1] / 256,
    )


def backward(surface, time: int, x: float, y: float) -> tuple[float, float]:
    """The point of a surface that lies there in a frame."""
    bend, turn = surface.bend / 256, 2 * math.pi / 16384
    angle, scale = turn * surface.angle[time], surface.zoom[time] / 65536
    x, y = (x - surface.path[time, 0] / 256) / scale, (y - surface.path[time, 1] / 256) / scale
    x, y = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    y -= bend * math.sin(turn * (surface.pitch * x + surface.phases[time, 1]))
    x -= bend * math.sin(turn * (surface.pitch * y + surface.phases[time, 0]))
    return x, y


@pytest.mark.parametrize("preset", ["base", "rotation", "scale", "deform", "shake", "all"])
def test_tracks_are_the_motion_of_their_surface(preset):
    found = clip(preset)
    for number, (start, x, y) in enumerate(found.queries.tolist()):
        surface = found.scene.surfaces[found.surface[number]]
        u, v = backward(surface, int(start), x, y)
        expected = [forward(surface, time, u, v) for time in range(len(found.frames))]
        np.testing.assert_allclose(found.tracks[:, number], expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("preset", ["base", "rotation", "scale", "deform", "fast", "shake"])
def test_a_point_keeps_its_colour_along_its_track(preset):
    found = clip(preset, 1)
    grey, pixels = found.frames.mean(-1), nearest_pixels(found.tracks)
    spreads: dict[int, list[float]] = {0: [], 1: []}
    for number in range(len(found.surface)):
        clear = []  # frames in which nothing else is near
        for time in np.flatnonzero(found.visibility[:, number]):
            x, y = pixels[time, number]
            near = found.masks[time, max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
            if near.shape == (7, 7) and (near == found.surface[number]).all():
                clear.append(time)
        if len(clear) < 4:
            continue
        for off, listed in spreads.items():  # off to the right in every second frame
            seen = [sample(grey[t], found.tracks[t, [number]] + [off * (t % 2), 0])[0] for t in clear]
            listed.append(float(np.std(seen)))
    assert len(spreads[0]) > 40
    assert np.mean(spreads[0]) < 0.5, "rounding only"
    assert np.mean(spreads[1]) > 4 * np.mean(spreads[0])


@pytest.mark.parametrize("preset", ["lighting", "blur", "noise"])
def test_camera_effects_leave_the_truth_as_it_is(preset):
    base, changed = sums(clip("base")), sums(clip(preset))
    assert {name for name in ARRAYS if base[name] != changed[name]} == {"frames"}


def test_occluders_hide_points_and_carry_none():
    assert clip("occluder").surface.max() < len(clip("occluder").scene.surfaces) - 2
    assert clip("occluder").visibility.mean() < clip("base").visibility.mean() - 0.05


def test_hidden_points_come_back():
    """So that finding a point again can be measured."""
    returns = 0
    for seed in range(3):
        seen = clip("base", seed).visibility.astype(int)
        returns += int(((np.diff(seen, axis=0) == 1).any(0) & (seen.argmax(0) == 0)).sum())
    assert returns > 10


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="unknown tracking preset 'easy'"):
        tracking_clip("easy", 0)
