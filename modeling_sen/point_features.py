# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a tracked point looks like: a convolutional pyramid of the frames, and patches read from it around points.

Points are x, y in pixels with pixel centres at whole numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (2, 4, 8)  # pixels between the cells of each level
CHANNELS = (24, 48, 64)
RADIUS = 3  # cells of a patch on each side of its point
CELLS = (2 * RADIUS + 1) ** 2


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(4, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(4, channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class FeaturePyramid(nn.Module):
    """Features of frames at strides 2, 4 and 8, each cell of length one, so that products are cosines.

    A frame is encoded alone: its features depend on no other frame.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *CHANNELS[:-1])
        # An even kernel puts the centre of a cell at the centre of its pixels: turned patches then turn about their points.
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), nn.ReLU(), Residual(after), nn.ReLU())
            for before, after in zip(inputs, CHANNELS, strict=True)
        )
        self.deep = nn.Sequential(Residual(CHANNELS[2]), nn.ReLU())
        self.down = nn.Conv2d(CHANNELS[2], CHANNELS[1], 1)
        self.heads = nn.ModuleList(nn.Conv2d(channels, channels, 1) for channels in CHANNELS)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """(frames, H, W, 3) uint8 RGB -> for each stride (frames, channels, H // stride, W // stride) float."""
        features = frames.movedim(-1, 1).to(self.down.weight) / 127.5 - 1
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        levels[2] = self.deep(levels[2])
        coarse = F.interpolate(self.down(levels[2]), size=levels[1].shape[-2:], mode="bilinear")
        levels[1] = levels[1] + coarse  # a cell of 4 pixels is told from others by its surroundings
        return tuple(F.normalize(head(level), dim=1) for head, level in zip(self.heads, levels, strict=True))


def sample_features(features: Tensor, points: Tensor, stride: int) -> Tensor:
    """Features between the cells, those of the border beyond it.

    Args:
        features: (frames, channels, h, w).
        points: (frames, points, 2) x, y in pixels of the frames.

    Returns:
        (frames, points, channels).
    """
    height, width = features.shape[-2:]
    size = torch.tensor([width, height], dtype=points.dtype, device=points.device)
    grid = (points + 0.5) * (2 / stride) / size - 1
    sampled = F.grid_sample(features, grid[:, :, None], padding_mode="border", align_corners=False)
    return sampled[..., 0].transpose(1, 2)


def patch_offsets(like: Tensor) -> Tensor:
    """(cells of a patch, 2) x, y, in cells, row by row."""
    steps = torch.arange(-RADIUS, RADIUS + 1, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)


def turn(offsets: Tensor, poses: Tensor) -> Tensor:
    """Offsets (n, 2) of a patch, scaled and turned by poses (..., 2), scale times cosine and sine: (..., n, 2)."""
    x, y = offsets.unbind(-1)
    cosine, sine = poses[..., :1], poses[..., 1:]
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)


def query_patches(levels: tuple[Tensor, ...], query_points: Tensor) -> list[Tensor]:
    """Patches around the queries, each in its own frame.

    Args:
        levels: of a [`FeaturePyramid`].
        query_points: (queries, 3) t, x, y.

    Returns:
        For each level (queries, cells, channels).
    """
    frames = query_points[:, 0].round().long()
    order = frames.argsort(stable=True)
    offsets, patches = patch_offsets(query_points), []
    for level, stride in zip(levels, STRIDES, strict=True):
        points = query_points[:, None, 1:] + offsets * stride  # (queries, cells, 2)
        parts = []
        for frame in frames.unique().tolist():
            chosen = points[frames == frame]
            sampled = sample_features(level[frame : frame + 1].to(chosen), chosen.reshape(1, -1, 2), stride)
            parts.append(sampled.unflatten(1, (len(chosen), CELLS))[0])
        joined = torch.cat(parts) if parts else points.new_zeros(0, CELLS, level.shape[1])
        patches.append(joined[torch.argsort(order)])
    return patches


__all__ = [
    "CELLS",
    "CHANNELS",
    "RADIUS",
    "STRIDES",
    "FeaturePyramid",
    "patch_offsets",
    "query_patches",
    "sample_features",
    "turn",
]
