"""Warp error of videos whose motion is known."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from modeling_sen.evaluation.editing_warp import flow_targets, followed_pixels, warp_errors


def moving(step=2, frames=3, size=64):
    """A smooth texture that moves right by `step` pixels a frame, (T, size, size, 3) uint8, not too bright."""
    y, x = np.mgrid[:size, : size + step * frames].astype(float)
    texture = 90 + 35 * np.sin(x / 3.1) * np.cos(y / 4.3) + 30 * np.sin((x + 2 * y) / 7)
    texture = np.stack([texture, texture * 0.8, 200 - texture], axis=-1).astype(np.uint8)
    starts = [step * (frames - time) for time in range(frames)]
    return np.stack([texture[:, start : start + size] for start in starts])


def test_an_edit_that_moves_with_its_source_has_no_error():
    source = moving()
    recoloured = 255 - source[..., ::-1] // 2
    found = warp_errors(source, recoloured)
    assert found["warp_error"] < 1e-4
    assert found["source_warp_error"] < 1e-4
    frozen = np.repeat(recoloured[:1], len(source), axis=0)
    assert warp_errors(source, frozen)["warp_error"] > 20 * max(found.values())


def test_flicker_by_hand():
    source = np.repeat(moving(frames=1), 4, axis=0)  # it stands still
    edited = source // 2
    edited[1::2] += 51  # a fifth of the range
    found = warp_errors(source, edited)
    assert found["warp_error"] == pytest.approx(0.04, rel=1e-3)
    assert found["source_warp_error"] == pytest.approx(0, abs=1e-6)


def test_pixels_without_consistent_flow_are_left_out():
    forward = np.zeros((4, 6, 2), dtype=np.float32)
    backward = np.zeros_like(forward)
    forward[0, 4] = (2, 0)  # to x = 6, out of the frame
    forward[1, 1] = (3, 0)  # back from there by nothing: |(3, 0)|^2 > 0.01 * 9 + 0.5
    forward[2, 1], backward[2, 4] = (3, 0), (-2.5, 0)  # 0.25 < 0.01 * (9 + 6.25) + 0.5
    forward[3, 2] = (0.6, 0)  # 0.36 < 0.01 * 0.36 + 0.5
    expected = np.ones((4, 6), dtype=bool)
    expected[0, 4] = expected[1, 1] = False
    expected[2, 4] = False  # its own return: 6.25 > 0.01 * 6.25 + 0.5
    assert followed_pixels(forward, backward).tolist() == expected.tolist()
    assert flow_targets(forward)[1, 1].tolist() == [4, 1]


def test_one_frame_has_no_error():
    source = moving(frames=1)
    assert all(np.isnan(number) for number in warp_errors(source, source).values())


def test_frames_too_small_for_flow_are_refused():
    frames = np.zeros((2, 11, 20, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="at least 12 x 12 pixels"):
        warp_errors(frames, frames)
