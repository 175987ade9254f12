# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The networks of the tracker as one module: they encode frames and queries, match, score and refine.

The pyramid's features say where a point is. Tokens of a SEN's neurons, sharpened to the pyramid's stride of 4, say which
point it is; their weights in matching and scoring start at zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .point_features import CELLS, CHANNELS, STRIDES, FeaturePyramid, query_patches, sample_features
from .point_refiner import PatchComparison, PointRefiner, RefinedTracks

SEMANTIC = 32  # channels of the sharpened tokens
APART = 3  # cells between two peaks at least
SHARPNESS = 2.3  # logarithm of the scale of a cosine, at first


@dataclass
class EncodedFrames:
    """Of T frames: `levels`, of a [`FeaturePyramid`]; `semantic` (T, 32, h, w) of length one at stride 4, where tokens were
    given.
    """

    levels: tuple[Tensor, ...]
    semantic: Tensor | None

    def __getitem__(self, frames: slice) -> "EncodedFrames":
        semantic = None if self.semantic is None else self.semantic[frames]
        return EncodedFrames(tuple(level[frames] for level in self.levels), semantic)

    def __len__(self) -> int:
        return len(self.levels[0])

    def to(self, dtype: torch.dtype) -> "EncodedFrames":
        semantic = None if self.semantic is None else self.semantic.to(dtype)
        return EncodedFrames(tuple(level.to(dtype) for level in self.levels), semantic)

    def expand(self, times: int) -> "EncodedFrames":
        """A single frame as many, without a copy."""
        semantic = None if self.semantic is None else self.semantic.expand(times, -1, -1, -1)
        return EncodedFrames(tuple(level.expand(times, -1, -1, -1) for level in self.levels), semantic)

    @classmethod
    def join(cls, parts: Sequence["EncodedFrames"]) -> "EncodedFrames":
        levels = tuple(torch.cat(each) for each in zip(*(part.levels for part in parts), strict=True))
        rows = [part.semantic for part in parts if part.semantic is not None]
        return cls(levels, torch.cat(rows) if rows else None)


@dataclass
class EncodedQueries:
    """Of N queries: `patches`, for each stride (N, cells, channels); `semantic` (N, 32) where the frames have it."""

    patches: list[Tensor]
    semantic: Tensor | None

    def __getitem__(self, queries: slice | Tensor) -> "EncodedQueries":
        semantic = None if self.semantic is None else self.semantic[queries]
        return EncodedQueries([patch[queries] for patch in self.patches], semantic)

    def join(self, others: "EncodedQueries") -> "EncodedQueries":
        patches = [torch.cat(pair) for pair in zip(self.patches, others.patches, strict=True)]
        if self.semantic is None or others.semantic is None:
            return EncodedQueries(patches, None)
        return EncodedQueries(patches, torch.cat([self.semantic, others.semantic]))


class SharpeningHead(nn.Module):
    """Brings the tokens of each neuron to stride 4 of the frames, guided by the pyramid's features there."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.enter = nn.ModuleList(nn.Linear(width, SEMANTIC, bias=False) for width in widths)
        self.sharpen = nn.Sequential(
            nn.Conv2d(SEMANTIC + CHANNELS[1], CHANNELS[1], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS[1], SEMANTIC, 1),
        )

    def forward(self, tokens: Sequence[Tensor], guide: Tensor) -> Tensor:
        """Tokens of each neuron (T, h, w, width) and the guide (T, 48, H / 4, W / 4) -> (T, 32, H / 4, W / 4)."""
        coarse: Tensor | int = 0
        for norm, enter, each in zip(self.norms, self.enter, tokens, strict=True):
            narrow = enter(norm(each.to(guide))).permute(0, 3, 1, 2)
            coarse = coarse + F.interpolate(narrow, size=guide.shape[-2:], mode="bilinear")
        return F.normalize(coarse + self.sharpen(torch.cat([coarse, guide], dim=1)), dim=1)  # type: ignore[list-item]


class PointNetwork(nn.Module):
    """
    Args:
        widths: of the tokens of each neuron that is read; none for pixels alone.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.pyramid = FeaturePyramid()
        self.comparison = PatchComparison()
        self.refiner = PointRefiner()
        self.sharpening = SharpeningHead(widths) if widths else None
        self.match_scale = nn.Parameter(torch.full((2,), SHARPNESS))  # logarithms, of strides 4 and 8
        if widths:
            # In units of the first scale of a cosine: with steps of the usual size they would grow too slowly.
            self.semantic_scale = nn.Parameter(torch.zeros(()))  # of matching
            self.semantic_score = nn.Parameter(torch.zeros(2))  # weight of a cosine, and what is added

    def init_own_weights(self, std: float) -> None:
        init.constant_(self.match_scale, SHARPNESS)
        if self.sharpening is not None:
            init.zeros_(self.semantic_scale)
            init.zeros_(self.semantic_score)

    def encode_frames(self, frames: Tensor, tokens: Sequence[Tensor] = ()) -> EncodedFrames:
        """(T, H, W, 3) uint8, H and W multiples of 8; tokens (T, h, w, width) of each neuron that is read."""
        levels = self.pyramid(frames)
        semantic = None if self.sharpening is None else self.sharpening(tokens, levels[1])
        return EncodedFrames(levels, semantic)

    def encode_queries(self, encoded: EncodedFrames, query_points: Tensor) -> EncodedQueries:
        """Queries (N, 3) t, x, y, of these frames."""
        patches = query_patches(encoded.levels, query_points)
        if encoded.semantic is None:
            return EncodedQueries(patches, None)
        numbers = query_points[:, 0].round().long()
        rows = [
            sample_features(encoded.semantic[number : number + 1].to(point), point[None, None, 1:], STRIDES[1])[0, 0]
            for number, point in zip(numbers.tolist(), query_points, strict=True)
        ]
        return EncodedQueries(patches, torch.stack(rows) if rows else query_points.new_zeros(0, SEMANTIC))

    def match(self, encoded: EncodedFrames, queries: EncodedQueries, centre: int = CELLS // 2) -> Tensor:
        """The matching cost: logits (N, T, H / 4, W / 4) of each place in each frame being the query's.

        Args:
            centre: the cell of the patches that is compared.
        """
        fine, coarse = (
            torch.einsum(
                "nc,tchw->nthw", queries.patches[level][:, centre], encoded.levels[level].to(self.match_scale)
            )
            for level in (1, 2)
        )
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")
        scale = self.match_scale.exp()
        cost = scale[0] * fine + scale[1] * coarse
        if encoded.semantic is not None and queries.semantic is not None:
            cosines = torch.einsum("nc,tchw->nthw", queries.semantic, encoded.semantic.to(self.match_scale))
            cost = cost + math.exp(SHARPNESS) * self.semantic_scale * cosines
        return cost

    def score(self, encoded: EncodedFrames, queries: EncodedQueries, places: Tensor, poses: Tensor) -> Tensor:
        """(T, N, 2) and (T, N, 2) -> (T, N), the logit of the query's point being seen within three pixels of the place."""
        scores = self.comparison.score_places(self.comparison(encoded.levels, queries.patches, places, poses))
        if encoded.semantic is not None:
            found = sample_features(encoded.semantic.to(places), places, STRIDES[1])  # (T, N, 32)
            cosines = torch.einsum("tnc,nc->tn", found, queries.semantic)
            scores = scores + math.exp(SHARPNESS) * (self.semantic_score[0] * cosines + self.semantic_score[1])
        return scores

    def refine(
        self,
        encoded: EncodedFrames,
        queries: EncodedQueries,
        query_points: Tensor,
        query_frames: Tensor,
        tracks: Tensor,
        poses: Tensor,
        steps: int,
    ) -> list[RefinedTracks]:
        """As of [`PointRefiner`]."""
        return self.refiner(
            self.comparison, encoded.levels, queries.patches, query_points, query_frames, tracks, poses, steps
        )


def find_peaks(cost: Tensor, count: int) -> Tensor:
    """The highest cells of (N, T, h, w) that no neighbour exceeds, as x, y in pixels (N, T, count, 2), between the cells."""
    stride = STRIDES[1]
    width, height = cost.shape[3], cost.shape[2]
    flat = cost.flatten(2)
    highest = F.max_pool2d(cost.flatten(0, 1)[:, None], 2 * APART + 1, 1, APART).reshape(flat.shape)
    cells = flat.masked_fill(flat < highest, -torch.inf).topk(min(count, flat.shape[-1]), dim=-1).indices
    cells = F.pad(cells, (0, count - cells.shape[-1]), value=0)
    steps = torch.arange(-2, 3, device=cost.device)
    column = (cells % width)[..., None, None] + steps  # (N, T, count, 1, 5)
    row = (cells // width)[..., None, None] + steps[:, None]
    inner = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)  # (N, T, count, 5, 5)
    weights = flat.gather(2, inner.flatten(2)).reshape(*inner.shape[:3], 25).softmax(-1).reshape(inner.shape)
    x, y = ((weights * place).sum((-1, -2)) for place in (column.expand(inner.shape), row.expand(inner.shape)))
    return torch.stack([x, y], dim=-1) * stride + (stride - 1) / 2


__all__ = ["EncodedFrames", "EncodedQueries", "PointNetwork", "find_peaks"]
