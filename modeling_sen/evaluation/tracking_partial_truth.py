# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of point tracking for real clips without true tracks: masks, boxes or joints are known, or nothing at all.

Tracks are (T, N, 2) x, y in pixels of the frames, with pixel centres at whole numbers; queries (N, 3) are t, x, y. The frame
of a point's query is never counted. All numbers are pooled over points and frames, and NaN where nothing is counted.
"""

import numpy as np

from modeling_sen.evaluation.tracking_metrics import (
    check_finite,
    checked_query_frames,
    checked_tracks,
    metric_scale,
    share_of,
)

JOINT_DISTANCE = 0.2  # of the square root of the object's area: PCK of BADJA


def mask_metrics(
    tracks: np.ndarray, visibility: np.ndarray, queries: np.ndarray, masks: np.ndarray
) -> dict[str, float]:
    """Whether points that start on an object stay on it.

    Args:
        tracks, visibility: (T, N, 2) and (T, N) bool, predicted.
        queries: (N, 3), each on an object.
        masks: (T, H, W) integers, 0 is background, other values are objects.

    Returns:
        - `inside`: share of positions whose nearest pixel is of the query's object, over the frames where the point is
          predicted visible and the object is present.
        - `predicted_visible`: share of the frames where the object is present in which the point is predicted visible. A
          tracker that hides every doubtful point gets a high `inside` and a low number here.

    Raises:
        ValueError: shapes that do not fit, positions that are not finite, or a query on the background.
    """
    tracks, visibility, query_frames = _checked(tracks, visibility, queries)
    masks = np.asarray(masks)
    if masks.ndim != 3 or len(masks) != len(tracks) or masks.dtype.kind not in "iu":
        raise ValueError(f"masks: expected integers of shape ({len(tracks)}, H, W), found {masks.dtype} {masks.shape}")
    objects = _nearest(masks, query_frames, np.asarray(queries)[:, 1:])  # (N,)
    for number in np.flatnonzero(objects == 0):
        raise ValueError(f"queries: expected points on an object, found query {number} on the background")
    present = np.stack([np.isin(objects, mask) for mask in masks])
    counted = present & _other_frames(query_frames, len(tracks))
    inside = _nearest(masks, np.arange(len(tracks))[:, None], tracks) == objects  # (T, N)
    return {
        "inside": share_of(inside, counted & visibility),
        "predicted_visible": share_of(visibility, counted),
    }


def box_metrics(
    tracks: np.ndarray, visibility: np.ndarray, queries: np.ndarray, corners: np.ndarray
) -> dict[str, float]:
    """Whether points of an object stay in its box.

    Args:
        corners: (T, 4, 2) x, y of the box in each frame, in order around it, in either direction.

    Returns:
        `inside` and `predicted_visible` as of [`mask_metrics`]; the edge of the box is inside.

    Raises:
        ValueError: shapes that do not fit, or positions that are not finite.
    """
    tracks, visibility, query_frames = _checked(tracks, visibility, queries)
    corners = np.asarray(corners, dtype=np.float64)
    if corners.shape != (len(tracks), 4, 2):
        raise ValueError(f"corners: expected shape ({len(tracks)}, 4, 2), found {corners.shape}")
    edges = np.roll(corners, -1, axis=1) - corners
    from_corner = tracks[:, :, None] - corners[:, None]  # (T, N, 4, 2)
    side = edges[:, None, :, 0] * from_corner[..., 1] - edges[:, None, :, 1] * from_corner[..., 0]  # (T, N, 4)
    inside = (side >= 0).all(axis=-1) | (side <= 0).all(axis=-1)
    counted = _other_frames(query_frames, len(tracks))
    return {
        "inside": share_of(inside, counted & visibility),
        "predicted_visible": share_of(visibility, counted),
    }


def joint_accuracy(
    predicted_tracks: np.ndarray,
    tracks: np.ndarray,
    visibility: np.ndarray,
    queries: np.ndarray,
    masks: np.ndarray,
) -> float:
    """Share of visible joints that are less than 0.2 sqrt(area of the object) from the predicted position.

    This is the measure of BADJA. Frames without a mark have no visible joint, and do not count. Predicted visibility does not
    enter.

    Args:
        predicted_tracks: (T, N, 2).
        tracks: (T, N, 2), the truth, NaN where unknown.
        visibility: (T, N) bool, the truth: where a joint is marked and seen.
        masks: (T, H, W), the object is what is not 0.

    Raises:
        ValueError: shapes that do not fit, or positions that are not finite.
    """
    tracks, visibility = checked_tracks("tracks", tracks, "visibility", visibility)
    predicted, _, query_frames = _checked(predicted_tracks, visibility, queries)
    check_finite("tracks of visible joints", tracks[visibility])
    masks = np.asarray(masks)
    if masks.ndim != 3 or len(masks) != len(tracks):
        raise ValueError(f"masks: expected shape ({len(tracks)}, H, W), found {masks.shape}")
    near = JOINT_DISTANCE * np.sqrt((masks != 0).sum(axis=(1, 2)))[:, None]  # (T, 1)
    distance = np.linalg.norm(predicted - tracks, axis=-1)
    return share_of(distance < near, visibility & _other_frames(query_frames, len(tracks)))


def cycle_metrics(
    queries: np.ndarray, returned: np.ndarray, seen: np.ndarray, frame_size: tuple[int, int], threshold: float = 4
) -> dict[str, float]:
    """Where points end that were tracked to another frame, and from there back to the frame of their query.

    Args:
        queries: (N, 3).
        returned: (N, 2) x, y in the frame of the query, after the way back.
        seen: (N,) bool, predicted visible in the frame where the way back began. Others do not count.
        frame_size: (height, width).

    Returns:
        `cycle_median`, median distance from the query in pixels at 256 x 256; `cycle_within_4` (or of another threshold),
        share of distances below it; `cycle_seen`, share of points that are counted. A point that never moves has no error,
        whatever the clip shows: read the number beside one that has a truth.

    Raises:
        ValueError: shapes that do not fit, or positions that are not finite where `seen`.
    """
    queries, returned, seen = np.asarray(queries), np.asarray(returned), np.asarray(seen)
    if returned.shape != (len(queries), 2) or seen.shape != returned.shape[:1] or seen.dtype != bool:
        raise ValueError(
            f"returned, seen: expected shapes ({len(queries)}, 2) and ({len(queries)},) bool, "
            f"found {returned.shape} and {seen.shape} {seen.dtype}"
        )
    check_finite("returned", returned[seen])
    distance = np.linalg.norm((returned - queries[:, 1:]) * metric_scale(frame_size), axis=-1)[seen]
    return {
        "cycle_median": float(np.median(distance)) if len(distance) else float("nan"),
        f"cycle_within_{threshold:g}": share_of(distance < threshold, np.ones(len(distance), dtype=bool)),
        "cycle_seen": share_of(seen, np.ones(len(seen), dtype=bool)),
    }


def _checked(
    tracks: np.ndarray, visibility: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted tracks and visibility, and the frame of each query."""
    tracks, visibility = checked_tracks("tracks", tracks, "visibility", visibility)
    check_finite("tracks", tracks)
    return tracks, visibility, checked_query_frames(queries, *visibility.shape)


def _other_frames(query_frames: np.ndarray, num_frames: int) -> np.ndarray:
    """(T, N) bool: all but the frame of the query."""
    return np.arange(num_frames)[:, None] != query_frames


def _nearest(masks: np.ndarray, frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values (...) of the pixels nearest to positions (..., 2) x, y in the frames (...) of masks; 0 outside of them."""
    columns, rows = np.moveaxis(np.floor(positions + 0.5).astype(np.int64), -1, 0)
    height, width = masks.shape[1:]
    within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return np.where(within, masks[frames, rows.clip(0, height - 1), columns.clip(0, width - 1)], 0)


__all__ = ["box_metrics", "cycle_metrics", "joint_accuracy", "mask_metrics"]
