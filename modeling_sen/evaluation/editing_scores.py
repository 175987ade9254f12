# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The measures of one edit as far as they can be taken: some need an encoder of images and texts, some OpenCV."""

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
    """
    Args:
        source, edited, source_prompt, edit_prompt, mask: as of `editing_metrics`.
        encoder: for alignment with the prompts and consistency of the frames.
        track: a point tracker, for motion fidelity.

    Returns:
        All of `NUMBERS`; NaN for what lacks an encoder, a tracker or, as the warp error may, OpenCV, and for what is not
        defined.

    Raises:
        ValueError: frames, prompts or a mask that do not fit.
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
    """Whether the extra `tracking` is installed, which flow and the tracker need."""
    return find_spec("cv2") is not None


__all__ = ["editing_scores", "has_opencv"]
