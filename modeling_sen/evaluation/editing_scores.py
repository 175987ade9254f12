# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The metrics of one edit that can be computed: some need an encoder of images and texts, some need OpenCV."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from modeling_sen.evaluation.editing_alignment import ImageTextEncoder, alignment_metrics
from modeling_sen.evaluation.editing_fidelity import motion_fidelity, psnr_outside_mask, ssim_outside_mask
from modeling_sen.evaluation.editing_metrics import NUMBERS


def editing_scores(
    source: np.ndarray,
    edited: np.ndarray,
    source_prompt: str,
    edit_prompt: str,
    mask: np.ndarray | None = None,
    encoder: ImageTextEncoder | None = None,
    track: Callable[[np.ndarray, np.ndarray], Any] | None = None,
) -> dict[str, float]:
    """Computes the metrics of an edit as far as possible.

    Args:
        source, edited, source_prompt, edit_prompt, mask: see `editing_metrics`.
        encoder: encoder for alignment with the prompts and consistency of the frames.
        track: point tracker for motion fidelity.

    Returns:
        All of `NUMBERS`; NaN for metrics whose encoder, tracker or OpenCV (for the warp error) is missing, and for undefined
        values.

    Raises:
        ValueError: frames or mask of wrong shape or dtype, or an empty prompt.
    """
    found = {
        "psnr_outside_mask": psnr_outside_mask(source, edited, mask),
        "ssim_outside_mask": ssim_outside_mask(source, edited, mask),
    }
    if encoder is not None:
        found |= alignment_metrics(source, edited, source_prompt, edit_prompt, encoder)
    if has_opencv():
        from modeling_sen.evaluation.editing_warp import warp_errors

        found |= warp_errors(source, edited)
    if track is not None:
        found |= motion_fidelity(source, edited, track)
    return {name: found.get(name, float("nan")) for name in NUMBERS}


def has_opencv() -> bool:
    """Whether OpenCV is installed (the extra `tracking`), which optical flow and the tracker need."""
    return find_spec("cv2") is not None


__all__ = ["editing_scores", "has_opencv"]
