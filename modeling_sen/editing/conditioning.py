# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Conditions a UNet on a SEN's dense features: maps added to the residuals of its down blocks, or tokens to attend to.

Maps keep the spatial layout, as in T2I-Adapter (arXiv 2302.08453). In a small study maps helped; with tokens only, training
did not make use of the features.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from modeling_sen.editing.attention import CastLayerNorm, CastLinear, grid_positions

TOKEN_GRID = 8  # rows and columns of a frame's tokens


class FeatureReader(nn.Module):
    """LayerNorm and a linear map to a common width for each neuron.

    Args:
        neuron_widths: neuron -> width of its features.
        width: the common width.
    """

    def __init__(self, neuron_widths: Mapping[str, int], width: int):
        super().__init__()
        self.norms = nn.ModuleDict({name: CastLayerNorm(size) for name, size in neuron_widths.items()})
        self.enter = nn.ModuleDict({name: CastLinear(size, width) for name, size in neuron_widths.items()})

    def forward(self, features: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Maps features, neuron -> (videos, frames, h, w, its width), to a list of (videos * frames, width, h, w)."""
        maps = []
        for name, values in features.items():
            values = values.flatten(0, 1).to(dtype)
            maps.append(self.enter[name](self.norms[name](values)).movedim(-1, 1))
        return maps


class ResidualConditioning(nn.Module):
    """Residuals for the down blocks of a UNet: the mean of the maps through 1x1 convolutions initialised to zero.

    Args:
        width: width of the input maps.
        down_widths: channels of each down block.
    """

    def __init__(self, width: int, down_widths: Sequence[int]):
        super().__init__()
        self.leave = nn.ModuleList(CastLinear(width, channels) for channels in down_widths)
        for layer in self.leave:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Maps (frames, width, h, w) and (height, width) per block -> (frames, channels, height, width) per block."""
        residuals = []
        for layer, size in zip(self.leave, sizes, strict=True):
            hidden = nn.functional.gelu(mean_at(maps, size))
            residuals.append(layer(hidden.movedim(1, -1)).movedim(-1, 1))  # a 1x1 convolution
        return residuals


def mean_at(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Mean of maps (frames, width, h, w) after resizing to `size`, (height, width)."""
    # In float32, because not every device implements antialiased resizing of bfloat16.
    resized = [
        nn.functional.interpolate(each.float(), tuple(size), mode="bilinear", antialias=True).to(each.dtype)
        for each in maps
    ]
    return torch.stack(resized).mean(dim=0)


def frame_tokens(maps: Sequence[Tensor], frames: int) -> Tensor:
    """Pools maps (videos * frames, width, h, w) to tokens (videos * frames, tokens, width) and adds position encodings."""
    pooled = mean_at(maps, (TOKEN_GRID, TOKEN_GRID)).flatten(2).transpose(1, 2)  # (videos * frames, tokens, width)
    positions = grid_positions(frames, TOKEN_GRID, TOKEN_GRID, pooled.shape[-1]).to(pooled)
    return pooled + positions.unflatten(0, (frames, -1)).repeat(len(pooled) // frames, 1, 1)


__all__ = ["FeatureReader", "ResidualConditioning", "frame_tokens", "mean_at"]
