# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""PixelUnshuffle: an autoencoder without weights, in place of a VAE.

Each square of pixels becomes the channels of one latent position. Decoding is exact, and a small diffusion model can be
trained from scratch on these latents.
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
        block_out_channels: 3, 12, 48, ...: channels before and after each halving of the size, which multiplies them by four.
            As in `AutoencoderKL`, the side length of a latent position is 2 ** (number of entries - 1) pixels.
        latent_channels: the last of `block_out_channels`.
        scaling_factor: factor by which the caller multiplies latents to give them a standard deviation of about 1.

    Raises:
        ValueError: other channels.
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
        # An unsaved buffer that stores dtype and device for `ModelMixin`.
        self.register_buffer("placement", torch.zeros(()), persistent=False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "PixelUnshuffle":  # type: ignore[override]
        """Loads from `config.json` only, because Diffusers' own loader expects a file of weights.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            kwargs: arguments of Diffusers' `from_pretrained`; only `torch_dtype` and those that locate files are used.

        Raises:
            OSError: the configuration cannot be found or read.
        """
        dtype = kwargs.pop("torch_dtype", None)
        config: Any = cls.load_config(pretrained_model_name_or_path, **kwargs)
        model: Any = cls.from_config(config)
        if dtype is not None:
            nn.Module.to(model, dtype)  # Diffusers' `to` would warn about modules kept in float32
        return model.eval()

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Pictures (batch, 3, height, width) -> `latent_dist`, whose `mode()` and `sample()` are the same
        (batch, latent_channels, height / factor, width / factor).

        Raises:
            RuntimeError: height or width is not a multiple of the factor.
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
