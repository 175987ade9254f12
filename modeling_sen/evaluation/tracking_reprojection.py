# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""True tracks of a static scene from depth maps and camera poses.

Depth maps are (H, W), along the optical axis in metres, 0 where unknown. Poses are 4 x 4, from camera to world. Intrinsics
are 3 x 3, for pixel centres at whole numbers.
"""

import numpy as np


def register_depth(
    depth: np.ndarray, depth_intrinsics: np.ndarray, colour_intrinsics: np.ndarray, depth_to_colour: np.ndarray
) -> np.ndarray:
    """Transforms a depth map into the view of a colour camera beside the depth camera; the nearest surface occludes others.

    Args:
        depth: (H, W).
        depth_intrinsics, colour_intrinsics: 3 x 3, of the two cameras.
        depth_to_colour: 4 x 4, from the depth camera's coordinates to the colour camera's.

    Returns:
        (H, W) of the same size, 0 where unknown. Each pixel of `depth` fills one pixel, so a longer focal length leaves gaps.
    """
    rows, columns = np.nonzero(depth > 0)
    points = _points(np.stack([columns, rows], axis=1), depth[rows, columns], depth_intrinsics)
    points = _moved(points, depth_to_colour)
    columns, rows = np.floor(_projected(points, colour_intrinsics) + 0.5).astype(np.int64).T
    height, width = depth.shape
    within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width) & (points[:, 2] > 0)
    registered = np.full(depth.shape, np.inf)
    np.minimum.at(registered, (rows[within], columns[within]), points[within, 2])
    return np.where(np.isfinite(registered), registered, 0)


def reproject(
    points: np.ndarray, depths: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray, tolerance: float = 0.05
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of points of the first frame in every frame.

    Args:
        points: (N, 2) int, x, y of pixels of the first frame.
        depths: (T, H, W).
        poses: (T, 4, 4).
        intrinsics: 3 x 3.
        tolerance: largest difference in metres between a visible point's depth and the depth map.

    Returns:
        tracks: (T, N, 2) float64 x, y, NaN behind the camera.
        visibility: (T, N) bool: the point is inside the picture, and the nearest pixel has its depth.
        has_truth: (T, N) bool: the depth at the nearest pixel is known, or the point is outside the picture.

    Raises:
        ValueError: a point without depth, or outside the picture.
    """
    points = np.asarray(points)
    height, width = depths.shape[1:]
    columns, rows = points.T
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    for x, y in points[~inside]:
        raise ValueError(f"points: expected pixels of a picture of {width} x {height}, found {x}, {y}")
    depth = depths[0, rows, columns]
    for x, y in points[depth <= 0]:
        raise ValueError(f"points: expected pixels with known depth, found {x}, {y} without")
    world = _moved(_points(points, depth, intrinsics), poses[0])
    tracks = np.full((len(depths), len(points), 2), np.nan)
    visibility, has_truth = (np.zeros(tracks.shape[:2], dtype=bool) for _ in range(2))
    for number, (pose, depth_map) in enumerate(zip(poses, depths, strict=True)):
        here = _moved(world, np.linalg.inv(pose))
        front = here[:, 2] > 0
        tracks[number, front] = _projected(here[front], intrinsics)
        columns, rows = np.floor(np.where(front[:, None], tracks[number], -1) + 0.5).astype(np.int64).T
        within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        depth = np.zeros(len(points))
        depth[within] = depth_map[rows[within], columns[within]]
        visibility[number] = (depth > 0) & (np.abs(depth - here[:, 2]) < tolerance)
        has_truth[number] = ~within | (depth > 0)
    return tracks, visibility, has_truth


def _points(pixels: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(N, 3) camera coordinates of pixels (N, 2) x, y with given depth."""
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(intrinsics).T
    return rays * depth[:, None]


def _moved(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    return points @ transform[:3, :3].T + transform[:3, 3]


def _projected(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(N, 2) x, y."""
    pixels = points @ intrinsics.T
    return pixels[:, :2] / pixels[:, 2:]


__all__ = ["register_depth", "reproject"]
