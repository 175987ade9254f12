# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Predictions for clips of any length, in overlapping windows of frames.

Every window starts with the clip's first frame, because sparse-causal attention reads it for each frame. Predictions of
overlapping windows are averaged at each step, as in MultiDiffusion (arXiv 2302.08113), with weights that decrease towards the
ends of a window.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from modeling_sen.editing.ddim import Predict


def frame_windows(num_frames: int, window: int = 24, overlap: int = 8) -> list[list[int]]:
    """Frame numbers of each window; together the windows cover every frame.

    Each window after the first has frame 0 and `window - 1` consecutive frames, at least `overlap` of which are in the
    previous window; the last window may overlap by more, because all windows have the same length.

    Raises:
        ValueError: `window` is 0, or too small for a later window to have a new frame.
    """
    if window < 1:
        raise ValueError(f"window: expected at least 1 frame, found {window}")
    if overlap < 0:
        raise ValueError(f"overlap: expected at least 0 frames, found {overlap}")
    if num_frames <= window:
        return [list(range(num_frames))]
    if window < 2:
        raise ValueError(f"window: expected at least 2 frames for a clip of {num_frames}, found {window}")
    if overlap > window - 2:
        raise ValueError(
            f"overlap: expected at most {window - 2} frames for windows of {window} (including the clip's first frame), "
            f"found {overlap}; {num_frames} frames need more than one window"
        )
    own, end, windows = window - 1, window, [list(range(window))]
    while end < num_frames:
        end = min(end + own - overlap, num_frames)
        windows.append([0, *range(end - own, end)])
    return windows


def windowed(
    predict_window: Callable[[Tensor, int, list[int]], Tensor], num_frames: int, window: int, overlap: int
) -> Predict:
    """A predictor for all frames, which combines predictions for windows.

    Args:
        predict_window: maps latents (B, C, frames, h, w), timestep and frame numbers to a prediction of the same shape.
        num_frames: number of frames of the clip.
        window, overlap: see [`frame_windows`].

    Returns:
        A function from latents (B, C, num_frames, h, w) and timestep to a prediction of the same shape. With one window, it
        returns that window's prediction unchanged.

    Raises:
        ValueError: see [`frame_windows`].
    """
    windows = frame_windows(num_frames, window, overlap)

    def predict(latents: Tensor, timestep: int) -> Tensor:
        if len(windows) == 1:
            return predict_window(latents, timestep, windows[0])
        total, weight = torch.zeros_like(latents), latents.new_zeros(num_frames, 1, 1)
        for number, frames in enumerate(windows):
            output = predict_window(latents[:, :, frames], timestep, frames)
            own = slice(1 if number else 0, None)  # in later windows, frame 0 serves only as context
            places = frames[own]
            ramp = torch.arange(1, len(places) + 1, device=latents.device)
            share = torch.minimum(ramp, ramp.flip(0)).to(latents.dtype).view(-1, 1, 1)
            total[:, :, places] += share * output[:, :, own]
            weight[places] += share
        return total / weight

    return predict


__all__ = ["frame_windows", "windowed"]
