# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Predictions for clips of any length, in overlapping windows of frames.

The clip's first frame leads every window, as sparse-causal attention reads it at each frame. Predictions of windows that
overlap are averaged at each step, as in MultiDiffusion (arXiv 2302.08113), with weights that fall towards a window's ends.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from modeling_sen.editing.ddim import Predict


def frame_windows(num_frames: int, window: int = 24, overlap: int = 8) -> list[list[int]]:
    """Numbers of the frames of each window; together they hold every frame.

    A later window has frame 0 and `window - 1` frames in a row, at least `overlap` of which are in the window before: more in
    the last one, as all are of the same length.

    Raises:
        ValueError: a window of no frame, or of so few that a later window would hold no frame of its own.
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
            f"overlap: expected at most {window - 2} frames for windows of {window}, of which the clip's first frame is one, "
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
    """A prediction for all frames, made of predictions for windows.

    Args:
        predict_window: (latents (B, C, frames, h, w), timestep, numbers of the frames) -> the same shape.

    Returns:
        (latents (B, C, num_frames, h, w), timestep) -> the same shape. With one window it is that window's prediction.

    Raises:
        ValueError: as [`frame_windows`].
    """
    windows = frame_windows(num_frames, window, overlap)

    def predict(latents: Tensor, timestep: int) -> Tensor:
        if len(windows) == 1:
            return predict_window(latents, timestep, windows[0])
        total, weight = torch.zeros_like(latents), latents.new_zeros(num_frames, 1, 1)
        for number, frames in enumerate(windows):
            output = predict_window(latents[:, :, frames], timestep, frames)
            own = slice(1 if number else 0, None)  # of a later window, frame 0 is only there to be attended to
            places = frames[own]
            ramp = torch.arange(1, len(places) + 1, device=latents.device)
            share = torch.minimum(ramp, ramp.flip(0)).to(latents.dtype).view(-1, 1, 1)
            total[:, :, places] += share * output[:, :, own]
            weight[places] += share
        return total / weight

    return predict


__all__ = ["frame_windows", "windowed"]
