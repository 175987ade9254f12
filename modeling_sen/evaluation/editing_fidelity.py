# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Fidelity of an edited video to its source: pixels outside the edited region, and motion measured by a point tracker."""

from collections.abc import Callable
from typing import Any

import numpy as np

from modeling_sen.evaluation.editing_alignment import check_pair
from modeling_sen.evaluation.tracking_metrics import metric_scale, tracking_metrics

MOST_DECIBELS = 100.0
WINDOW, SIGMA = 11, 1.5  # SSIM's window, as in Wang et al. (2004)
K1, K2, PEAK = 0.01, 0.03, 255
GRID = 8  # points per side


def psnr_outside_mask(source: np.ndarray, edited: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in decibels, from the mean squared error over all pixels outside the mask.

    Args:
        source, edited: (T, H, W, 3) uint8.
        mask: (T, H, W) bool, true where the edit may change pixels; by default nowhere.

    Returns:
        At most 100, the value for equal pixels. NaN if no pixel is outside the mask.

    Raises:
        ValueError: frames or mask of wrong shape or dtype.
    """
    check_pair(source, edited)
    kept = ~_checked_mask(source, mask)
    if not kept.any():
        return float("nan")
    error = np.square(source[kept].astype(np.float64) - edited[kept]).mean()
    return float(min(MOST_DECIBELS, 20 * np.log10(PEAK) - 10 * np.log10(error))) if error else MOST_DECIBELS


def ssim_outside_mask(source: np.ndarray, edited: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004): Gaussian windows of 11 x 11 pixels, sigma 1.5, for each colour
    channel at the original frame size.

    Args:
        source, edited, mask: see [`psnr_outside_mask`].

    Returns:
        Mean over channels and over all windows inside the frames without a pixel of the mask; at most 1. NaN if there is no
        such window.

    Raises:
        ValueError: frames or mask of wrong shape or dtype, or frames smaller than a window.
    """
    check_pair(source, edited)
    if min(source.shape[1:3]) < WINDOW:
        raise ValueError(
            f"source: expected frames of at least {WINDOW} x {WINDOW} pixels, found (H, W) {source.shape[1:3]}"
        )
    mask = _checked_mask(source, mask)
    total, count = 0.0, 0
    for before, after, hidden in zip(source, edited, mask, strict=True):
        touched = np.lib.stride_tricks.sliding_window_view(hidden, (WINDOW, WINDOW)).any(axis=(-1, -2))
        total += _similarity_map(before, after)[~touched].sum()
        count += int((~touched).sum()) * 3
    return float(total / count) if count else float("nan")


def motion_fidelity(
    source: np.ndarray, edited: np.ndarray, track: Callable[[np.ndarray, np.ndarray], Any]
) -> dict[str, float]:
    """Compares the motion of the edited video with that of the source. A point tracker tracks a grid of 8 x 8 points of the
    first frame through both videos.

    Args:
        source, edited: (T, H, W, 3) uint8.
        track: maps (T, H, W, 3) uint8 frames and (N, 3) t, x, y queries to an object with `tracks` (T, N, 2) x, y and
            `visibility` (T, N) bool.

    Returns:
        Averages over the frames after the first in which a point of the source is visible; NaN if there is none:
        - `motion_fidelity`: share of points less than 1, 2, 4, 8, 16 pixels from their position in the source, mean of the
          five, as in TAP-Vid's average of points within a threshold. Higher is better.
        - `motion_distance`: mean distance. Lower is better.

        Distances are in pixels of a 256 x 256 frame. Both values depend on the tracker and include its errors.

    Raises:
        ValueError: frames of different or wrong shapes.
    """
    check_pair(source, edited)
    queries = grid_queries(source.shape[1:3])
    before, after = track(source, queries), track(edited, queries)
    numbers = tracking_metrics(
        after.tracks, after.visibility, before.tracks, before.visibility, queries, source.shape[1:3], "first"
    )
    distance = np.linalg.norm((after.tracks - before.tracks) * metric_scale(source.shape[1:3]), axis=-1)[1:]
    visible = before.visibility[1:]
    return {
        "motion_fidelity": numbers["average_pts_within_thresh"],
        "motion_distance": float(distance[visible].mean()) if visible.any() else float("nan"),
    }


def grid_queries(frame_size: tuple[int, int]) -> np.ndarray:
    """(64, 3) float32 t, x, y: the centres of 8 x 8 cells of the first frame, row by row."""
    y, x = ((np.arange(GRID) + 0.5) * side / GRID - 0.5 for side in frame_size)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return np.concatenate([np.zeros((len(places), 1)), places], axis=1).astype(np.float32)


def _similarity_map(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """SSIM of each window, (H - 10, W - 10, 3), for frames (H, W, 3) uint8."""
    x, y = before.astype(np.float64), after.astype(np.float64)
    mean_x, mean_y = _window_means(x), _window_means(y)
    variance_x = _window_means(x * x) - mean_x**2
    variance_y = _window_means(y * y) - mean_y**2
    covariance = _window_means(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    return (
        (2 * mean_x * mean_y + c1)
        * (2 * covariance + c2)
        / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    )


def _window_means(values: np.ndarray) -> np.ndarray:
    """Gaussian means (H - 10, W - 10, 3) of the windows of (H, W, 3), by separable filtering."""
    weights = np.exp(-np.square(np.arange(WINDOW) - WINDOW // 2) / (2 * SIGMA**2))
    weights /= weights.sum()
    height, width = (side - WINDOW + 1 for side in values.shape[:2])
    down = sum(weight * values[place : place + height] for place, weight in enumerate(weights))
    return sum(weight * down[:, place : place + width] for place, weight in enumerate(weights))


def _checked_mask(source: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is None:
        return np.zeros(source.shape[:3], dtype=bool)
    if mask.shape != source.shape[:3] or mask.dtype != bool:
        raise ValueError(f"mask: expected bool of shape (T, H, W) {source.shape[:3]}, found {mask.dtype} {mask.shape}")
    return mask
