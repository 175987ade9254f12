# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of text-guided video editing. They are always reported together, because a still video scores high in consistency,
and a copy of the source scores high in consistency and fidelity.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modeling_sen.evaluation.editing_alignment import ImageTextEncoder, alignment_metrics
from modeling_sen.evaluation.editing_fidelity import motion_fidelity, psnr_outside_mask, ssim_outside_mask
from modeling_sen.evaluation.tracking_metrics import mean_over_clips

NUMBERS = (
    "loveu_text_alignment",
    "loveu_frame_consistency",
    "fatezero_frame_accuracy",
    "fatezero_temporal_consistency",
    "directional_similarity",
    "psnr_outside_mask",
    "ssim_outside_mask",
    "warp_error",
    "source_warp_error",
    "motion_fidelity",
    "motion_distance",
)


def editing_metrics(
    source: np.ndarray,
    edited: np.ndarray,
    source_prompt: str,
    edit_prompt: str,
    encoder: ImageTextEncoder,
    track: Callable[[np.ndarray, np.ndarray], Any],
    mask: np.ndarray | None = None,
) -> dict[str, Any]:
    """All metrics of one edited video.

    Args:
        source, edited: (T, H, W, 3) uint8 with corresponding frames, at least 12 x 12 pixels.
        source_prompt, edit_prompt: descriptions of the two videos.
        encoder: encoder of images and texts.
        track: a point tracker, see [`motion_fidelity`].
        mask: (T, H, W) bool, true where the edit may change pixels; by default nowhere. Without a mask, as in style edits,
            PSNR and SSIM measure the size of the whole change, wanted or not.

    Returns:
        `encoder`, its name, and `NUMBERS`: the results of `alignment_metrics`, `psnr_outside_mask`, `ssim_outside_mask`,
        `warp_errors` and `motion_fidelity`. Undefined values, such as the consistency of one frame, are NaN.

    Raises:
        ValueError: frames or mask of wrong shape or dtype, or an empty prompt.
        ImportError: OpenCV is not installed (the extra `tracking`).
    """
    from modeling_sen.evaluation.editing_warp import warp_errors

    return {
        "encoder": encoder.name,
        **alignment_metrics(source, edited, source_prompt, edit_prompt, encoder),
        "psnr_outside_mask": psnr_outside_mask(source, edited, mask),
        "ssim_outside_mask": ssim_outside_mask(source, edited, mask),
        **warp_errors(source, edited),
        **motion_fidelity(source, edited, track),
    }


def mean_over_edits(edits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`encoder`, and the mean of each of `NUMBERS` over the edits where it is not NaN.

    Args:
        edits: results of [`editing_metrics`].

    Raises:
        ValueError: no edits, or edits measured with different encoders, which cannot be averaged.
    """
    if not edits:
        raise ValueError("edits: expected the metrics of at least one edited video, found none")
    names = sorted({edit["encoder"] for edit in edits})
    if len(names) > 1:
        raise ValueError(f"edits: expected numbers of one encoder, found those of {', '.join(names)}")
    return {"encoder": names[0], **mean_over_clips([{name: edit[name] for name in NUMBERS} for edit in edits])}


__all__ = ["NUMBERS", "editing_metrics", "mean_over_edits"]
