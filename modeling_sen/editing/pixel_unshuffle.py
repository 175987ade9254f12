# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""PixelUnshuffle: an autoencoder without weights, in place of a VAE.

Each square of pixels becomes the channels of one latent position. A small diffusion model can be trained on such latents from
nothing, and decoding loses nothing.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

CHANNELS = 3  # of a picture


class PixelUnshuffle(ModelMixin, ConfigMixin):
    """The parts of the interface of Diffusers' `AutoencoderKL` that video editing uses.

    Args:
        block_out_channels: channels after each halving, 3 at first and four times as many after each. Their number gives the
            scale, as in `AutoencoderKL`: 2 ** (number - 1) pixels a side are one latent position.
        latent_channels: the last of `block_out_channels`.
        scaling_factor: by which the caller multiplies latents, so that their standard deviation is about 1.

    Raises:
        ValueError: channels that do not follow from each other.
    """

    config: Any

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (3, 12, 48),
        latent_channels: int = 48,
        scaling_factor: float = 1.0,
    ):
        super().__init__()
        expected = [CHANNELS * 4**level for level in range(len(block_out_channels))]
        if not expected or list(block_out_channels) != expected or latent_channels != expected[-1]:
            raise ValueError(
                f"block_out_channels is {list(block_out_channels)} and latent_channels {latent_channels}, "
                f"expected 3, 12, 48, ... and the last of them"
            )
        self.factor = 2 ** (len(block_out_channels) - 1)
        # Not saved: it has the dtype and the device that `to` sets, which `ModelMixin` reads.
        self.register_buffer("placement", torch.zeros(()), persistent=False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "PixelUnshuffle":  # type: ignore[override]
        """From `config.json` alone: Diffusers writes no file of weights for it, and its own loader expects one.

        Args:
            kwargs: of Diffusers' `from_pretrained`, of which `torch_dtype` and those that say where files are are used.

        Raises:
            OSError: it cannot be found or read.
        """
        dtype = kwargs.pop("torch_dtype", None)
        config: Any = cls.load_config(pretrained_model_name_or_path, **kwargs)
        model: Any = cls.from_config(config)
        if dtype is not None:
            nn.Module.to(model, dtype)  # Diffusers' own `to` warns of modules kept in float32
        return model.eval()

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Pictures (batch, 3, height, width) -> `latent_dist`, whose `mode()` and `sample()` are the same
        (batch, latent_channels, height / factor, width / factor).

        Raises:
            RuntimeError: height or width is no multiple of the factor.
        """
        latents = nn.functional.pixel_unshuffle(x, self.factor)
        return AutoencoderKLOutput(latent_dist=IdentityDistribution(latents))  # type: ignore[arg-type]

    def decode(self, z: Tensor) -> DecoderOutput:
        """Latents (batch, latent_channels, h, w) -> `sample` (batch, 3, h * factor, w * factor)."""
        return DecoderOutput(sample=nn.functional.pixel_shuffle(z, self.factor))

    def forward(self, sample: Tensor) -> DecoderOutput:
        """Encodes and decodes."""
        return self.decode(self.encode(sample).latent_dist.mode())


__all__ = ["PixelUnshuffle"]
