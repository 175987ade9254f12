# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of point tracking as functions of arrays: TAP-Vid's (average Jaccard, positions within a threshold, occlusion
accuracy), OmniMotion's temporal coherence, and the first two after re-appearance.

Coordinates are x, y in pixels of the original frames, with pixel centres at whole numbers. Distances are in pixels of a
256 x 256 frame: a difference in x is multiplied by 256 / width, one in y by 256 / height. This is the raster scaling of
TAP-Vid's own code; the alternative scaling by 255 / (width - 1) is not supported. Raster coordinates have their origin at the
corner of the first pixel; the resulting offset of half a pixel cancels in differences.
"""

from collections.abc import Mapping, Sequence

import numpy as np

THRESHOLDS = (1, 2, 4, 8, 16)  # pixels at 256 x 256
METRIC_SIZE = 256
QUERY_MODES = ("first", "strided")
QUERY_STRIDE = 5  # frames


def tracking_metrics(
    predicted_tracks: np.ndarray,
    predicted_visibility: np.ndarray,
    tracks: np.ndarray,
    visibility: np.ndarray,
    queries: np.ndarray,
    frame_size: tuple[int, int],
    query_mode: str,
    annotated: np.ndarray | None = None,
) -> dict[str, float]:
    """Metrics of one clip. The metrics of a data set are the means over its clips, see `mean_over_clips`.

    Args:
        predicted_tracks: (T, N, 2) x, y, one track for each query.
        predicted_visibility: (T, N) bool.
        tracks: (T, N, 2), the true x, y. They may be NaN where the point is hidden, because no metric uses them there.
        visibility: (T, N) bool, the truth.
        queries: (N, 3) t, x, y; t in 0..T-1. Only t is used.
        frame_size: (height, width) of the frames to which the coordinates refer.
        query_mode: "first" evaluates the frames after the query, "strided" all frames except the query's. Metrics of
            different modes are not comparable.
        annotated: (T,) bool, frames for which the truth is known; by default all. Other frames are left out.

    Returns:
        In 0..1, higher is better, each pooled over points and frames:
        - `occlusion_accuracy`: share of correctly predicted visibilities.
        - `pts_within_1` .. `pts_within_16`: share of truly visible points whose position error is strictly below the
          threshold, regardless of predicted visibility. `average_pts_within_thresh` is their mean.
        - `jaccard_1` .. `jaccard_16`: true positives / (truly visible + false positives). A true positive is truly visible,
          predicted visible and within the threshold. A false positive is predicted visible, and truly hidden or too far; a
          truly visible point that is too far counts in both terms of the denominator. `average_jaccard` is their mean.
        - `average_pts_within_thresh_reappeared`, `average_jaccard_reappeared`: the same over the frames starting at a point's
          first re-appearance, the first frame where it is visible with a hidden frame between it and the query. These two are
          defined here. TAPNext++'s AJ_RD averages over re-appearances and their minimum durations instead.

        `temporal_coherence`, lower is better: the mean length, in pixels at 256 x 256, of the difference between the
        predicted and the true second differences of position, over triples of consecutive frames in which the point is truly
        visible. It does not depend on query mode and predicted visibility.

        A metric without data is NaN: no frame after the query, no visible point, no point that re-appears.

    Raises:
        ValueError: inconsistent shapes, no query, positions that are not finite (true ones only where the point is visible),
            visibility that is not bool, a query frame outside the clip, or an unknown query mode.
    """
    check_query_mode(query_mode)
    tracks, visibility = checked_tracks("tracks", tracks, "visibility", visibility)
    predicted, predicted_visible = checked_tracks(
        "predicted_tracks", predicted_tracks, "predicted_visibility", predicted_visibility
    )
    check_finite("predicted_tracks", predicted)
    check_finite("tracks of visible points", tracks[visibility])
    if predicted.shape != tracks.shape:
        raise ValueError(f"predicted_tracks: expected the shape of tracks {tracks.shape}, found {predicted.shape}")
    query_frames = checked_query_frames(queries, *visibility.shape)
    has_truth = _checked_annotated(annotated, len(tracks))
    offset = (predicted - tracks) * metric_scale(frame_size)  # (T, N, 2), pixels at 256 x 256

    evaluated = _evaluated(query_frames, has_truth, query_mode)
    reappeared = evaluated & _from_reappearance(visibility, query_frames, has_truth)
    squared = np.square(offset).sum(axis=-1)
    whole = _within_thresholds(squared, visibility, predicted_visible, evaluated)
    after = _within_thresholds(squared, visibility, predicted_visible, reappeared)
    averages = ("average_jaccard", "average_pts_within_thresh")
    return {
        **{name: whole[name] for name in averages},
        "occlusion_accuracy": share_of(predicted_visible == visibility, evaluated),
        "temporal_coherence": _temporal_coherence(offset, visibility & has_truth),
        **{f"{name}_reappeared": after[name] for name in averages},
        **{name: number for name, number in whole.items() if name not in averages},
    }


def mean_over_clips(clips: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the clips where it is not NaN; NaN if there is none. All clips have equal weight, regardless
    of their number of points.

    Raises:
        ValueError: no clips.
    """
    if not clips:
        raise ValueError("clips: expected the metrics of at least one clip, found none")
    columns = {name: np.array([clip[name] for clip in clips]) for name in clips[0]}
    return {name: share_of(column, ~np.isnan(column)) for name, column in columns.items()}


def standard_errors(clips: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Standard error of each mean of `mean_over_clips`: standard deviation (n - 1) divided by the square root of n, over the
    clips where the metric is not NaN; NaN for fewer than two such clips.

    Raises:
        ValueError: no clips.
    """
    if not clips:
        raise ValueError("clips: expected the metrics of at least one clip, found none")
    errors = {}
    for name in clips[0]:
        column = np.array([clip[name] for clip in clips])
        column = column[~np.isnan(column)]
        errors[name] = float(column.std(ddof=1) / np.sqrt(len(column))) if len(column) > 1 else float("nan")
    return errors


def evaluated_frames(
    queries: np.ndarray, num_frames: int, query_mode: str, annotated: np.ndarray | None = None
) -> np.ndarray:
    """(T, N) bool: the frames in which `tracking_metrics` evaluates each of the queries (N, 3) t, x, y.

    Raises:
        ValueError: a query frame outside the clip, an unknown query mode, or `annotated` of another shape.
    """
    check_query_mode(query_mode)
    query_frames = checked_query_frames(queries, num_frames, len(queries))
    return _evaluated(query_frames, _checked_annotated(annotated, num_frames), query_mode)


def found_points(
    predicted_tracks: np.ndarray,
    tracks: np.ndarray,
    visibility: np.ndarray,
    frame_size: tuple[int, int],
    threshold: float = 4,
) -> np.ndarray:
    """(T, N) bool: the point is truly visible, and the error of its predicted position is below the threshold.

    Args:
        predicted_tracks, tracks: (T, N, 2) x, y.
        visibility: (T, N) bool, the truth.
        frame_size: (height, width) of the frames to which the coordinates refer.
        threshold: pixels at 256 x 256.
    """
    offset = (np.asarray(predicted_tracks, dtype=np.float64) - tracks) * metric_scale(frame_size)
    return visibility & (np.square(offset).sum(axis=-1) < threshold**2)


def sample_queries(tracks: np.ndarray, visibility: np.ndarray, query_mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples TAP-Vid's queries from true tracks.

    Args:
        tracks: (T, N, 2) x, y.
        visibility: (T, N) bool.
        query_mode: "first" queries each track at its first visible frame, in the order of tracks. "strided" queries, at
            frames 0, 5, 10, ..., each track that is visible there. Tracks without such a frame have no query.

    Returns:
        queries: (Q, 3) float t, x, y, in the dtype of tracks; Q may be 0.
        track_numbers: (Q,) int64, the track of each query: `tracks[:, track_numbers]` is the truth of `queries`.

    Raises:
        ValueError: inconsistent shapes, no tracks, or an unknown query mode.
    """
    check_query_mode(query_mode)
    checked_tracks("tracks", tracks, "visibility", visibility)
    tracks, visibility = np.asarray(tracks), np.asarray(visibility)
    if query_mode == "first":
        numbers = np.flatnonzero(visibility.any(axis=0))
        frames = visibility.argmax(axis=0)[numbers]
    else:
        strides, numbers = np.nonzero(visibility[::QUERY_STRIDE])
        frames = strides * QUERY_STRIDE
    return np.concatenate([frames[:, None], tracks[frames, numbers]], axis=1).astype(tracks.dtype), numbers


def _within_thresholds(
    squared: np.ndarray, visible: np.ndarray, predicted_visible: np.ndarray, evaluated: np.ndarray
) -> dict[str, float]:
    """Shares and Jaccard indices over the evaluated frames; all arguments are (T, N)."""
    numbers: dict[str, float] = {}
    for threshold in THRESHOLDS:
        within = squared < threshold**2  # False where the truth is NaN
        true_positives = within & visible & predicted_visible & evaluated
        false_positives = ~(within & visible) & predicted_visible & evaluated
        found = (visible & evaluated).sum() + false_positives.sum()
        numbers[f"pts_within_{threshold}"] = share_of(within, visible & evaluated)
        numbers[f"jaccard_{threshold}"] = float(true_positives.sum() / found) if found else float("nan")
    for average, name in (("average_pts_within_thresh", "pts_within"), ("average_jaccard", "jaccard")):
        numbers[average] = float(np.mean([numbers[f"{name}_{threshold}"] for threshold in THRESHOLDS]))
    return numbers


def _evaluated(query_frames: np.ndarray, has_truth: np.ndarray, query_mode: str) -> np.ndarray:
    """(T, N) bool, from query frames (N,) and annotated frames (T, 1) bool."""
    frames = np.arange(len(has_truth))[:, None]
    return (frames > query_frames if query_mode == "first" else frames != query_frames) & has_truth


def _from_reappearance(visible: np.ndarray, query_frames: np.ndarray, has_truth: np.ndarray) -> np.ndarray:
    """(T, N) bool: frames starting at the first re-appearance after the query, in both directions of time."""
    frames = np.arange(len(visible))[:, None]

    def later(visible: np.ndarray, has_truth: np.ndarray, after_query: np.ndarray) -> np.ndarray:
        was_hidden = np.logical_or.accumulate(~visible & has_truth & after_query, axis=0)
        return np.logical_or.accumulate(was_hidden & visible & has_truth, axis=0)

    forward = later(visible, has_truth, frames > query_frames)
    backward = later(visible[::-1], has_truth[::-1], (frames < query_frames)[::-1])[::-1]
    return forward | backward


def _temporal_coherence(offset: np.ndarray, visible: np.ndarray) -> float:
    # The second difference of the offsets is the difference of the second differences.
    acceleration = np.linalg.norm(offset[2:] - 2 * offset[1:-1] + offset[:-2], axis=-1)  # (T - 2, N)
    return share_of(acceleration, visible[2:] & visible[1:-1] & visible[:-2])


def share_of(values: np.ndarray, counted: np.ndarray) -> float:
    """Mean of the values where `counted`; NaN if there is none."""
    return float(values[counted].mean()) if counted.any() else float("nan")


def metric_scale(frame_size: tuple[int, int]) -> np.ndarray:
    size = np.asarray(frame_size)
    if size.shape != (2,) or size.dtype.kind not in "iu" or (size < 1).any():
        raise ValueError(f"frame_size: expected (height, width) in pixels, found {frame_size!r}")
    return METRIC_SIZE / size[::-1]  # x, y


def checked_tracks(
    tracks_name: str, tracks: np.ndarray, visibility_name: str, visibility: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    tracks, visibility = np.asarray(tracks), np.asarray(visibility)
    if tracks.ndim != 3 or tracks.shape[2] != 2 or tracks.dtype.kind not in "fiu":
        raise ValueError(
            f"{tracks_name}: expected numbers of shape (frames, points, 2), found {tracks.dtype} {tracks.shape}"
        )
    if 0 in tracks.shape:
        raise ValueError(f"{tracks_name}: expected at least one frame and one point, found shape {tracks.shape}")
    if visibility.shape != tracks.shape[:2] or visibility.dtype != bool:
        raise ValueError(
            f"{visibility_name}: expected bool of shape {tracks.shape[:2]}, found {visibility.dtype} {visibility.shape}"
        )
    return tracks.astype(np.float64), visibility


def check_finite(name: str, positions: np.ndarray) -> None:
    if not np.isfinite(positions).all():
        raise ValueError(f"{name}: expected finite positions, found NaN or infinity")


def checked_query_frames(queries: np.ndarray, num_frames: int, num_points: int) -> np.ndarray:
    queries = np.asarray(queries, dtype=np.float64)
    if queries.shape != (num_points, 3):
        raise ValueError(f"queries: expected t, x, y of shape ({num_points}, 3), found shape {queries.shape}")
    frames = queries[:, 0]
    for frame in frames[~np.isin(frames, np.arange(num_frames))]:
        raise ValueError(f"queries: expected whole frame numbers t in 0..{num_frames - 1}, found {frame:g}")
    return frames.astype(np.int64)


def _checked_annotated(annotated: np.ndarray | None, num_frames: int) -> np.ndarray:
    """(T, 1) bool."""
    checked = np.ones(num_frames, dtype=bool) if annotated is None else np.asarray(annotated)
    if checked.shape != (num_frames,) or checked.dtype != bool:
        raise ValueError(f"annotated: expected bool of shape ({num_frames},), found {checked.dtype} {checked.shape}")
    return checked[:, None]


def check_query_mode(query_mode: str) -> None:
    """Raises ValueError unless the mode is "first" or "strided"."""
    if query_mode not in QUERY_MODES:
        raise ValueError(f"query_mode is {query_mode!r}, expected one of {', '.join(QUERY_MODES)}")
