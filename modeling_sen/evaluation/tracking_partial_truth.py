# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of point tracking for real clips without true tracks, from masks, boxes or joints, or without any truth.

Tracks are (T, N, 2) x, y in pixels of the frames, with pixel centres at whole numbers; queries (N, 3) are t, x, y. The frame
of a point's query is never evaluated. All metrics are pooled over points and frames, and NaN without data.
"""

import numpy as np

from modeling_sen.evaluation.tracking_metrics import (
    check_finite,
    checked_query_frames,
    checked_tracks,
    metric_scale,
    share_of,
)

JOINT_DISTANCE = 0.2  # threshold of BADJA's PCK, as a fraction of the square root of the object's area


def mask_metrics(
    tracks: np.ndarray, visibility: np.ndarray, queries: np.ndarray, masks: np.ndarray
) -> dict[str, float]:
    """Measures whether points that start on an object stay on it.

    Args:
        tracks, visibility: predictions, (T, N, 2) and (T, N) bool.
        queries: (N, 3), each on an object.
        masks: (T, H, W) integers, 0 is background, other values are objects.

    Returns:
        - `inside`: share of positions whose nearest pixel belongs to the query's object, over the frames where the point is
          predicted visible and the object is present.
        - `predicted_visible`: share of frames in which the point is predicted visible, over the frames where the object is
          present. A tracker that predicts all uncertain points as hidden has a high `inside` and a low `predicted_visible`.

    Raises:
        ValueError: inconsistent shapes, positions that are not finite, or a query on the background.
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
    """Measures whether points of an object stay in its box.

    Args:
        tracks, visibility: predictions, (T, N, 2) and (T, N) bool.
        queries: (N, 3).
        corners: (T, 4, 2) x, y of the corners in each frame, ordered around the box in either direction.

    Returns:
        `inside` and `predicted_visible`, see [`mask_metrics`]; the edge of the box is inside.

    Raises:
        ValueError: inconsistent shapes, or positions that are not finite.
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

    This is BADJA's metric. Frames without annotation have no visible joint, and are not evaluated. Predicted visibility is
    not used.

    Args:
        predicted_tracks: (T, N, 2).
        tracks: (T, N, 2), the truth, NaN where unknown.
        visibility: (T, N) bool, the truth: true where a joint is annotated and visible.
        queries: (N, 3).
        masks: (T, H, W), not 0 on the object.

    Raises:
        ValueError: inconsistent shapes, or positions that are not finite.
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
    """Cycle consistency of points that were tracked to another frame, and from there back to the frame of their query.

    Args:
        queries: (N, 3).
        returned: (N, 2) x, y in the frame of the query, after tracking back.
        seen: (N,) bool, true if predicted visible in the frame where tracking back started. Other points are not evaluated.
        frame_size: (height, width).
        threshold: pixels at 256 x 256.

    Returns:
        `cycle_median`, median distance from the query in pixels at 256 x 256; `cycle_within_4` (or another threshold), share
        of distances below it; `cycle_seen`, share of evaluated points. A constant prediction has no error for any clip, so
        these metrics should be reported together with one that has a truth.

    Raises:
        ValueError: inconsistent shapes, or positions that are not finite where `seen`.
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
    """Checked tracks and visibility, and the frame of each query."""
    tracks, visibility = checked_tracks("tracks", tracks, "visibility", visibility)
    check_finite("tracks", tracks)
    return tracks, visibility, checked_query_frames(queries, *visibility.shape)


def _other_frames(query_frames: np.ndarray, num_frames: int) -> np.ndarray:
    """(T, N) bool: true in all frames except the query's."""
    return np.arange(num_frames)[:, None] != query_frames


def _nearest(masks: np.ndarray, frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values (...) of the pixels nearest to positions (..., 2) x, y in the frames (...) of masks; 0 outside the masks."""
    columns, rows = np.moveaxis(np.floor(positions + 0.5).astype(np.int64), -1, 0)
    height, width = masks.shape[1:]
    within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return np.where(within, masks[frames, rows.clip(0, height - 1), columns.clip(0, width - 1)], 0)


__all__ = ["box_metrics", "cycle_metrics", "joint_accuracy", "mask_metrics"]
