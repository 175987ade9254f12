"""Dense flow against motions that are known, and what is said where OpenCV is missing."""

import sys

import numpy as np
import pytest

from modeling_sen.tracking.flow import DenseFlow, grey_frame, move, resize_frame


@pytest.fixture(scope="module")
def picture():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return resize_frame(coarse, (160, 192))


def test_a_shifted_picture_has_the_flow_of_its_shift(picture):
    grey = grey_frame(picture)
    first, second = (np.ascontiguousarray(grey[y : y + 128, x : x + 160]) for x, y in ((8, 8), (12, 5)))
    flow = DenseFlow(1).start(first, second).result()
    assert flow.shape == (128, 160, 2)
    inner = flow[16:-16, 16:-16].reshape(-1, 2)
    np.testing.assert_allclose(np.median(inner, axis=0), [-4, 3], atol=0.2)


def test_points_move_by_the_flow_between_its_pixels():
    y, x = np.mgrid[:20, :30].astype(np.float32)
    flow = np.stack([0.1 * x, -0.2 * y], axis=-1)
    points = np.array([[[3.5, 4.25], [10.0, 6.0]]], dtype=np.float32)
    np.testing.assert_allclose(move(points, flow), points * [1.1, 0.8], atol=0.02)


def test_grey_and_size(picture):
    assert grey_frame(picture).shape == (160, 192)
    flat = np.full((30, 40, 3), (10, 200, 90), dtype=np.uint8)
    assert (resize_frame(flat, (8, 16)) == flat[0, 0]).all()
    assert grey_frame(flat)[0, 0] == round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)


def test_without_opencv_the_extra_is_named(monkeypatch, pixel_tracker):
    for name in [each for each in sys.modules if each.startswith("modeling_sen.tracking.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cv2", None)
    for use in (pixel_tracker.stream, lambda: pixel_tracker.track(np.zeros((1, 16, 16, 3), np.uint8), [[0, 1, 1]])):
        with pytest.raises(ImportError, match=r"pip install 'modeling-sen\[tracking\]'"):
            use()


def test_more_points_than_opencv_reads_at_once():
    flow = np.random.default_rng(0).normal(size=(20, 30, 2)).astype(np.float32)
    points = np.random.default_rng(1).uniform(0, 19, (40_000, 2)).astype(np.float32)
    moved = move(points, flow)
    np.testing.assert_array_equal(moved[[5, 39_999]], move(points[[5, 39_999]], flow))
    assert move(points[:0], flow).shape == (0, 2)
