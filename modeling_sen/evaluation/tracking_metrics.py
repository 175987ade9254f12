# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of point tracking, as plain functions of arrays: those of TAP-Vid (average Jaccard, positions within a threshold,
occlusion accuracy), temporal coherence of OmniMotion, and the first two after re-appearance.

Coordinates are x, y in pixels of the original frames, with pixel centres at whole numbers. Distances are measured in pixels
of a 256 x 256 frame: a difference in x is multiplied by 256 / width, one in y by 256 / height. This is the raster scaling of
TAP-Vid's own code; the other scaling in use, 255 / (width - 1), is not offered. Raster coordinates have their origin at the
corner of the first pixel; the half pixel between them and ours cancels in a difference.
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
    """Metrics of one clip. The numbers of a data set are the mean over its clips: `mean_over_clips`.

    Args:
        predicted_tracks: (T, N, 2) x, y, one track for each query.
        predicted_visibility: (T, N) bool.
        tracks: (T, N, 2) the true x, y. May be NaN where the point is hidden: no metric reads them there.
        visibility: (T, N) bool, the truth.
        queries: (N, 3) t, x, y; t in 0..T-1. Only t is read.
        frame_size: (height, width) of the frames that the coordinates belong to.
        query_mode: "first" evaluates the frames after the query, "strided" all frames but the query's. Numbers of different
            modes cannot be compared.
        annotated: (T,) bool, frames for which the truth is known; by default all. Other frames are left out.

    Returns:
        In 0..1, higher is better, each pooled over points and frames:
        - `occlusion_accuracy`: visibility is predicted right.
        - `pts_within_1` .. `pts_within_16`: among truly visible points, the position is less than the threshold away
          (strictly), whatever visibility is predicted. `average_pts_within_thresh` is their mean.
        - `jaccard_1` .. `jaccard_16`: true positives / (truly visible + false positives). A true positive is truly visible,
          predicted visible and within the threshold. A false positive is predicted visible, and truly hidden or too far; a
          point that is too far counts in both terms of the denominator. `average_jaccard` is their mean.
        - `average_pts_within_thresh_reappeared`, `average_jaccard_reappeared`: the same over the frames from a point's first
          re-appearance on: the first frame where it is visible with a hidden frame between it and the query.
          These two are ours. TAPNext++'s AJ_RD averages over re-appearances and their least durations instead.

        `temporal_coherence`, lower is better: the mean length, in pixels at 256 x 256, of the difference between the
        predicted and the true second differences of position, over triples of consecutive frames in which the point is truly
        visible. The query mode and predicted visibility do not enter.

        NaN where nothing is counted: no frame after the query, no visible point, no point that re-appears.

    Raises:
        ValueError: shapes that do not fit, no query, positions that are not finite (true ones where the point is visible),
            visibility that is not bool, a query frame that is not a frame of the clip, or another query mode.
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
    known = _checked_annotated(annotated, len(tracks))
    offset = (predicted - tracks) * metric_scale(frame_size)  # (T, N, 2), pixels at 256 x 256

    evaluated = _evaluated(query_frames, known, query_mode)
    reappeared = evaluated & _from_reappearance(visibility, query_frames, known)
    squared = np.square(offset).sum(axis=-1)
    whole = _within_thresholds(squared, visibility, predicted_visible, evaluated)
    after = _within_thresholds(squared, visibility, predicted_visible, reappeared)
    averages = ("average_jaccard", "average_pts_within_thresh")
    return {
        **{name: whole[name] for name in averages},
        "occlusion_accuracy": share_of(predicted_visible == visibility, evaluated),
        "temporal_coherence": _temporal_coherence(offset, visibility & known),
        **{f"{name}_reappeared": after[name] for name in averages},
        **{name: number for name, number in whole.items() if name not in averages},
    }


def mean_over_clips(clips: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Plain mean of each number over the clips where it is not NaN, so that a clip counts the same whatever its number of
    points. NaN where no clip has the number.

    Raises:
        ValueError: no clips.
    """
    if not clips:
        raise ValueError("clips: expected the metrics of at least one clip, found none")
    columns = {name: np.array([clip[name] for clip in clips]) for name in clips[0]}
    return {name: share_of(column, ~np.isnan(column)) for name, column in columns.items()}


def standard_errors(clips: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Standard error of each mean of `mean_over_clips`: standard deviation (n - 1) over the root of n, of the clips where the
    number is not NaN. NaN where fewer than two clips have the number.

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
        ValueError: a query frame that is not a frame of the clip, another query mode, or `annotated` of another shape.
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
    """(T, N) bool: the point is truly visible, and its predicted position less than the threshold away.

    Args:
        predicted_tracks, tracks: (T, N, 2) x, y.
        visibility: (T, N) bool, the truth.
        frame_size: (height, width) of the frames that the coordinates belong to.
        threshold: pixels at 256 x 256.
    """
    offset = (np.asarray(predicted_tracks, dtype=np.float64) - tracks) * metric_scale(frame_size)
    return visibility & (np.square(offset).sum(axis=-1) < threshold**2)


def sample_queries(tracks: np.ndarray, visibility: np.ndarray, query_mode: str) -> tuple[np.ndarray, np.ndarray]:
    """The queries of TAP-Vid from true tracks.

    Args:
        tracks: (T, N, 2) x, y.
        visibility: (T, N) bool.
        query_mode: "first": each track at its first visible frame, in the order of tracks. "strided": at frames 0, 5, 10, ...
            each track that is visible there, frame by frame. Tracks without such a frame have no query.

    Returns:
        queries: (Q, 3) float t, x, y, in the dtype of tracks; Q may be 0.
        track_numbers: (Q,) int64, the track of each query: `tracks[:, track_numbers]` is the truth of `queries`.

    Raises:
        ValueError: shapes that do not fit, no tracks, or another query mode.
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
    """Shares and Jaccard indices over the evaluated frames; all arguments (T, N)."""
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


def _evaluated(query_frames: np.ndarray, known: np.ndarray, query_mode: str) -> np.ndarray:
    """(T, N) bool of query frames (N,) and annotated frames (T, 1) bool."""
    frames = np.arange(len(known))[:, None]
    return (frames > query_frames if query_mode == "first" else frames != query_frames) & known


def _from_reappearance(visible: np.ndarray, query_frames: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(T, N) bool: frames from the first re-appearance on, away from the query in both directions of time."""
    frames = np.arange(len(visible))[:, None]

    def later(visible: np.ndarray, known: np.ndarray, after_query: np.ndarray) -> np.ndarray:
        was_hidden = np.logical_or.accumulate(~visible & known & after_query, axis=0)
        return np.logical_or.accumulate(was_hidden & visible & known, axis=0)

    forward = later(visible, known, frames > query_frames)
    backward = later(visible[::-1], known[::-1], (frames < query_frames)[::-1])[::-1]
    return forward | backward


def _temporal_coherence(offset: np.ndarray, visible: np.ndarray) -> float:
    # The second difference of the offsets is the difference of the second differences.
    acceleration = np.linalg.norm(offset[2:] - 2 * offset[1:-1] + offset[:-2], axis=-1)  # (T - 2, N)
    return share_of(acceleration, visible[2:] & visible[1:-1] & visible[:-2])


def share_of(values: np.ndarray, counted: np.ndarray) -> float:
    """Mean of the values that are counted; NaN of none."""
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
    known = np.ones(num_frames, dtype=bool) if annotated is None else np.asarray(annotated)
    if known.shape != (num_frames,) or known.dtype != bool:
        raise ValueError(f"annotated: expected bool of shape ({num_frames},), found {known.dtype} {known.shape}")
    return known[:, None]


def check_query_mode(query_mode: str) -> None:
    """Raises ValueError for another than "first" and "strided"."""
    if query_mode not in QUERY_MODES:
        raise ValueError(f"query_mode is {query_mode!r}, expected one of {', '.join(QUERY_MODES)}")
