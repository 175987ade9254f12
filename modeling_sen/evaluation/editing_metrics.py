# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Measures of text-guided video editing, always together: a frozen video is consistent, and a copy of the source is faithful
too, so that no number stands alone.
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
    """All measures of one edited video.

    Args:
        source, edited: (T, H, W, 3) uint8; frame t of one belongs to frame t of the other. At least 12 x 12 pixels.
        source_prompt, edit_prompt: what each shows.
        encoder: of images and texts.
        track: a point tracker, see [`motion_fidelity`].
        mask: (T, H, W) bool, True where the edit may change pixels; by default nowhere, as in edits of style, where PSNR and
            SSIM say how much changed and not whether it should have.

    Returns:
        `encoder`, its name, and `NUMBERS`: what `alignment_metrics`, `psnr_outside_mask`, `ssim_outside_mask`, `warp_errors`
        and `motion_fidelity` return. NaN where a number is not defined, as consistency of one frame.

    Raises:
        ValueError: frames, prompts or a mask that do not fit.
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
    """`encoder` and the plain mean of each of `NUMBERS` over the edits where it is not NaN.

    Args:
        edits: what [`editing_metrics`] returned.

    Raises:
        ValueError: no edits, or numbers of different encoders, which cannot be averaged.
    """
    if not edits:
        raise ValueError("edits: expected the metrics of at least one edited video, found none")
    names = sorted({edit["encoder"] for edit in edits})
    if len(names) > 1:
        raise ValueError(f"edits: expected numbers of one encoder, found those of {', '.join(names)}")
    return {"encoder": names[0], **mean_over_clips([{name: edit[name] for name in NUMBERS} for edit in edits])}


__all__ = ["NUMBERS", "editing_metrics", "mean_over_edits"]
