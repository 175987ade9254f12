# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Measures of text-guided video editing as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

from modeling_sen.evaluation.editing_metrics import editing_metrics, mean_over_edits

_DESCRIPTION = """Text alignment and frame consistency as defined by LOVEU-TGVE and by FateZero, directional similarity, PSNR
and SSIM outside a mask, warp error and motion fidelity, computed per edited video and averaged over videos."""

_KWARGS_DESCRIPTION = """
Args:
    predictions: edited videos, each a list of frames (H, W, 3) uint8.
    references: a dict for each video: `frames` of the source, in the same number and size; `mask`, a list of (H, W) uint8,
        not 0 where the edit may change pixels, or [] for nowhere; `source_prompt` and `edit_prompt`.
    encoder: an `ImageTextEncoder`; the result contains its name.
    track: a point tracker, (T, H, W, 3) uint8 frames and (N, 3) t, x, y queries -> an object with `tracks`, `visibility`.
Returns:
    `encoder` and all metrics, in the order of `editing_metrics.NUMBERS`.
Examples:
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from modeling_sen.evaluation.editing_alignment import ImageTextEncoder
    >>> axes = {"red": [1, 0, 0], "blue": [0, 0, 1]}
    >>> encoder = ImageTextEncoder("mean colour", lambda images, texts: (images.mean((1, 2)), [axes[t] for t in texts]))
    >>> def still(frames, queries):
    ...     tracks = np.tile(queries[:, 1:], (len(frames), 1, 1))
    ...     return SimpleNamespace(tracks=tracks, visibility=np.ones(tracks.shape[:2], dtype=bool))
    >>> red, blue = (np.tile(np.array(one, dtype=np.uint8), (2, 16, 16, 1)) for one in ([200, 0, 0], [0, 0, 200]))
    >>> reference = {"frames": list(red), "mask": [], "source_prompt": "red", "edit_prompt": "blue"}
    >>> metric = VideoEditing()
    >>> found = metric.compute(predictions=[list(blue)], references=[reference], encoder=encoder, track=still)
    >>> found["encoder"], found["loveu_text_alignment"], round(found["directional_similarity"], 3)
    ('mean colour', 100.0, 1.0)
    >>> round(found["psnr_outside_mask"], 2), found["warp_error"], found["motion_fidelity"]
    (3.87, 0.0, 1.0)
    >>> found = metric.compute(predictions=[list(red)], references=[reference], encoder=encoder, track=still)
    >>> found["loveu_frame_consistency"], found["loveu_text_alignment"], found["directional_similarity"]
    (1.0, 0.0, 0.0)
"""

_CITATION = """@article{wu2023cvpr, title={{CVPR} 2023 Text Guided Video Editing Competition}, author={Wu, Jay Zhangjie and
others}, journal={arXiv:2310.16003}, year={2023}}
@inproceedings{qi2023fatezero, title={{FateZero}: Fusing Attentions for Zero-shot Text-based Video Editing}, author={Qi,
Chenyang and others}, booktitle={ICCV}, year={2023}}"""

_FRAMES = datasets.Sequence(datasets.Image())  # frames of any size, as PNG


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VideoEditing(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": _FRAMES,
                    "references": {
                        "frames": _FRAMES,
                        "mask": _FRAMES,
                        "source_prompt": datasets.Value("string"),
                        "edit_prompt": datasets.Value("string"),
                    },
                }
            ),
        )

    def _compute(self, predictions, references, encoder, track):
        return mean_over_edits(
            [
                editing_metrics(
                    _stack(reference["frames"]),
                    _stack(edited),
                    reference["source_prompt"],
                    reference["edit_prompt"],
                    encoder,
                    track,
                    _stack(reference["mask"]) > 0 if reference["mask"] else None,
                )
                for edited, reference in zip(predictions, references, strict=True)
            ]
        )


def _stack(images):
    return np.stack([np.asarray(image) for image in images])
