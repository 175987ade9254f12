# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Warp error: difference between consecutive frames of an edited video after warping by the source's optical flow."""

import cv2
import numpy as np

from modeling_sen.evaluation.editing_alignment import check_pair
from modeling_sen.tracking.flow import DenseFlow, grey_frame

SMALLEST = 12  # pixels of a side that DIS needs


def warp_errors(source: np.ndarray, edited: np.ndarray) -> dict[str, float]:
    """Mean squared difference between a frame and the next one warped back by the flow of the *source*, over pixels with
    consistent flow; mean over pairs of consecutive frames. Colours are in 0..1; papers print it times 1000.

    The metric is that of Lai et al. (ECCV 2018), as TokenFlow applies it to edits. The flow is DIS instead of their FlowNet2
    and RAFT, so values are not comparable with papers. A pixel is left out if forward and backward flow w, v violate
    |w + v|^2 < 0.01 (|w|^2 + |v|^2) + 0.5 (Sundaram et al., ECCV 2010), as for occluded pixels, or if the flow leaves the
    frame.

    Args:
        source, edited: (T, H, W, 3) uint8.

    Returns:
        `warp_error` of the edited frames, lower is better; and, for comparison, `source_warp_error` of the source, which is
        not 0 because of errors of the flow and changes of light. NaN for one frame, or if no pixel has consistent flow.

    Raises:
        ValueError: frames of different or wrong shapes, or smaller than 12 x 12 pixels.
    """
    check_pair(source, edited)
    if min(source.shape[1:3]) < SMALLEST:
        raise ValueError(
            f"source: expected frames of at least {SMALLEST} x {SMALLEST} pixels, found (H, W) {source.shape[1:3]}"
        )
    flow = DenseFlow(1)
    grey = [grey_frame(frame) for frame in source]
    errors: dict[str, list[float]] = {"warp_error": [], "source_warp_error": []}
    for time in range(len(source) - 1):
        forward = flow.start(grey[time], grey[time + 1]).result()
        backward = flow.start(grey[time + 1], grey[time]).result()
        places = flow_targets(forward)
        followed = followed_pixels(forward, backward)
        if not followed.any():
            continue
        for name, frames in (("warp_error", edited), ("source_warp_error", source)):
            warped = _read_at(frames[time + 1].astype(np.float32), places)
            error = np.square((warped - frames[time]) / 255)
            errors[name].append(float(error[followed].mean(dtype=np.float64)))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in errors.items()}


def flow_targets(flow: np.ndarray) -> np.ndarray:
    """(H, W, 2) float32 x, y: the position of each pixel after the flow (H, W, 2)."""
    height, width = flow.shape[:2]
    return flow + np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def followed_pixels(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that stay in the frame and have consistent forward and backward flow, (H, W, 2) float32."""
    places = flow_targets(forward)
    inside = ((places >= 0) & (places <= np.array(forward.shape[1::-1]) - 1)).all(axis=-1)
    returned = _read_at(backward, places)
    apart = np.square(forward + returned).sum(axis=-1)
    lengths = np.square(forward).sum(axis=-1) + np.square(returned).sum(axis=-1)
    return inside & (apart < 0.01 * lengths + 0.5)


def _read_at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (H, W, channels) float32, interpolated bilinearly at places (H, W, 2) x, y."""
    return cv2.remap(values, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
