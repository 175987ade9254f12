# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Estimates the memory for tracking a clip."""

from modeling_sen.point_features import CHANNELS, STRIDES
from modeling_sen.point_network import SEMANTIC
from modeling_sen.tracking.path_search import NUM_CANDIDATES
from modeling_sen.tracking.track_clip import LONG, QUERIES, read_size

# Bytes per candidate: place and pose in float32, visibility, total in float32, index of the previous candidate in int64.
CANDIDATE_BYTES = 2 * 8 + 1 + 4 + 8


def memory_estimate(
    num_frames: int, frame_size: tuple[int, int], num_points: int, longest_side: int, semantic: bool
) -> int:
    """Bytes held while a clip is tracked: its frames, their features, and the states of the search.

    Not counted: the towers, and temporary memory of a step, at most some hundred megabytes.

    Args:
        num_frames: number of frames.
        frame_size: (height, width) of the original frames.
        num_points: number of tracked points.
        longest_side: `longest_side` of the tracker's configuration.
        semantic: whether the tracker reads a SEN's dense features.
    """
    original = frame_size[0] * frame_size[1] * 3
    height, width = read_size(frame_size, longest_side)
    channels = sum(count / stride**2 for count, stride in zip(CHANNELS, STRIDES, strict=True))
    channels += SEMANTIC / STRIDES[1] ** 2 if semantic else 0
    features = channels * (2 if num_frames > LONG else 4)
    resized = (
        4 if (height, width) != tuple(frame_size) else 1
    )  # bytes per pixel: grey, and RGB if it is a resized copy
    states = min(num_points, QUERIES) * NUM_CANDIDATES * CANDIDATE_BYTES
    return round(num_frames * (original + height * width * (resized + features) + states))
