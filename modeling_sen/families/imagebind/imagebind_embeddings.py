# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Embeddings of ImageBind's modalities: inputs become tokens (batch, tokens, width), of texts without a class token."""

from typing import Any

import torch
from torch import Tensor, nn

from modeling_sen.families.imagebind.configuration_imagebind import (
    ImageBindAudioConfig,
    ImageBindDepthConfig,
    ImageBindImuConfig,
    ImageBindTextConfig,
    ImageBindThermalConfig,
    ImageBindVisionConfig,
)

PATCH_NORM_EPS = 1e-5  # all other layer norms have the epsilon of the configuration


class ImageBindPatchEmbeddings(nn.Module):
    """Patches of equal size behind a class token, plus position embeddings.

    Args:
        name: of the input, for errors.
        sizes: shape of one sample, without the batch.
        num_patches: of one sample.
        width: of the tokens.
        projection: maps samples to (batch, width, ...), one position for each patch.
        with_norm: whether a layer norm follows the projection.
    """

    def __init__(
        self, name: str, sizes: tuple[int, ...], num_patches: int, width: int, projection: nn.Module, with_norm: bool
    ):
        super().__init__()
        self.name, self.sizes = name, sizes
        self.patch_embedding: Any = projection
        self.patch_norm = nn.LayerNorm(width, eps=PATCH_NORM_EPS) if with_norm else None
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.position_embedding = nn.Parameter(torch.zeros(num_patches + 1, width))

    def forward(self, values: Tensor) -> Tensor:
        """(batch, *sizes) -> (batch, patches + 1, width).

        Raises:
            ValueError: another shape.
        """
        if tuple(values.shape[1:]) != self.sizes:
            expected = ", ".join(map(str, self.sizes))
            raise ValueError(f"{self.name}: found shape {tuple(values.shape)}, expected (batch, {expected})")
        patches = self._patches(values.to(self.patch_embedding.weight.dtype))
        if self.patch_norm is not None:
            patches = self.patch_norm(patches)
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return tokens + self.position_embedding

    def _patches(self, values: Tensor) -> Tensor:
        return self.patch_embedding(values).flatten(2).transpose(1, 2)  # (batch, patches, width)


class ImageBindVisionEmbeddings(ImageBindPatchEmbeddings):
    """An image is repeated to a clip of two frames. A layer norm follows the position embeddings."""

    def __init__(self, config: ImageBindVisionConfig):
        patch = (config.tubelet_size, config.patch_size, config.patch_size)
        projection = nn.Conv3d(config.num_channels, config.hidden_size, patch, stride=patch, bias=False)
        sizes = (config.num_channels, config.tubelet_size, config.image_size, config.image_size)
        num_patches = (config.image_size // config.patch_size) ** 2
        super().__init__("pixel_values", sizes, num_patches, config.hidden_size, projection, with_norm=False)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, values: Tensor) -> Tensor:
        if values.ndim == 4:
            values = values.unsqueeze(2).expand(-1, -1, self.sizes[1], -1, -1)
        return self.pre_layernorm(super().forward(values))


class ImageBindAudioEmbeddings(ImageBindPatchEmbeddings):
    def __init__(self, config: ImageBindAudioConfig):
        size, stride = config.patch_size, config.patch_stride
        projection = nn.Conv2d(1, config.hidden_size, size, stride=stride, bias=False)
        rows, columns = ((length - size) // stride + 1 for length in (config.num_mel_bins, config.num_mel_frames))
        sizes = (1, config.num_mel_bins, config.num_mel_frames)
        super().__init__("input_features", sizes, rows * columns, config.hidden_size, projection, with_norm=True)


class ImageBindPlaneEmbeddings(ImageBindPatchEmbeddings):
    """Pictures of one channel: disparity or heat."""

    def __init__(self, config: ImageBindDepthConfig | ImageBindThermalConfig):
        projection = nn.Conv2d(1, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False)
        sizes = (1, config.image_size, config.image_size)
        num_patches = (config.image_size // config.patch_size) ** 2
        super().__init__("pixel_values", sizes, num_patches, config.hidden_size, projection, with_norm=True)


class ImageBindImuEmbeddings(ImageBindPatchEmbeddings):
    """Each token is a linear map of a few samples of all channels."""

    def __init__(self, config: ImageBindImuConfig):
        self.samples = config.patch_size
        projection = nn.Linear(config.num_channels * config.patch_size, config.hidden_size, bias=False)
        sizes = (config.num_channels, config.num_samples)
        num_patches = config.num_samples // config.patch_size
        super().__init__("imu_values", sizes, num_patches, config.hidden_size, projection, with_norm=True)

    def _patches(self, values: Tensor) -> Tensor:
        pieces = values.unfold(-1, self.samples, self.samples)  # (batch, channels, patches, samples)
        return self.patch_embedding(pieces.transpose(1, 2).flatten(2))


class ImageBindTextEmbeddings(nn.Module):
    def __init__(self, config: ImageBindTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Parameter(torch.zeros(config.max_position_embeddings, config.hidden_size))

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, width).

        Raises:
            ValueError: more tokens than there are positions.
        """
        count, longest = input_ids.shape[-1], len(self.position_embedding)
        if input_ids.ndim != 2 or count > longest:
            raise ValueError(f"input_ids: found shape {tuple(input_ids.shape)}, expected (batch, at most {longest})")
        return self.token_embedding(input_ids) + self.position_embedding[:count]


EMBEDDINGS = {
    ImageBindVisionConfig.model_type: ImageBindVisionEmbeddings,
    ImageBindTextConfig.model_type: ImageBindTextEmbeddings,
    ImageBindAudioConfig.model_type: ImageBindAudioEmbeddings,
    ImageBindDepthConfig.model_type: ImageBindPlaneEmbeddings,
    ImageBindThermalConfig.model_type: ImageBindPlaneEmbeddings,
    ImageBindImuConfig.model_type: ImageBindImuEmbeddings,
}


__all__ = ["EMBEDDINGS", "ImageBindPatchEmbeddings", "ImageBindTextEmbeddings"]
