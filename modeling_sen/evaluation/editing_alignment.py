# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Alignment of an edited video with its prompt, and consistency of its frames, measured with an image-text encoder.

Papers use different definitions and different CLIPs. Here each definition has its own name, and scores depend on the encoder:
CLIP ViT-L/14 in LOVEU-TGVE (github.com/showlab/loveu-tgve-2023, scripts/run_eval.py, which has the metrics of Tune-A-Video),
ViT-B/32 in FateZero (github.com/ChenyangQiQi/FateZero, CLIP/frame_acc_tem_con.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LOGIT_SCALE = 100  # logit scale of OpenAI's CLIPs, whose image-text logits LOVEU-TGVE averages


@dataclass(frozen=True)
class ImageTextEncoder:
    """An encoder of images and texts into a common space.

    Attributes:
        name: name in results, such as the Hub id of a CLIP.
        encode: maps images (N, H, W, 3) uint8 and L texts to embeddings (N, e) and (L, e) of any norm.
    """

    name: str
    encode: Callable[[np.ndarray, Sequence[str]], tuple[np.ndarray, np.ndarray]]

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (N, e) and (L, e) float64, each of length 1.

        Raises:
            ValueError: the encoder returned other shapes, or embeddings that are zero or not finite.
        """
        found = self.encode(images, texts)
        image_embeds, text_embeds = (np.asarray(rows, dtype=np.float64) for rows in found)
        width = image_embeds.shape[-1]
        for name, rows, number in (("image", image_embeds, len(images)), ("text", text_embeds, len(texts))):
            if rows.shape != (number, width):
                raise ValueError(
                    f"encoder {self.name}: expected {name} embeddings of shape ({number}, {width}), found {rows.shape}"
                )
            lengths = np.linalg.norm(rows, axis=-1)
            if not (np.isfinite(lengths) & (lengths > 0)).all():
                raise ValueError(f"encoder {self.name}: expected finite {name} embeddings that are not zero")
        return _of_length_one(image_embeds), _of_length_one(text_embeds)


def alignment_metrics(
    source: np.ndarray, edited: np.ndarray, source_prompt: str, edit_prompt: str, encoder: ImageTextEncoder
) -> dict[str, float]:
    """All metrics of this module for one edited video.

    Args:
        source, edited: (T, H, W, 3) uint8, with corresponding frames.
        source_prompt, edit_prompt: descriptions of the two videos.
        encoder: encoder of images and texts.

    Returns:
        `loveu_text_alignment`, `loveu_frame_consistency`, `fatezero_frame_accuracy`, `fatezero_temporal_consistency`,
        `directional_similarity`; see the functions of these names. Higher is better.

    Raises:
        ValueError: frames of different or wrong shapes, or an empty prompt.
    """
    check_pair(source, edited)
    for name, prompt in (("source_prompt", source_prompt), ("edit_prompt", edit_prompt)):
        if not prompt.strip():
            raise ValueError(f"{name}: expected text, found {prompt!r}")
    images, texts = encoder(np.concatenate([source, edited]), [source_prompt, edit_prompt])
    before, after = images[: len(source)], images[len(source) :]
    return {
        "loveu_text_alignment": loveu_text_alignment(after, texts[1]),
        "loveu_frame_consistency": loveu_frame_consistency(after),
        "fatezero_frame_accuracy": fatezero_frame_accuracy(after, texts[0], texts[1]),
        "fatezero_temporal_consistency": fatezero_temporal_consistency(after),
        "directional_similarity": directional_similarity(before, after, texts[0], texts[1]),
    }


def loveu_text_alignment(frames: np.ndarray, edit_text: np.ndarray) -> float:
    """100 times the cosine similarity of frame and edit prompt, mean over frames (`clip_score_text`).

    Args:
        frames: (T, e) embeddings of the edited frames, of length 1, as in all functions below.
        edit_text: (e,) embedding of the edit prompt, of length 1.
    """
    return float(LOGIT_SCALE * (frames @ edit_text).mean())


def loveu_frame_consistency(frames: np.ndarray) -> float:
    """Cosine similarity of two frames, mean over all pairs of different frames (`clip_score_frame`); NaN for one frame."""
    count = len(frames)
    if count < 2:
        return float("nan")
    cosines = frames @ frames.T
    return float((cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


def fatezero_frame_accuracy(frames: np.ndarray, source_text: np.ndarray, edit_text: np.ndarray) -> float:
    """Share of frames that are at least as similar to the edit prompt as to the source prompt ("Fram-Acc")."""
    return float((frames @ edit_text >= frames @ source_text).mean())


def fatezero_temporal_consistency(frames: np.ndarray) -> float:
    """Cosine similarity of consecutive frames, mean over the clip ("Tem-Con"); NaN for one frame."""
    return float((frames[1:] * frames[:-1]).sum(axis=-1).mean()) if len(frames) > 1 else float("nan")


def directional_similarity(
    source_frames: np.ndarray, frames: np.ndarray, source_text: np.ndarray, edit_text: np.ndarray
) -> float:
    """Cosine similarity of two changes, mean over frames: from source to edited frame, and from source to edit prompt.

    An unchanged frame scores 0, so a copy of the source scores low, unlike in all other metrics here. NaN if both prompts
    have the same embedding.
    """
    wanted = edit_text - source_text
    changes = frames - source_frames
    lengths = np.linalg.norm(changes, axis=-1) * np.linalg.norm(wanted)
    if not wanted.any():
        return float("nan")
    return float(np.divide(changes @ wanted, lengths, out=np.zeros(len(frames)), where=lengths > 0).mean())


def _of_length_one(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def check_pair(source: np.ndarray, edited: np.ndarray) -> None:
    """Raises ValueError unless both are (T, H, W, 3) uint8 of equal shape, with at least one frame."""
    for name, frames in (("source", source), ("edited", edited)):
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise ValueError(
                f"{name}: expected at least one frame, (T, H, W, 3) uint8, found {frames.shape} {frames.dtype}"
            )
    if source.shape != edited.shape:
        raise ValueError(
            f"edited: expected frames like those of the source, (T, H, W) {source.shape[:3]}, found {edited.shape[:3]}"
        )
