# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Encoders of images and texts for editing metrics: any CLIP by its Hub id, or a SEN."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_sen.encoding import SENEncoder
from modeling_sen.evaluation.clip_embeddings import model_sha1
from modeling_sen.evaluation.editing_alignment import ImageTextEncoder

IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder and its exact version.

    Attributes:
        encoder: the encoder, with the name of the checkpoint.
        revision: commit of the checkpoint on the Hub.
        sha1: digest of its weights.
    """

    encoder: ImageTextEncoder
    revision: str | None
    sha1: str


def load_encoder(checkpoint: str, device: str | None = None, dtype: str | None = None) -> LoadedEncoder:
    """Loads an encoder of images and texts.

    Args:
        checkpoint: folder or Hub id of a CLIP or a model with the same interface (`get_image_features`,
            `get_text_features`), whose processor prepares the frames; or of a SEN with a text tower, which encodes each frame
            as a clip of one frame.
        device: device of the model; by default the first GPU, or the CPU.
        dtype: dtype of the model, e.g. `"bfloat16"`; by default that of the checkpoint.

    Texts are truncated to the model's maximum length (77 tokens in CLIP).

    Raises:
        ValueError: a model without this interface.
        OSError: no such checkpoint.
    """
    config = AutoConfig.from_pretrained(checkpoint)
    if config.model_type == "sen":
        sen = SENEncoder.from_pretrained(checkpoint, device, dtype)

        def read_sen(images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            return sen.encode([frame[None] for frame in images]), sen.encode_text(texts)

        return LoadedEncoder(ImageTextEncoder(checkpoint, read_sen), sen.processor.commit, model_sha1(sen.model))
    model: Any = AutoModel.from_pretrained(checkpoint, **({} if dtype is None else {"dtype": dtype}))
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"{checkpoint}: expected a model of images and texts, found one of type {config.model_type!r}"
        )
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    # SigLIP was trained on texts padded to full length.
    padding = "max_length" if config.model_type.startswith("siglip") else True
    longest = config.text_config.max_position_embeddings

    @torch.inference_mode()
    def read_clip(images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            inputs = processor(images=list(images[start : start + IMAGES_AT_ONCE]), return_tensors="pt").to(
                model.device
            )
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            rows.append(_as_rows(model.get_image_features(**inputs)))
        inputs = processor(
            text=list(texts), padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        ).to(model.device)
        return np.concatenate(rows), _as_rows(model.get_text_features(**inputs))

    return LoadedEncoder(ImageTextEncoder(checkpoint, read_clip), getattr(config, "_commit_hash", None), _sha1(model))


def _as_rows(features: Any) -> np.ndarray:
    """Embeddings as numpy; Transformers 5 returns them in an output object."""
    return getattr(features, "pooler_output", features).float().cpu().numpy()


def _sha1(model: torch.nn.Module) -> str:
    digest = hashlib.sha1()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


__all__ = ["LoadedEncoder", "load_encoder"]
