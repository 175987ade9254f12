# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Loads a Stable Diffusion pipeline's VAE, text encoder, tokenizer and scheduler."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import AutoTokenizer, CLIPTextModel

from modeling_sen.editing.base_unet import LOGIN, beside, load_part
from modeling_sen.editing.noise_levels import PREDICTIONS
from modeling_sen.editing.pixel_unshuffle import PixelUnshuffle
from modeling_sen.hub_files import FETCH_ARGUMENTS, HubSource, naming_errors, quiet_transformers

VAES = ("AutoencoderKL", "PixelUnshuffle")


@dataclass(frozen=True)
class BaseParts:
    """
    Attributes:
        vae: an `AutoencoderKL` or a `PixelUnshuffle`, frozen.
        text_encoder: a `CLIPTextModel`, frozen.
        tokenizer: the text encoder's tokenizer.
        scheduler: a `DDIMScheduler` with the base model's noise levels.
    """

    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: DDIMScheduler


def load_base_parts(source: HubSource, **kwargs: Any) -> BaseParts:
    """Loads the parts from the folders `vae`, `text_encoder`, `tokenizer` and `scheduler`.

    Any scheduler is converted to a `DDIMScheduler` with the same betas, prediction type, offset and spacing of timesteps.
    Clipping of samples is disabled, because it would damage latents.

    Args:
        source: location of the pipeline.
        kwargs: arguments of Diffusers' `from_pretrained`: `torch_dtype` (by default float32), `variant`.

    Raises:
        OSError: a part cannot be found or read.
        RuntimeError: weights are missing.
        ValueError: a VAE of an unsupported class; a scheduler whose model predicts neither noise nor velocity.
    """
    what = f"base model {source.location}"
    kwargs = {key: value for key, value in kwargs.items() if key not in FETCH_ARGUMENTS}
    vae = _load_vae(beside(source, "vae"), what, kwargs)
    # By default Transformers uses the dtype of the files, but Diffusers float32; the parts must agree.
    dtype = kwargs.pop("torch_dtype", None) or torch.float32
    with quiet_transformers():
        text_encoder = load_part(
            CLIPTextModel, beside(source, "text_encoder"), f"{what}: text_encoder", {**kwargs, "dtype": dtype}
        )
    words = beside(source, "tokenizer")
    with naming_errors(f"{what}: tokenizer", LOGIN):
        words.file("tokenizer_config.json")
        tokenizer = AutoTokenizer.from_pretrained(words.location, **words.arguments)
    return BaseParts(
        vae=vae.requires_grad_(False).eval(),
        text_encoder=text_encoder.requires_grad_(False).eval(),
        tokenizer=tokenizer,
        scheduler=_load_scheduler(beside(source, "scheduler"), what),
    )


def _load_vae(source: HubSource, what: str, kwargs: dict[str, Any]) -> Any:
    with naming_errors(f"{what}: vae", LOGIN):
        found = json.loads(source.file("config.json").read_text()).get("_class_name")  # type: ignore[union-attr]
        if found not in VAES:
            raise ValueError(f"its class is {found!r}, expected {' or '.join(VAES)}")
        if found == "PixelUnshuffle":
            return PixelUnshuffle.from_pretrained(source.location, **kwargs, **source.files)
    return load_part(AutoencoderKL, source, f"{what}: vae", kwargs)


def _load_scheduler(source: HubSource, what: str) -> DDIMScheduler:
    scheduler_class: Any = DDIMScheduler
    with naming_errors(f"{what}: scheduler", LOGIN):
        source.file(scheduler_class.config_name)
        config = scheduler_class.load_config(source.location, **source.files)
        scheduler = scheduler_class.from_config(config, clip_sample=False)
        if (found := scheduler.config.prediction_type) not in PREDICTIONS:
            raise ValueError(f"its prediction_type is {found!r}, expected {' or '.join(PREDICTIONS)}")
    return scheduler


__all__ = ["BaseParts", "load_base_parts"]
