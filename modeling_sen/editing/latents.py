# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Inputs and outputs of a diffusion model: latents of frames, text states, and the frame size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_sen.editing.base_parts import BaseParts


def vae_factor(vae: Any) -> int:
    """Side length of a latent position in pixels."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def encode_frames(vae: Any, frames: np.ndarray, chunk: int = 4) -> Tensor:
    """Encodes frames to latents: the mode of the VAE's distribution, multiplied by its scaling factor.

    Args:
        vae: the VAE.
        frames: (T, H, W, 3) uint8, in a size returned by [`edit_size`].
        chunk: number of frames per VAE call, which bounds memory.

    Returns:
        (1, channels, T, h, w), in the VAE's dtype and on its device.

    Raises:
        ValueError: frames of another shape or dtype, or with a size that is not a multiple of the VAE's factor.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames: expected (T, H, W, 3) uint8, found shape {frames.shape} of {frames.dtype}")
    (height, width), factor = frames.shape[1:3], vae_factor(vae)
    if height % factor or width % factor:
        raise ValueError(f"frames: expected height and width in multiples of {factor}, found {height} x {width}")
    parts = []
    for start in range(0, len(frames), chunk):
        pixels = torch.from_numpy(np.ascontiguousarray(frames[start : start + chunk])).to(vae.device)
        pixels = (pixels.movedim(-1, 1).float() / 127.5 - 1).to(vae.dtype)
        parts.append(vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(parts).transpose(0, 1).unsqueeze(0)


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor, chunk: int = 4) -> np.ndarray:
    """Decodes latents (1, channels, T, h, w), scaled as in [`encode_frames`], to frames (T, H, W, 3) uint8.

    Args:
        vae: the VAE.
        latents: the latents.
        chunk: number of frames per VAE call, which bounds memory.

    Raises:
        ValueError: latents of another shape.
    """
    channels = vae.config.latent_channels
    if latents.ndim != 5 or latents.shape[:2] != (1, channels):
        raise ValueError(f"latents: expected (1, {channels}, T, h, w), found shape {tuple(latents.shape)}")
    parts = []
    for values in latents[0].transpose(0, 1).split(chunk):
        pixels = vae.decode(values.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        pixels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        parts.append(pixels.movedim(1, -1).cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def encode_prompts(parts: BaseParts, prompts: Sequence[str], negative_prompt: str | None = None) -> Tensor:
    """Encodes prompts, padded to the text encoder's full length.

    Args:
        parts: the base model's text encoder and tokenizer.
        prompts: B prompts, none of them empty.
        negative_prompt: a text whose states become the first row; it may be empty, as in classifier-free guidance without a
            negative prompt.

    Returns:
        (B, tokens, width), or (1 + B, tokens, width) with a negative prompt; 77 tokens in Stable Diffusion.

    Raises:
        ValueError: an empty prompt; a prompt with more tokens than the text encoder's maximum.
    """
    if empty := [prompt for prompt in prompts if not prompt.strip()]:
        raise ValueError(f"prompt: expected some words, found {empty[0]!r}")
    texts = list(prompts) if negative_prompt is None else [negative_prompt, *prompts]
    limit = parts.text_encoder.config.max_position_embeddings
    for text in texts:
        if (found := len(parts.tokenizer(text, verbose=False).input_ids)) > limit:
            raise ValueError(f"prompt {text!r}: expected at most {limit} tokens with start and end, found {found}")
    ids = parts.tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt").input_ids
    return parts.text_encoder(ids.to(parts.text_encoder.device)).last_hidden_state


def edit_size(height: int, width: int, vae: Any, unet: Any) -> tuple[int, int]:
    """The frame size for editing: close to the original aspect ratio, with at most the base model's number of pixels.

    Args:
        height, width: original frame size.
        vae, unet: the base model's.

    Returns:
        (height, width), multiples of the side length in pixels of a position in the UNet's lowest block; neither exceeds the
        original.

    Raises:
        ValueError: the frames are smaller than one such position.
    """
    factor = vae_factor(vae)
    step = factor * 2 ** (len(unet.config.down_block_types) - 1)
    if min(height, width) < step:
        raise ValueError(
            f"frames: expected at least {step} pixels a side for this base model, found {height} x {width}"
        )
    sample = unet.config.sample_size
    rows, columns = (sample, sample) if isinstance(sample, int) else sample
    most = rows * columns * factor**2
    scale = min(1.0, math.sqrt(most / (height * width)))
    sizes = [
        _shortened(high, wide, most, step)
        for high in _multiples(height, scale, step)
        for wide in _multiples(width, scale, step)
    ]
    sizes = [size for size in sizes if min(size) > 0]  # the multiples above may leave no pixels for the longer side
    return min(sizes, key=lambda size: (abs(math.log(size[0] * width / (size[1] * height))), -size[0]))


def _multiples(length: int, scale: float, step: int) -> list[int]:
    """The multiples of `step` below and above `length * scale`, between `step` and `length`."""
    below = math.floor(length * scale / step + 1e-9) * step
    return sorted({min(max(each, step), length // step * step) for each in (below, below + step)})


def _shortened(height: int, width: int, most: int, step: int) -> tuple[int, int]:
    """Shortens the longer side to a multiple of `step`, so that the size has at most `most` pixels."""
    short, long = sorted((height, width))
    long = min(long, most // short // step * step)
    return (short, long) if height <= width else (long, short)


__all__ = ["decode_latents", "edit_size", "encode_frames", "encode_prompts", "vae_factor"]
