# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Networks of point tracking: how well a place matches a query, and the refinement of whole tracks.

A place is compared with its query patch against patch, as in LocoTrack (arXiv 2407.15420), after the patch around it is
turned and scaled by the estimated pose of the point. Tracks are refined in a few steps by convolutions over time, as in TAPIR
(arXiv 2306.08637). Each query is refined alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .point_features import CELLS, STRIDES, patch_offsets, sample_features, turn

WIDTH = 128  # of the refiner's hidden state
ENCODING = 96  # of the comparison of two patches, a level
DILATIONS = (1, 2, 4, 1, 2, 4)  # frames, of the convolutions over time
FREQUENCIES = 4  # of the position relative to the query
FRAMES = 64  # compared at once
STEP = 4.0  # pixels to which an output of one corresponds
SURE = 4.0  # pixels at 256 x 256: confidence is the probability of a smaller error


@dataclass
class RefinedTracks:
    """Of one step of refinement. `tracks` (T, N, 2) x, y; `poses` (T, N, 2), scale times cosine and sine, relative to the
    query frame; `visibility_logits` (T, N); `confidence_logits` (T, N), of a visible point's error being below `SURE`.
    """

    tracks: Tensor
    poses: Tensor
    visibility_logits: Tensor
    confidence_logits: Tensor


class PatchComparison(nn.Module):
    """Compares patches around places with those of the queries, cell by cell, on all levels of a pyramid."""

    def __init__(self, hidden: int = 8):
        super().__init__()
        self.by_cell = nn.ModuleList(nn.Linear(CELLS, hidden) for _ in STRIDES)
        self.by_patch = nn.ModuleList(nn.Linear(CELLS * hidden, ENCODING) for _ in STRIDES)
        self.score = nn.Sequential(nn.Linear(len(STRIDES) * ENCODING, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    def forward(self, levels: tuple[Tensor, ...], patches: list[Tensor], places: Tensor, poses: Tensor) -> Tensor:
        """
        Args:
            levels: of the frames, for each stride (T, channels, h, w).
            patches: of the queries, for each stride (N, cells, channels).
            places: (T, N, 2) x, y.
            poses: (T, N, 2), by which the patches around the places are turned.

        Returns:
            (T, N, levels * encoding).
        """
        times, queries = places.shape[:2]
        if times > FRAMES:  # features of long clips are held in half precision, and widened a part at a time
            parts = zip(*(each.split(FRAMES) for each in (*levels, places, poses)), strict=True)
            return torch.cat([self(part[:-2], patches, *part[-2:]) for part in parts])
        offsets, encodings = turn(patch_offsets(places), poses), []  # (T, N, cells, 2)
        for level, stride, patch, by_cell, by_patch in zip(
            levels, STRIDES, patches, self.by_cell, self.by_patch, strict=True
        ):
            points = places[:, :, None] + offsets * stride
            found = sample_features(level.to(places), points.flatten(1, 2), stride)
            found = found.unflatten(1, (queries, CELLS))
            products = torch.einsum("nqc,tnpc->tnqp", patch, found)  # (T, N, cells of the query, cells of the place)
            encodings.append(by_patch(F.gelu(by_cell(products)).flatten(2)))
        return torch.cat(encodings, dim=-1)

    def score_places(self, encodings: Tensor) -> Tensor:
        """(..., levels * encoding) -> (...), the logit of the place being the query's, within three pixels and visible."""
        return self.score(encodings)[..., 0]


class TimeMixer(nn.Module):
    """A depthwise convolution over time and a two-layer perceptron, each with a residual."""

    def __init__(self, dilation: int, kernel: int = 5):
        super().__init__()
        self.time_norm = nn.LayerNorm(WIDTH)
        self.time = nn.Conv1d(WIDTH, WIDTH, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=WIDTH)
        self.channels = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        hidden = hidden + self.time(self.time_norm(hidden).transpose(1, 2)).transpose(1, 2)
        return hidden + self.channels(hidden)


class PointRefiner(nn.Module):
    """Moves whole tracks towards what their queries show, and tells where the point is visible."""

    def __init__(self) -> None:
        super().__init__()
        # Motion (4), position relative to the query (4 * frequencies), time (3), pose (2), the last step's logits (2).
        self.enter = nn.Linear(len(STRIDES) * ENCODING + 4 + 4 * FREQUENCIES + 3 + 2 + 2 + WIDTH, WIDTH)
        self.mixers = nn.ModuleList(TimeMixer(dilation) for dilation in DILATIONS)
        self.leave = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 6))
        self.keep = nn.Linear(WIDTH, WIDTH)

    def init_own_weights(self, std: float) -> None:
        init.zeros_(self.leave[1].weight)  # type: ignore[arg-type]  # tracks stay as they are at first
        init.zeros_(self.leave[1].bias)  # type: ignore[arg-type]

    def forward(
        self,
        compare: PatchComparison,
        levels: tuple[Tensor, ...],
        patches: list[Tensor],
        query_points: Tensor,
        query_frames: Tensor,
        tracks: Tensor,
        poses: Tensor,
        steps: int,
    ) -> list[RefinedTracks]:
        """
        Args:
            levels, patches: as of [`PatchComparison`].
            query_points: (N, 2) x, y.
            query_frames: (T, N), how many frames each frame lies after the query's.
            tracks, poses: (T, N, 2), to start from.
            steps: of refinement.

        Returns:
            The tracks after each step.
        """
        at_query = (query_frames == 0)[..., None]
        time = torch.stack(
            [at_query[..., 0].to(tracks), torch.tanh(query_frames / 8), torch.ones_like(tracks[..., 0])], -1
        )
        upright = torch.tensor([1.0, 0.0]).to(tracks)
        visibility = confidence = torch.zeros_like(tracks[..., 0])
        hidden = tracks.new_zeros(*tracks.shape[:2], WIDTH)
        found = []
        for _ in range(steps):
            # Each step learns from its own error only.
            tracks = torch.where(at_query, query_points, tracks).detach()
            poses = torch.where(at_query, upright, poses).detach()
            logits = torch.stack([visibility, confidence], dim=-1).detach()
            encodings = compare(levels, patches, tracks, poses)
            shape = [_motion(tracks), _relative_position(tracks - query_points), time, poses, logits]
            mixed = self.enter(torch.cat([encodings, *shape, hidden], dim=-1)).transpose(0, 1)
            for mixer in self.mixers:
                mixed = mixer(mixed)
            mixed = mixed.transpose(0, 1)  # (T, N, width)
            shift, pose_shift, change = self.leave(mixed).split(2, dim=-1)
            hidden = self.keep(mixed)
            tracks, poses = tracks + STEP * shift, poses + pose_shift
            visibility, confidence = change.unbind(-1)
            found.append(RefinedTracks(tracks, poses, visibility, confidence))
        return found


def _motion(tracks: Tensor) -> Tensor:
    """(T, N, 2) -> (T, N, 4): the shifts from the frame before and to the frame after, in eight pixels."""
    shifts, none = tracks.diff(dim=0) / 8, torch.zeros_like(tracks[:1])
    return torch.cat([torch.cat([none, shifts]), torch.cat([shifts, none])], dim=-1)


def _relative_position(offsets: Tensor) -> Tensor:
    """(T, N, 2) pixels -> (T, N, 4 * frequencies): sines and cosines, the longest over 200 pixels."""
    angles = (offsets / 32)[..., None] * 2.0 ** torch.arange(FREQUENCIES).to(offsets)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)


__all__ = ["SURE", "PatchComparison", "PointRefiner", "RefinedTracks"]
