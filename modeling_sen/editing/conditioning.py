# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How a SEN's dense features reach a UNet: as maps that are added to the residuals of its down blocks, or as tokens.

Maps keep the places of the frame, as in T2I-Adapter (arXiv 2302.08453); in a small study they helped, and tokens alone were
left unused.
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
        width: common to all.
    """

    def __init__(self, neuron_widths: Mapping[str, int], width: int):
        super().__init__()
        self.norms = nn.ModuleDict({name: CastLayerNorm(size) for name, size in neuron_widths.items()})
        self.enter = nn.ModuleDict({name: CastLinear(size, width) for name, size in neuron_widths.items()})

    def forward(self, features: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Neuron -> (videos, frames, h, w, its width); gives (videos * frames, width, h, w) of each."""
        maps = []
        for name, values in features.items():
            values = values.flatten(0, 1).to(dtype)
            maps.append(self.enter[name](self.norms[name](values)).movedim(-1, 1))
        return maps


class ResidualConditioning(nn.Module):
    """Maps for the down blocks of a UNet, by 1x1 convolutions that are zero at first.

    Args:
        width: of the maps that are read.
        down_widths: channels of each down block.
    """

    def __init__(self, width: int, down_widths: Sequence[int]):
        super().__init__()
        self.leave = nn.ModuleList(CastLinear(width, channels) for channels in down_widths)
        for layer in self.leave:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Maps (frames, width, h, w); (height, width) of each block -> (frames, channels, height, width) of each."""
        residuals = []
        for layer, size in zip(self.leave, sizes, strict=True):
            hidden = nn.functional.gelu(mean_at(maps, size))
            residuals.append(layer(hidden.movedim(1, -1)).movedim(-1, 1))  # a 1x1 convolution
        return residuals


def mean_at(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Mean of maps (frames, width, h, w) that are resized to one (height, width)."""
    # Of bfloat16, resizing with antialiasing is not implemented everywhere.
    resized = [
        nn.functional.interpolate(each.float(), tuple(size), mode="bilinear", antialias=True).to(each.dtype)
        for each in maps
    ]
    return torch.stack(resized).mean(dim=0)


def frame_tokens(maps: Sequence[Tensor], frames: int) -> Tensor:
    """Tokens of each frame with their positions: maps (videos * frames, width, h, w) -> (videos * frames, tokens, width)."""
    pooled = mean_at(maps, (TOKEN_GRID, TOKEN_GRID)).flatten(2).transpose(1, 2)  # (videos * frames, tokens, width)
    positions = grid_positions(frames, TOKEN_GRID, TOKEN_GRID, pooled.shape[-1]).to(pooled)
    return pooled + positions.unflatten(0, (frames, -1)).repeat(len(pooled) // frames, 1, 1)


__all__ = ["FeatureReader", "ResidualConditioning", "frame_tokens", "mean_at"]
