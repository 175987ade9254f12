"""Tracking metrics against their definitions written out with loops, cases by hand, and the conventions of TAP-Vid."""

import math

import numpy as np
import pytest

from modeling_sen.evaluation.tracking_metrics import mean_over_clips, sample_queries, standard_errors, tracking_metrics

MODES = ("first", "strided")
SQUARE = (256, 256)


def evaluated_frames(query_frame, num_frames, mode):
    return [frame for frame in range(num_frames) if (frame > query_frame if mode == "first" else frame != query_frame)]


def frames_after_reappearance(visible, query_frame, mode):
    """Frame numbers; `visible` is a list of one point's visibility."""
    found = []
    directions = [range(query_frame + 1, len(visible))]
    if mode == "strided":
        directions.append(range(query_frame - 1, -1, -1))
    for direction in directions:
        state = "not hidden yet"
        for frame in direction:
            if state == "not hidden yet" and not visible[frame]:
                state = "hidden"
            elif state == "hidden" and visible[frame]:
                state = "back"
            if state == "back":
                found.append(frame)
    return found


def pooled_numbers(predicted, predicted_visible, truth, visible, frames_of, height, width):
    """Jaccard indices and shares within the thresholds by counting; `frames_of[point]` lists the frames that count."""
    found = {}
    for threshold in (1, 2, 4, 8, 16):
        true_positive = false_positive = false_negative = near = seen = 0
        for point, frames in enumerate(frames_of):
            for frame in frames:
                x = (predicted[frame, point, 0] - truth[frame, point, 0]) * 256 / width
                y = (predicted[frame, point, 1] - truth[frame, point, 1]) * 256 / height
                close = math.hypot(x, y) < threshold
                hit = bool(close and visible[frame, point] and predicted_visible[frame, point])
                true_positive += hit
                false_positive += bool(predicted_visible[frame, point]) and not hit
                false_negative += bool(visible[frame, point]) and not hit
                seen += bool(visible[frame, point])
                near += bool(close and visible[frame, point])
        total = true_positive + false_positive + false_negative
        found[f"jaccard_{threshold}"] = true_positive / total if total else math.nan
        found[f"pts_within_{threshold}"] = near / seen if seen else math.nan
    found["average_jaccard"] = sum(found[f"jaccard_{each}"] for each in (1, 2, 4, 8, 16)) / 5
    found["average_pts_within_thresh"] = sum(found[f"pts_within_{each}"] for each in (1, 2, 4, 8, 16)) / 5
    return found


def reference(predicted, predicted_visible, truth, visible, queries, frame_size, mode):
    height, width = frame_size
    num_frames, num_points = visible.shape
    starts = [round(float(query[0])) for query in queries]
    frames_of = [evaluated_frames(start, num_frames, mode) for start in starts]
    found = pooled_numbers(predicted, predicted_visible, truth, visible, frames_of, height, width)
    back = [frames_after_reappearance(visible[:, point].tolist(), starts[point], mode) for point in range(num_points)]
    after = pooled_numbers(predicted, predicted_visible, truth, visible, back, height, width)
    for name in ("average_jaccard", "average_pts_within_thresh"):
        found[f"{name}_reappeared"] = after[name]
    right = [
        predicted_visible[frame, point] == visible[frame, point]
        for point, frames in enumerate(frames_of)
        for frame in frames
    ]
    found["occlusion_accuracy"] = sum(right) / len(right) if right else math.nan
    lengths = []
    for point in range(num_points):
        for frame in range(1, num_frames - 1):
            if visible[frame - 1 : frame + 2, point].all():
                bend = [
                    path[frame + 1, point] - path[frame, point] - (path[frame, point] - path[frame - 1, point])
                    for path in (predicted, truth)
                ]
                x, y = bend[0] - bend[1]
                lengths.append(math.hypot(x * 256 / width, y * 256 / height))
    found["temporal_coherence"] = sum(lengths) / len(lengths) if lengths else math.nan
    return found


def random_clip(seed):
    rng = np.random.default_rng(seed)
    num_frames, num_points = int(rng.integers(1, 13)), int(rng.integers(1, 7))
    frame_size = tuple(int(each) for each in rng.integers(40, 700, 2))
    truth = rng.random((num_frames, num_points, 2)) * frame_size[::-1]
    visible = rng.random((num_frames, num_points)) < rng.choice([0.2, 0.5, 0.9])
    spread = rng.choice([0.3, 1, 3, 10, 30], (num_frames, num_points, 1))
    noise = rng.normal(size=truth.shape) * spread * frame_size[::-1] / 256
    return truth + noise, rng.random(visible.shape) < 0.7, truth, visible, frame_size


@pytest.mark.parametrize("mode", MODES)
def test_random_clips_equal_the_definitions(mode):
    undefined = {}
    for seed in range(60):
        predicted, predicted_visible, truth, visible, frame_size = random_clip(seed)
        queries, of = sample_queries(truth, visible, mode)
        if not len(of):
            continue
        if seed % 2:  # also queries at frames where the point is hidden, and points that are never visible
            of = np.arange(visible.shape[1])
            queries = np.concatenate([np.full((len(of), 1), seed % len(truth)), truth[seed % len(truth)]], axis=1)
        arrays = predicted[:, of], predicted_visible[:, of], truth[:, of], visible[:, of]
        found = tracking_metrics(*arrays, queries, frame_size, mode)
        expected = reference(*arrays, queries, frame_size, mode)
        assert set(found) == set(expected)
        for name, number in found.items():
            assert number == pytest.approx(expected[name], abs=1e-12, nan_ok=True), (seed, name)
            undefined[name] = undefined.get(name, 0) + math.isnan(number)
    assert all(0 < count < 50 for count in undefined.values()), "numbers and NaN were compared"


@pytest.mark.parametrize("mode", MODES)
def test_queries_equal_the_definition(mode):
    for seed in range(30):
        _, _, truth, visible, _ = random_clip(seed)
        expected = []
        if mode == "first":
            for point in range(visible.shape[1]):
                seen = [frame for frame in range(len(visible)) if visible[frame, point]]
                if seen:
                    expected.append((point, [seen[0], *truth[seen[0], point]]))
        else:
            for frame in range(0, len(visible), 5):
                for point in range(visible.shape[1]):
                    if visible[frame, point]:
                        expected.append((point, [frame, *truth[frame, point]]))
        queries, of = sample_queries(truth, visible, mode)
        assert of.tolist() == [point for point, _ in expected]
        assert queries.tolist() == [query for _, query in expected]
        assert queries.shape == (len(expected), 3)


def line(num_frames, num_points=1):
    """A point that moves one pixel a frame to the right, always visible."""
    tracks = np.zeros((num_frames, num_points, 2))
    tracks[..., 0] = 10 + np.arange(num_frames)[:, None]
    return tracks, np.ones((num_frames, num_points), dtype=bool), np.array([[0.0, 10, 0]] * num_points)


def test_a_perfect_prediction():
    tracks, visibility, queries = line(6)
    visibility[2] = False
    found = tracking_metrics(tracks, visibility, tracks, visibility, queries, SQUARE, "first")
    assert found.pop("temporal_coherence") == 0
    assert set(found.values()) == {1.0}


def test_a_small_case_by_hand():
    """Four frames after the query: on the spot, 3 px off, hidden but predicted visible, visible but predicted hidden."""
    tracks, visibility, queries = line(5)
    visibility[3] = False
    predicted, seen = tracks.copy(), np.array([[True], [True], [True], [True], [False]])
    predicted[2, 0] += (0, 3)
    found = tracking_metrics(predicted, seen, tracks, visibility, queries, SQUARE, "first")
    assert found["occlusion_accuracy"] == 2 / 4
    assert found["pts_within_2"] == pytest.approx(2 / 3)
    assert found["pts_within_4"] == 1.0
    assert found["average_pts_within_thresh"] == pytest.approx((2 / 3 * 2 + 3) / 5)
    assert found["jaccard_2"] == 1 / (3 + 2)  # too far counts twice: as a false positive and as missed
    assert found["jaccard_4"] == 2 / (3 + 1)
    assert found["average_jaccard"] == pytest.approx((0.2 * 2 + 0.5 * 3) / 5)
    assert found["average_jaccard_reappeared"] == 0.0  # frame 4: back, and predicted hidden
    assert found["average_pts_within_thresh_reappeared"] == 1.0
    assert found["temporal_coherence"] == pytest.approx(3.0)  # frames 0 to 2, the only triple that is visible


def test_a_threshold_is_not_within_itself():
    tracks, visibility, queries = line(2)
    found = tracking_metrics(tracks + np.array([0, 4]), visibility, tracks, visibility, queries, SQUARE, "first")
    assert (found["pts_within_4"], found["pts_within_8"]) == (0.0, 1.0)


def test_distances_are_of_256_pixels_by_raster_scaling():
    """2 px of 512 are exactly 1 px of 256; scaled by 255 / 511 they would be less, and within."""
    tracks, visibility, queries = line(2)
    for size, offset in (((256, 512), (2, 0)), ((512, 256), (0, 2))):
        found = tracking_metrics(tracks + offset, visibility, tracks, visibility, queries, size, "first")
        assert (found["pts_within_1"], found["pts_within_2"]) == (0.0, 1.0)
        nearer = tracking_metrics(
            tracks + np.array(offset) * 0.999, visibility, tracks, visibility, queries, size, "first"
        )
        assert nearer["pts_within_1"] == 1.0


def test_raster_coordinates_and_ours_give_the_same_numbers():
    predicted, seen, truth, visible, size = random_clip(4)
    queries = np.zeros((visible.shape[1], 3))
    ours = tracking_metrics(predicted, seen, truth, visible, queries, size, "first")
    raster = tracking_metrics(predicted + 0.5, seen, truth + 0.5, visible, queries, size, "first")
    assert ours == pytest.approx(raster)


def test_visibility_outside_of_the_frame_is_as_given():
    """No number depends on where the frame ends: a point that leaves is hidden where both visibilities are so."""
    tracks, visibility, queries = line(6)
    far = tracks + np.array([250, 0])
    for shift in (0, 250):
        found = tracking_metrics(tracks + shift, visibility, tracks + shift, visibility, queries, SQUARE, "first")
        assert found["average_jaccard"] == 1.0
    assert tracking_metrics(far, visibility, far, ~visibility, queries, SQUARE, "first")["average_jaccard"] == 0.0


def test_first_leaves_out_what_is_before_the_query_and_strided_does_not():
    tracks, visibility, queries = line(5)
    queries[0, 0] = 2
    wrong_before = tracks.copy()
    wrong_before[:2] += 100
    arrays = wrong_before, visibility, tracks, visibility, queries, SQUARE
    assert tracking_metrics(*arrays, "first")["average_jaccard"] == 1.0
    assert tracking_metrics(*arrays, "strided")["pts_within_16"] == 2 / 4
    wrong_at_query = tracks.copy()
    wrong_at_query[2] += 100
    for mode in MODES:
        found = tracking_metrics(wrong_at_query, visibility, tracks, visibility, queries, SQUARE, mode)
        assert found["average_jaccard"] == 1.0


def test_coherence_is_the_same_in_both_modes_and_ignores_predicted_visibility():
    predicted, seen, truth, visible, size = random_clip(2)
    queries = np.tile([float(len(truth) // 2), 0, 0], (visible.shape[1], 1))
    found = {
        tracking_metrics(predicted, each, truth, visible, queries, size, mode)["temporal_coherence"]
        for mode in MODES
        for each in (seen, ~seen)
    }
    assert len(found) == 1
    assert found.pop() > 0


def test_a_constant_prediction_has_fair_accuracy_and_coherence():
    """Why neither is reported alone."""
    tracks, visibility, queries = line(24)
    still = np.broadcast_to(tracks[:1], tracks.shape)
    found = tracking_metrics(still, visibility, tracks, visibility, queries, SQUARE, "first")
    assert (found["occlusion_accuracy"], found["temporal_coherence"]) == (1.0, 0.0)
    assert found["average_pts_within_thresh"] < 0.3


def test_reappearance_before_a_strided_query():
    tracks, _, queries = line(7)
    visibility = np.array([[True], [True], [False], [True], [True], [True], [True]])
    queries[0, 0] = 5
    predicted = tracks.copy()
    predicted[1] += 100
    arrays = predicted, visibility, tracks, visibility, queries, SQUARE
    assert tracking_metrics(*arrays, "strided")["average_pts_within_thresh_reappeared"] == 1 / 2  # frames 0 and 1
    assert math.isnan(tracking_metrics(*arrays, "first")["average_pts_within_thresh_reappeared"])


def test_metrics_without_data_are_nan():
    tracks, visibility, queries = line(1)
    assert all(
        math.isnan(number)
        for mode in MODES
        for number in tracking_metrics(tracks, visibility, tracks, visibility, queries, SQUARE, mode).values()
    )


def test_a_point_never_visible_but_predicted_visible_costs_jaccard():
    tracks, visibility, queries = line(3)
    found = tracking_metrics(tracks, visibility, tracks, ~visibility, queries, SQUARE, "first")
    assert found["average_jaccard"] == 0.0
    assert math.isnan(found["average_pts_within_thresh"])
    assert math.isnan(found["temporal_coherence"])


def test_truth_may_be_nan_where_the_point_is_hidden():
    tracks, visibility, queries = line(6)
    visibility[2] = False
    unknown = np.where(visibility[..., None], tracks, np.nan)
    found = tracking_metrics(tracks, visibility, unknown, visibility, queries, SQUARE, "first")
    assert found == tracking_metrics(tracks, visibility, tracks, visibility, queries, SQUARE, "first")


def test_frames_without_annotation_are_left_out():
    tracks, visibility, queries = line(8)
    has_truth = np.array([True, False, True, True, True, False, False, True])
    visibility[~has_truth] = False
    predicted = tracks.copy()
    predicted[1] += 100
    predicted[7] += 100
    seen = np.ones_like(visibility)
    arrays = predicted, seen, tracks, visibility, queries, SQUARE, "first"
    found = tracking_metrics(*arrays, annotated=has_truth)
    assert found["occlusion_accuracy"] == 1.0
    assert found["average_jaccard"] == 3 / 5  # frames 2, 3, 4 right; 7 is a false positive, and missed
    assert found["temporal_coherence"] == 0.0
    assert math.isnan(found["average_jaccard_reappeared"]), "unknown is not hidden"
    assert tracking_metrics(*arrays)["occlusion_accuracy"] == 4 / 7


def test_clips_have_equal_weight_regardless_of_their_points():
    clips = [
        {"average_jaccard": 1.0, "x": math.nan},
        {"average_jaccard": 0.5, "x": 0.25},
        {"average_jaccard": 0.0, "x": 0.75},
    ]
    assert mean_over_clips(clips) == {"average_jaccard": 0.5, "x": 0.5}
    assert math.isnan(mean_over_clips(clips[:1])["x"])
    errors = standard_errors(clips)
    assert errors == pytest.approx({"average_jaccard": 0.5 / math.sqrt(3), "x": math.sqrt(0.125) / math.sqrt(2)})
    assert math.isnan(standard_errors(clips[:2])["x"])
    for function in (mean_over_clips, standard_errors):
        with pytest.raises(ValueError, match="at least one clip, found none"):
            function([])


GOOD = line(4, 2)


def changed(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("predicted_tracks", GOOD[0][:3], r"predicted_visibility: expected bool of shape \(3, 2\)"),
        ("predicted_tracks", GOOD[0][..., :1], r"predicted_tracks: expected numbers of shape \(frames, points, 2\)"),
        ("predicted_tracks", changed(GOOD[0], (1, 1, 0), np.nan), "predicted_tracks: expected finite positions"),
        ("predicted_tracks", changed(GOOD[0], (1, 1, 0), np.inf), "predicted_tracks: expected finite positions"),
        ("predicted_visibility", GOOD[1].astype(float), "predicted_visibility: expected bool .* found float64"),
        (
            "predicted_visibility",
            GOOD[1][:, :1],
            r"predicted_visibility: expected bool of .* found bool \(4, 1\)",
        ),
        ("tracks", changed(GOOD[0], (1, 1, 0), np.nan), "tracks of visible points: expected finite positions"),
        ("tracks", GOOD[0].transpose(1, 0, 2), r"visibility: expected bool of shape \(2, 4\)"),
        ("visibility", GOOD[1].T, r"visibility: expected bool of shape \(4, 2\), found bool \(2, 4\)"),
        ("queries", GOOD[2][:1], r"queries: expected t, x, y of shape \(2, 3\), found shape \(1, 3\)"),
        ("queries", GOOD[2][:, 1:], r"found shape \(2, 2\)"),
        ("queries", changed(GOOD[2], (1, 0), 4), r"queries: expected whole frame numbers t in 0..3, found 4"),
        ("queries", changed(GOOD[2], (1, 0), -1), "found -1"),
        ("queries", changed(GOOD[2], (1, 0), 1.5), "found 1.5"),
        ("queries", changed(GOOD[2], (1, 0), np.nan), "found nan"),
        ("frame_size", (256,), r"frame_size: expected \(height, width\)"),
        ("frame_size", (0, 256), r"frame_size: expected \(height, width\)"),
        ("query_mode", "last", "query_mode is 'last', expected one of first, strided"),
        ("annotated", np.ones(3, dtype=bool), r"annotated: expected bool of shape \(4,\)"),
        ("annotated", np.ones(4), r"annotated: expected bool of shape \(4,\), found float64"),
    ],
)
def test_bad_input_is_named(name, value, message):
    tracks, visibility, queries = GOOD
    arguments = {
        "predicted_tracks": tracks,
        "predicted_visibility": visibility,
        "tracks": tracks,
        "visibility": visibility,
        "queries": queries,
        "frame_size": SQUARE,
        "query_mode": "first",
    }
    tracking_metrics(**arguments)
    with pytest.raises(ValueError, match=message):
        tracking_metrics(**{**arguments, name: value})


def test_other_lengths_of_prediction_and_truth_and_no_query():
    short, long, none = line(4, 2), line(5, 2), np.zeros((4, 0, 2))
    with pytest.raises(
        ValueError, match=r"predicted_tracks: expected the shape of tracks \(5, 2, 2\), found \(4, 2, 2\)"
    ):
        tracking_metrics(*short[:2], *long, SQUARE, "first")
    with pytest.raises(ValueError, match="tracks: expected at least one frame and one point"):
        tracking_metrics(none, none[..., 0] > 0, none, none[..., 0] > 0, np.zeros((0, 3)), SQUARE, "first")
    with pytest.raises(ValueError, match="query_mode is None"):
        sample_queries(*short[:2], None)
    with pytest.raises(ValueError, match=r"visibility: expected bool of shape \(4, 2\)"):
        sample_queries(short[0], long[1], "first")


def test_no_visible_point_gives_no_query():
    tracks, visibility, _ = line(6, 3)
    for mode in MODES:
        queries, of = sample_queries(tracks.astype(np.float32), ~visibility, mode)
        assert (queries.shape, queries.dtype, of.shape) == ((0, 3), np.float32, (0,))
