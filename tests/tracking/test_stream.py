"""Frame by frame: as a whole clip in what can be known from the past, points added and dropped on the way, bounded memory."""

import numpy as np
import pytest

from modeling_sen.evaluation.tracking_data import draw_tracked_clip
from modeling_sen.tracking.stream import REMEMBERED


@pytest.fixture(scope="module")
def clip():
    return draw_tracked_clip("base", 4102, "first")


@pytest.fixture(scope="module")
def frames(clip):
    return clip.read_frames()


def in_frame(clip, number: int, count: int) -> np.ndarray:
    """Points (count, 2) that are visible in a frame."""
    return clip.tracks[number, np.flatnonzero(clip.visibility[number])[:count]]


def test_online_tracks_follow_the_true_points(tracker, clip, frames):
    stream = tracker.stream()
    empty = stream.step(frames[0])
    assert empty.points.shape == (0, 2)
    rows = np.flatnonzero(clip.visibility[0])
    ids = stream.add(clip.tracks[0, rows])
    assert ids.tolist() == list(range(len(rows)))
    good = []
    for number in range(1, 12):
        found = stream.step(frames[number])
        assert found.ids.tolist() == ids.tolist()
        assert found.points.dtype == np.float32
        seen = clip.visibility[number, rows] & found.visibility
        good.extend(np.linalg.norm(found.points - clip.tracks[number, rows], axis=1)[seen] < 4)
    assert np.mean(good) > 0.85


def test_future_frames_do_not_change_a_track(tracker, clip, frames):
    points, found = in_frame(clip, 0, 6), []
    for last in (frames[5], frames[20]):
        stream = tracker.stream()
        stream.step(frames[0])
        stream.add(points)
        found.append([stream.step(frame) for frame in frames[1:4]])
        stream.step(last)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.points, other.points)


def test_points_do_not_depend_on_those_that_are_added_and_dropped(tracker, clip, frames):
    points = in_frame(clip, 0, 3)
    single, changed = tracker.stream(), tracker.stream()
    for stream in (single, changed):
        stream.step(frames[0])
        stream.add(points)
    extra = changed.add(in_frame(clip, 0, 9)[3:])
    for number in range(1, 8):
        if number == 3:
            changed.drop(extra[:2])
            assert changed.add(in_frame(clip, number - 1, 2)).tolist() == [9, 10]
        expected, found = single.step(frames[number]), changed.step(frames[number])
        assert found.ids[:3].tolist() == [0, 1, 2]
        np.testing.assert_allclose(found.points[:3], expected.points, atol=5e-3)
        np.testing.assert_allclose(found.confidence[:3], expected.confidence, atol=1e-3)


def test_only_a_few_frames_are_kept(tracker, clip, frames):
    stream = tracker.stream()
    stream.step(frames[0])
    stream.add(in_frame(clip, 0, 2))
    for number in range(1, REMEMBERED + 4):
        stream.step(frames[number])
    assert len(stream.frames) == len(stream.grey) == len(stream.states) == REMEMBERED


def test_a_hidden_point_keeps_a_place_and_all_can_be_dropped(tracker, frames):
    stream = tracker.stream()
    stream.step(frames[0])
    ids = stream.add([[128.0, 128.0]])
    for _ in range(REMEMBERED + 3):
        found = stream.step(np.full_like(frames[0], 90))
    assert np.isfinite(found.points).all()
    stream.drop(ids)
    assert stream.step(frames[1]).points.shape == (0, 2)


def test_invalid_inputs_are_refused(tracker, frames):
    stream = tracker.stream()
    with pytest.raises(ValueError, match="points: expected a frame first"):
        stream.add([[1.0, 2.0]])
    stream.step(frames[0])
    with pytest.raises(ValueError, match=r"frame: expected \(256, 256\), .* found \(128, 256\)"):
        stream.step(frames[1][:128])
    with pytest.raises(ValueError, match=r"frame: expected \(H, W, 3\) uint8, found .* float64"):
        stream.step(frames[1] / 255)
    with pytest.raises(ValueError, match=r"expected x in -0.5..255.5"):
        stream.add([[300.0, 2.0]])
    with pytest.raises(ValueError, match=r"points: expected \(n, 2\) x, y of the newest frame, found shape \(1, 3\)"):
        stream.add([[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="ids: expected ids of points that are tracked, found 7"):
        stream.drop([7])
    assert stream.number == 0


@pytest.mark.slow
def test_thousands_of_points(tracker, frames):
    stream = tracker.stream()
    stream.step(frames[0])
    points = np.random.default_rng(0).uniform(0, 255, (4000, 2))
    stream.add(points)
    found = stream.step(frames[1])
    few = tracker.stream()
    few.step(frames[0])
    few.add(points[[7, 3999]])
    np.testing.assert_allclose(found.points[[7, 3999]], few.step(frames[1]).points, atol=5e-3)
