# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How much memory a clip takes to be tracked, known before it is."""

from modeling_sen.point_features import CHANNELS, STRIDES
from modeling_sen.point_network import SEMANTIC
from modeling_sen.tracking.path_search import NUM_CANDIDATES
from modeling_sen.tracking.track_clip import LONG, QUERIES, read_size

# Of a candidate: place and pose in float32, whether it is seen, total in float32, what came before in int64.
CANDIDATE_BYTES = 2 * 8 + 1 + 4 + 8


def memory_estimate(
    num_frames: int, frame_size: tuple[int, int], num_points: int, longest_side: int, semantic: bool
) -> int:
    """Bytes that stay while a clip is tracked: its frames, their features, and the states of the search.

    Not counted: the towers, and what a step needs for itself, some hundred megabytes at most.

    Args:
        frame_size: (height, width) of the original.
        num_points: that are tracked.
        longest_side: of the tracker's configuration.
        semantic: whether a SEN's dense features are read.
    """
    original = frame_size[0] * frame_size[1] * 3
    height, width = read_size(frame_size, longest_side)
    channels = sum(count / stride**2 for count, stride in zip(CHANNELS, STRIDES, strict=True))
    channels += SEMANTIC / STRIDES[1] ** 2 if semantic else 0
    features = channels * (2 if num_frames > LONG else 4)
    resized = 4 if (height, width) != tuple(frame_size) else 1  # colours, where they are another copy, and grey
    states = min(num_points, QUERIES) * NUM_CANDIDATES * CANDIDATE_BYTES
    return round(num_frames * (original + height * width * (resized + features) + states))
