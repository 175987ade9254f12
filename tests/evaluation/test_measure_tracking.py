"""Measuring a tracker: the numbers of clips and their means, seconds, calibration; runs that go on."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from modeling_sen.evaluation.clip_results import ClipResults
from modeling_sen.evaluation.measure_tracking import measure_tracking
from modeling_sen.evaluation.tracking_calibration import calibration_error
from modeling_sen.evaluation.tracking_data import TrackedClip
from modeling_sen.evaluation.tracking_metrics import mean_over_clips, standard_errors, tracking_metrics
from modeling_sen.evaluation.tracking_sets import TrackingSet


def make_clip(seed, num_frames=6, num_points=5, size=(32, 64), annotated=None):
    draw = np.random.default_rng(seed)
    visibility = draw.random((num_frames, num_points)) < 0.7
    visibility[seed % 2] = True
    tracks = (draw.random((num_frames, num_points, 2)) * (64, 32)).astype(np.float32)
    first = visibility.argmax(axis=0)
    queries = np.concatenate([first[:, None], tracks[first, np.arange(num_points)]], axis=1)
    frames = np.full((num_frames, *size, 3), seed, dtype=np.uint8)
    return TrackedClip(f"clip{seed}", queries, tracks, visibility, size, "first", annotated, frames)


def track(frames, queries):
    """Random positions near the truth, of the seed in the pixels."""
    truth = make_clip(int(frames[0, 0, 0, 0]), len(frames), len(queries))
    draw = np.random.default_rng(100 + int(frames[0, 0, 0, 0]))
    shape = truth.visibility.shape
    return SimpleNamespace(
        tracks=truth.tracks + draw.normal(0, 1.5, (*shape, 2)),
        visibility=draw.random(shape) < 0.6,
        confidence=draw.random(shape),
    )


def a_set(*seeds, source="some", **settings):
    clips = [make_clip(seed, **settings) for seed in seeds]
    return TrackingSet(source, [f"{source}{seed}" for seed in seeds], clips.__getitem__)


def test_numbers_are_the_means_of_those_of_the_clips(tmp_path):
    ticks = itertools.count()
    sets = [a_set(0, 1, 2), a_set(3, source="other")]
    found = measure_tracking(track, sets, ClipResults(tmp_path / "clips.json"), clock=lambda: next(ticks) ** 2)
    assert found["data"] == [
        {"source": "some", "clips": 3, "queries": 15},
        {"source": "other", "clips": 1, "queries": 5},
    ]
    clips = [make_clip(seed) for seed in range(3)]
    expected, right, confidence = [], [], []
    for clip in clips:
        output = track(clip.read_frames(), clip.queries)
        expected.append(
            tracking_metrics(
                output.tracks, output.visibility, clip.tracks, clip.visibility, clip.queries, (32, 64), "first"
            )
        )
        for frame, point in np.ndindex(clip.visibility.shape):
            if frame > clip.queries[point, 0]:
                x, y = (output.tracks - clip.tracks)[frame, point] * (256 / 64, 256 / 32)
                right.append(bool(clip.visibility[frame, point] and x * x + y * y < 16))
                confidence.append(output.confidence[frame, point])
    split = found["splits"][0]
    for name, number in mean_over_clips(expected).items():
        assert split[name] == pytest.approx(number, nan_ok=True)
        assert split["standard_errors"][name] == pytest.approx(standard_errors(expected)[name], nan_ok=True)
    assert 0 < sum(right) < len(right)
    assert split["calibration_error"] == pytest.approx(calibration_error(np.array(confidence), np.array(right)))
    assert split["seconds"] == pytest.approx(np.mean([1, 9 - 4, 25 - 16]))
    assert math.isnan(found["splits"][1]["standard_errors"]["average_jaccard"])
    both = [part["average_jaccard"] for part in found["splits"]]
    assert found["mean"]["average_jaccard"] == pytest.approx(np.mean(both))
    assert found["std"]["average_jaccard"] == pytest.approx(np.std(both, ddof=1))


def test_frames_without_truth_do_not_count_for_calibration(tmp_path):
    annotated = np.array([True, True, False, True, False, False])

    def sure_of_the_unknown(frames, queries):
        output = track(frames, queries)
        output.confidence = np.where(annotated[:, None], 0.0, 1.0) + np.zeros_like(output.confidence)
        return output

    results = ClipResults(tmp_path / "clips.json")
    found = measure_tracking(sure_of_the_unknown, [a_set(0, 2, annotated=annotated)], results)
    bins = np.sum([row["calibration"] for row in results.rows.values()], axis=0)
    after = [np.arange(6)[:, None] > make_clip(seed).queries[:, 0] for seed in (0, 2)]
    assert bins[0, 0] == sum((frames & annotated[:, None]).sum() for frames in after)
    assert bins[1:].sum() == 0
    assert found["splits"][0]["calibration_error"] == pytest.approx(bins[0, 2] / bins[0, 0])


def test_an_interrupted_run_resumes(tmp_path):
    calls = []

    def interrupted(frames, queries):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(int(frames[0, 0, 0, 0]))
        return track(frames, queries)

    file = tmp_path / "clips.json"
    with pytest.raises(KeyboardInterrupt):
        measure_tracking(interrupted, [a_set(0, 1, 2)], ClipResults(file))
    assert list(ClipResults(file).rows) == ["some0", "some1"]

    def counted(frames, queries):
        calls.append(int(frames[0, 0, 0, 0]))
        return track(frames, queries)

    whole = measure_tracking(track, [a_set(0, 1, 2)], ClipResults(tmp_path / "whole.json"))
    again = measure_tracking(counted, [a_set(0, 1, 2)], ClipResults(file))
    assert calls == [0, 1, 2]
    for name, number in whole["splits"][0].items():
        if name not in ("source", "seconds", "standard_errors"):
            assert again["splits"][0][name] == pytest.approx(number, nan_ok=True), name
    measure_tracking(counted, [a_set(0, 1, 2)], ClipResults(file))
    assert calls == [0, 1, 2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tracks": np.zeros((5, 5, 2))}, "predicted_visibility: expected bool of shape \\(5, 5\\), found bool \\(6, 5\\)"),
        ({"visibility": np.zeros((6, 5))}, "predicted_visibility: expected bool of shape"),
        ({"confidence": np.zeros((6, 4))}, "confidence: expected shape \\(6, 5\\), found \\(6, 4\\)"),
        ({"confidence": np.full((6, 5), 2.0)}, "confidence: expected 0..1, found 2 .. 2"),
    ],
)  # fmt: skip
def test_tracks_of_another_form_are_refused_and_not_kept(tmp_path, changed, message):
    def wrong(frames, queries):
        return SimpleNamespace(**{**vars(track(frames, queries)), **changed})

    with pytest.raises(ValueError, match=message):
        measure_tracking(wrong, [a_set(0)], ClipResults(tmp_path / "clips.json"))
    assert not (tmp_path / "clips.json").exists()


def test_no_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sets: expected at least one, found none"):
        measure_tracking(track, [], ClipResults(tmp_path / "clips.json"))
