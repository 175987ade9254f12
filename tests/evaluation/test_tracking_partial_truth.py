"""Metrics for real clips: against loops over points and frames, by hand, and what they refuse."""

import math

import numpy as np
import pytest

from modeling_sen.evaluation.tracking_partial_truth import box_metrics, cycle_metrics, joint_accuracy, mask_metrics

SIZE = (20, 30)


def a_clip(seed, num_frames=6, num_points=8):
    """Masks of two objects, each absent from some frames; points that start on them and wander, out of the picture too."""
    draw = np.random.default_rng(seed)
    masks = np.zeros((num_frames, *SIZE), dtype=np.uint8)
    for number, mask in enumerate(masks):
        x = 2 + number
        mask[3:12, x : x + 8] = 1
        if number != 3:
            mask[8:18, x + 6 : x + 14] = 2
    frames = draw.choice([0, 1, 4], num_points)
    queries = np.empty((num_points, 3))
    for number, frame in enumerate(frames):
        rows, columns = np.nonzero(masks[frame])
        chosen = draw.integers(len(rows))
        queries[number] = frame, columns[chosen] + draw.uniform(-0.49, 0.49), rows[chosen] + draw.uniform(-0.49, 0.49)
    tracks = queries[:, 1:] + draw.normal(0, 4, (num_frames, num_points, 2))
    return tracks, draw.random((num_frames, num_points)) < 0.7, queries, masks


def share(values):
    return sum(values) / len(values) if values else math.nan


@pytest.mark.parametrize("seed", range(5))
def test_masks_as_in_a_loop(seed):
    tracks, seen, queries, masks = a_clip(seed)
    inside, visible = [], []
    for frame, point in np.ndindex(seen.shape):
        start, x, y = queries[point]
        of = masks[int(start)][round(y), round(x)]
        if frame == start or not (masks[frame] == of).any():
            continue
        visible.append(bool(seen[frame, point]))
        if seen[frame, point]:
            x, y = (round(each) for each in tracks[frame, point])
            inside.append(0 <= x < SIZE[1] and 0 <= y < SIZE[0] and masks[frame][y, x] == of)
    assert 0 < sum(inside) < len(inside)
    assert mask_metrics(tracks, seen, queries, masks) == pytest.approx(
        {"inside": share(inside), "predicted_visible": share(visible)}
    )


def test_another_object_is_not_the_points_own():
    masks = np.ones((2, 4, 4), dtype=np.uint8)
    masks[1] = 2
    masks[1, 0, 0] = 1  # present
    tracks, queries = np.full((2, 1, 2), 2.0), np.array([[0, 2, 2]])
    seen = np.ones((2, 1), dtype=bool)
    assert mask_metrics(tracks, seen, queries, masks) == {"inside": 0.0, "predicted_visible": 1.0}
    masks[1, 0, 0] = 2
    assert all(math.isnan(number) for number in mask_metrics(tracks, seen, queries, masks).values())
    masks[1, 0, 0] = 1
    hidden = mask_metrics(tracks, np.array([[True], [False]]), queries, masks)
    assert math.isnan(hidden["inside"])
    assert hidden["predicted_visible"] == 0


@pytest.mark.parametrize("direction", [1, -1])
def test_a_rotated_box_by_hand(direction):
    diamond = np.array([[5, 0], [10, 5], [5, 10], [0, 5]])[::direction]
    corners = np.stack([diamond, diamond, diamond + np.array([100, 0])])
    tracks = np.array([[[5, 5], [5, 5], [5, 5]], [[8, 5], [9, 9], [5, 0]], [[105, 7], [101, 1], [5, 5]]])
    seen = np.ones((3, 3), dtype=bool)
    queries = np.array([[0, 5, 5], [0, 5, 5], [1, 5, 0]])
    # Of the others: (8, 5) in, (9, 9) out; (105, 7) in, (101, 1) out, (5, 5) out of the moved box; of the last, frame 0 in.
    assert box_metrics(tracks, seen, queries, corners) == pytest.approx({"inside": 3 / 6, "predicted_visible": 1})
    seen[:, 1] = False
    assert box_metrics(tracks, seen, queries, corners) == pytest.approx({"inside": 3 / 4, "predicted_visible": 4 / 6})


def test_joints_by_hand():
    masks = np.zeros((3, 20, 20), dtype=np.uint8)
    masks[:, :10, :10] = 3  # area 100: joints within 2 pixels
    masks[2, :, :5] = 1  # area 150: within 2.449
    truth = np.zeros((3, 3, 2))
    truth[0, 1] = truth[1, 2] = np.nan
    seen = np.isfinite(truth[..., 0])
    predicted = np.zeros((3, 3, 2))
    predicted[1] = [[1.9, 0], [0, 2], [9, 9]]
    predicted[2] = [[0, 2.4], [1.8, 1.8], [0, 0]]
    queries = np.array([[0, 0, 0], [2, 0, 0], [0, 0, 0]])
    # Of the first: near, near. The second starts in the last frame; frame 1 is at the threshold, which is not near.
    # The third is seen in the last frame alone beside its own.
    assert joint_accuracy(predicted, truth, seen, queries, masks) == pytest.approx(3 / 4)
    assert math.isnan(joint_accuracy(predicted, truth, np.zeros((3, 3), dtype=bool), queries, masks))


def test_a_cycle_by_hand():
    queries = np.array([[0, 10, 10], [0, 20, 20], [0, 30, 30], [0, 0, 0]])
    returned = np.array([[10.5, 10], [20, 22], [30, 34], [np.nan, np.nan]])
    seen = np.array([True, True, True, False])
    # 512 wide, 128 high: x halves, y doubles.
    found = cycle_metrics(queries, returned, seen, (128, 512))
    assert found == pytest.approx({"cycle_median": 4, "cycle_within_4": 1 / 3, "cycle_seen": 3 / 4})
    assert cycle_metrics(queries, returned, seen, (128, 512), 9)["cycle_within_9"] == 1
    none = cycle_metrics(queries, returned, np.zeros(4, dtype=bool), (128, 512))
    assert none["cycle_seen"] == 0
    assert math.isnan(none["cycle_median"])
    assert math.isnan(none["cycle_within_4"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "masks",
            np.zeros((6, 20, 30)),
            r"masks: expected integers of shape \(6, H, W\), found float64 \(6, 20, 30\)",
        ),
        (
            "masks",
            np.ones((5, 20, 30), int),
            r"masks: expected integers of shape \(6, H, W\), found int64 \(5, 20, 30\)",
        ),
        (
            "masks",
            np.zeros((6, 20, 30), int),
            "queries: expected points on an object, found query 0 on the background",
        ),
        ("tracks", np.full((6, 8, 2), np.nan), "tracks: expected finite positions"),
        ("visibility", np.ones((6, 8)), r"visibility: expected bool of shape \(6, 8\), found float64"),
        ("queries", np.full((8, 3), 6), r"queries: expected whole frame numbers t in 0\.\.5, found 6"),
    ],
)
def test_invalid_masks_are_refused(name, value, message):
    given = dict(zip(("tracks", "visibility", "queries", "masks"), a_clip(0), strict=True))
    with pytest.raises(ValueError, match=message):
        mask_metrics(**{**given, name: value})


def test_invalid_boxes_and_joints_are_refused():
    tracks, seen, queries, masks = a_clip(0)
    with pytest.raises(ValueError, match=r"corners: expected shape \(6, 4, 2\), found \(6, 8\)"):
        box_metrics(tracks, seen, queries, np.zeros((6, 8)))
    with pytest.raises(ValueError, match=r"masks: expected shape \(6, H, W\), found \(20, 30\)"):
        joint_accuracy(tracks, tracks, seen, queries, masks[0])
    with pytest.raises(ValueError, match="tracks of visible joints: expected finite positions"):
        joint_accuracy(tracks, np.where(seen[..., None], np.nan, tracks), seen, queries, masks)
    with pytest.raises(ValueError, match=r"returned, seen: expected shapes \(8, 2\) and \(8,\) bool"):
        cycle_metrics(queries, tracks[0], np.ones(8), SIZE)
    with pytest.raises(ValueError, match="returned: expected finite positions"):
        cycle_metrics(queries, np.full((8, 2), np.inf), np.ones(8, dtype=bool), SIZE)
