# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Cycle check: whether the features at a peak of the matching cost match back to the query."""

import torch
from torch import Tensor

from modeling_sen.point_features import STRIDES, sample_features
from modeling_sen.point_network import EncodedFrames, EncodedQueries, PointNetwork

STRIDE = STRIDES[1]
CYCLE = 8.0  # largest distance in pixels between the match back and the query
BATCH = 512  # number of places matched back at once


def cycle_is_wrong(
    network: PointNetwork, encoded: EncodedFrames, query_frames: EncodedFrames, query_points: Tensor, peaks: Tensor
) -> Tensor:
    """Whether the features at a peak match another place in the query's frame better than the query.

    Args:
        network: the tracker's network.
        encoded: the T frames.
        query_frames: the frames of the queries, one for each of `query_points[:, 0].unique()`.
        query_points: (N, 3) t, x, y.
        peaks: (N, T, peaks, 2) x, y.

    Returns:
        (N, T, peaks) bool.
    """
    queries, times, count = peaks.shape[:3]
    by_frame = peaks.transpose(0, 1).reshape(times, queries * count, 2)
    rows = [
        sample_features(level.float(), by_frame, stride).reshape(times, queries, count, -1).transpose(0, 1)
        for level, stride in zip(encoded.levels, STRIDES, strict=True)
    ]  # (N, T, count, channels)
    wrong = torch.zeros(peaks.shape[:3], dtype=torch.bool, device=peaks.device)
    for number, frame in enumerate(query_points[:, 0].unique()):
        for chosen in (query_points[:, 0] == frame).nonzero()[:, 0].split(max(1, BATCH // (times * count))):
            vectors = [row[chosen].flatten(0, 2)[:, None] for row in rows]
            cost = network.match(query_frames[number : number + 1], EncodedQueries(vectors, None), centre=0)[:, 0]
            best = cost.flatten(1).argmax(-1)
            place = torch.stack([best % cost.shape[-1], best // cost.shape[-1]], dim=-1) * STRIDE + (STRIDE - 1) / 2
            miss = (place.reshape(len(chosen), -1, 2) - query_points[chosen, None, 1:]).norm(dim=-1)
            wrong[chosen] = (miss > CYCLE).reshape(len(chosen), times, count)
    return wrong
