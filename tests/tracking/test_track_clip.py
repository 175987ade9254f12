"""The shipped tracker on clips of the world: what must hold of any tracker, and what is refused."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

import modeling_sen
from modeling_sen.evaluation.tracking_data import draw_tracked_clip
from modeling_sen.tracking.track_clip import calibrated, read_size


@pytest.fixture(scope="module")
def clip():
    """Nine frames of a clip, and the queries that lie in them."""
    return draw_tracked_clip("base", 4100, "first")


@pytest.fixture(scope="module")
def frames(clip):
    return clip.read_frames()[:9]


@pytest.fixture(scope="module")
def queries(clip):
    return clip.queries[clip.queries[:, 0] < 9][:16]


@pytest.fixture(scope="module")
def tracked(tracker, frames, queries):
    return tracker.track(frames, queries)


def agreement(found, tracks, visibility) -> float:
    """Share of the points that both tell to be visible which lie within two pixels of each other."""
    both = found.visibility & visibility
    return float((np.linalg.norm(found.tracks - tracks, axis=-1)[both] < 2).mean())


def test_points_of_an_unseen_clip_are_tracked(tracker):
    clip = draw_tracked_clip("base", 4101, "first")
    output = tracker.track(clip.read_frames(), clip.queries)
    metrics = clip.metrics(output.tracks, output.visibility)
    assert metrics["average_jaccard"] > 0.7
    assert metrics["average_jaccard_reappeared"] > 0.3 or np.isnan(metrics["average_jaccard_reappeared"])


def test_the_query_frame_holds_the_query(tracked, queries):
    numbers, rows = queries[:, 0].astype(int), np.arange(len(queries))
    np.testing.assert_array_equal(tracked.tracks[numbers, rows], queries[:, 1:])
    assert tracked.visibility[numbers, rows].all()
    assert (tracked.confidence[numbers, rows] == 1).all()
    assert ((tracked.confidence >= 0) & (tracked.confidence <= 1)).all()


def test_a_query_depends_on_no_other(tracker, frames, queries, tracked):
    order = np.array([5, 2, 9])
    some = tracker.track(frames, queries[order])
    np.testing.assert_allclose(some.tracks, tracked.tracks[:, order], atol=5e-3)
    np.testing.assert_allclose(some.confidence, tracked.confidence[:, order], atol=1e-3)


def test_a_query_given_twice_is_tracked_twice(tracker, frames, queries):
    output = tracker.track(frames, queries[[0, 0]])
    np.testing.assert_allclose(output.tracks[:, 0], output.tracks[:, 1], atol=1e-4)


@pytest.mark.parametrize("change", ["mirrored", "upside down", "quarter turn", "backwards"])
def test_a_changed_clip_has_changed_tracks(tracker, frames, queries, tracked, change):
    last, changed = frames.shape[1] - 1, queries.copy()
    tracks, visibility = tracked.tracks.copy(), tracked.visibility
    if change == "mirrored":
        frames, changed[:, 1], tracks[..., 0] = frames[:, :, ::-1], last - queries[:, 1], last - tracks[..., 0]
    elif change == "upside down":
        frames, changed[:, 2], tracks[..., 1] = frames[:, ::-1], last - queries[:, 2], last - tracks[..., 1]
    elif change == "quarter turn":
        frames = np.rot90(frames, axes=(2, 1))  # clockwise: x, y -> last - y, x
        changed[:, 1:] = np.stack([last - queries[:, 2], queries[:, 1]], axis=1)
        tracks = np.stack([last - tracks[..., 1], tracks[..., 0]], axis=-1)
    else:
        frames, tracks, visibility = frames[::-1], tracks[::-1], visibility[::-1]
        changed[:, 0] = len(frames) - 1 - queries[:, 0]
    output = tracker.track(np.ascontiguousarray(frames), changed)
    assert agreement(output, tracks, visibility) > 0.9
    assert (output.visibility == visibility).mean() > 0.85


def test_a_shift_of_the_picture_shifts_the_tracks(tracker, frames, queries):
    inside = (np.abs(queries[:, 1:] - 127.5) < 80).all(axis=1)
    shift = np.array([8, 16], dtype=np.float32)
    there = tracker.track(np.ascontiguousarray(frames[:, 16:-16, 16:-16]), queries[inside] - [0, 16, 16])
    shifted = tracker.track(np.ascontiguousarray(frames[:, 32:, 24:-8]), queries[inside] - [0, 24, 32])
    assert agreement(shifted, there.tracks - shift, there.visibility) > 0.9


@pytest.mark.parametrize("size", [(120, 88), (97, 131), (8, 8), (40, 600)])
def test_frames_of_any_size(tracker, frames, size):
    rows, columns = (np.arange(side) * 256 // side for side in size)
    cut = frames[:3, rows][:, :, columns]
    output = tracker.track(cut, [[0, size[1] / 2, size[0] / 2], [2, 0, 0]])
    assert output.frame_size == size
    assert output.tracks.shape == (3, 2, 2)
    assert np.isfinite(output.tracks).all()


def test_positions_are_in_pixels_of_the_original(tracker, frames, queries, tracked):
    """Frames of three times the size are read at 512 pixels."""
    large = frames.repeat(3, axis=1).repeat(3, axis=2)
    scaled = queries.copy()
    scaled[:, 1:] = queries[:, 1:] * 3 + 1
    output = tracker.track(large, scaled)
    assert agreement(output, tracked.tracks * 3 + 1, tracked.visibility) > 0.6
    both = output.visibility & tracked.visibility
    assert np.median(np.linalg.norm(output.tracks - (tracked.tracks * 3 + 1), axis=-1)[both]) < 2


@pytest.mark.parametrize("times", [1, 2, 19])
def test_clips_of_any_length(tracker, clip, times):
    output = tracker.track(clip.read_frames()[:times], [[times - 1, 100, 120], [0, 30, 40]])
    assert output.tracks.shape == (times, 2, 2)
    assert output.visibility[times - 1, 0]
    assert output.visibility[0, 1]


def test_no_queries_and_a_thousand(tracker, frames):
    none = tracker.track(frames[:3], np.zeros((0, 3)))
    assert none.tracks.shape == (3, 0, 2)
    random = np.random.default_rng(0)
    many = np.concatenate([np.zeros((1000, 1)), random.uniform(0, 255, (1000, 2))], axis=1)
    output = tracker.track(frames[:3], many)
    assert output.tracks.shape == (3, 1000, 2)
    few = tracker.track(frames[:3], many[[3, 700, 999]])
    np.testing.assert_allclose(output.tracks[:, [3, 700, 999]], few.tracks, atol=5e-3)


def test_progress_ends_at_the_total(tracker, frames, queries):
    seen = []
    tracker.track(frames[:3], queries[queries[:, 0] < 3][:2], progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("frames", "queries", "message"),
    [
        (
            np.zeros((0, 32, 32, 3), np.uint8),
            [[0, 1, 1]],
            r"frames: expected at least one frame.*found \(0, 32, 32, 3\)",
        ),
        (np.zeros((2, 3, 32, 32), np.uint8), [[0, 1, 1]], r"frames: .*found \(2, 3, 32, 32\) uint8"),
        (np.zeros((2, 32, 32, 3), np.float32), [[0, 1, 1]], r"frames: .*found .*float32"),
        (np.zeros((2, 32, 32, 3), np.uint8), [[0, 40, 1]], r"query_points: expected x in -0.5..31.5"),
        (np.zeros((2, 32, 32, 3), np.uint8), [[2, 4, 1]], r"query_points: expected t as the whole number"),
        (np.zeros((2, 32, 32, 3), np.uint8), [[0, np.nan, 1]], r"query_points: expected finite numbers"),
        (np.zeros((2, 32, 32, 3), np.uint8), [[1, 2, 3, 4]], r"query_points: expected numbers of shape"),
    ],
)
def test_invalid_inputs_are_refused(tracker, frames, queries, message):
    with pytest.raises(ValueError, match=message):
        tracker.track(frames, queries)


def test_the_size_that_is_read():
    assert read_size((256, 256), 512) == (256, 256)
    assert read_size((480, 854), 512) == (288, 512)
    assert read_size((97, 131), 512) == (96, 128)
    assert read_size((3, 2000), 512) == (16, 512)


def test_calibration_scales_and_shifts_the_logit():
    probability = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(calibrated(probability, (1.0, 0.0)), probability, rtol=1e-5)
    expected = torch.sigmoid(torch.logit(torch.tensor(probability)) * 0.5 + 0.3)
    np.testing.assert_allclose(calibrated(probability, (0.5, 0.3)), expected, rtol=1e-5)


def test_the_networks_run_in_single_precision_for_towers_of_any_precision(frames, queries, tracked):
    model = AutoModel.from_pretrained(modeling_sen.SEN_TINY_TRACKING, dtype=torch.bfloat16)
    assert {each.dtype for each in model.network.parameters()} == {torch.float32}
    assert {each.dtype for each in model.sen.parameters()} == {torch.bfloat16}
    assert agreement(model.track(frames, queries), tracked.tracks, tracked.visibility) > 0.95
