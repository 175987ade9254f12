# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Tracks points of a clip on resized frames, and returns positions in pixels of the original frames."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from modeling_sen.point_network import EncodedFrames
from modeling_sen.tracking.flow import DenseFlow, grey_frame, resize_frame
from modeling_sen.tracking.query_points import resolve_query_points
from modeling_sen.tracking.tracker import ClipTracker
from modeling_sen.tracking.tracking_output import SENTrackingOutput

if TYPE_CHECKING:
    from modeling_sen.modeling_sen_tracking import SENForVideoTracking

CELL = 8  # pixels; sides of resized frames are multiples of the coarsest level's stride
SMALLEST = 16  # smallest side of resized frames in pixels; DIS needs 12
QUERIES = 256  # queries tracked at once
ENCODED = 16  # frames encoded at once
LONG = 96  # features of clips with more frames are stored in half precision


def track_clip(
    model: "SENForVideoTracking",
    frames: np.ndarray,
    query_points: np.ndarray,
    progress: Callable[[int, int], None] | None,
) -> SENTrackingOutput:
    """See `SENForVideoTracking.track`."""
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(
            f"frames: expected at least one frame, (T, H, W, 3) uint8, found {frames.shape} {frames.dtype}"
        )
    query_points = resolve_query_points(len(frames), frames.shape[1:3], query_points)
    tracks = np.zeros((len(frames), len(query_points), 2), dtype=np.float32)
    probability = np.zeros(tracks.shape[:2], dtype=np.float32)
    if len(query_points):
        size = frames.shape[1:3]
        read = read_size(size, model.config.longest_side)
        resized = frames if read == size else np.stack([resize_frame(frame, read) for frame in frames])
        tracker = ClipTracker(
            model.network,
            encode(model, resized),
            np.stack([grey_frame(frame) for frame in resized]),
            DenseFlow(torch.get_num_threads()),
            model.config.refinement_steps,
        )
        scale = np.divide(read, size)[::-1]  # x, y
        inner = query_points.copy()
        inner[:, 1:] = (query_points[:, 1:] + 0.5) * scale - 0.5
        starts = range(0, len(inner), QUERIES)
        steps = iter(range(1, 2 * len(frames) * len(starts) + 1))

        def searched() -> None:
            if progress is not None:
                progress(next(steps), 2 * len(frames) * len(starts))

        for start in starts:
            chosen = slice(start, start + QUERIES)
            found = tracker.track(torch.tensor(inner[chosen], device=model.device).float(), searched)
            tracks[:, chosen] = (found.tracks + 0.5) / scale - 0.5
            probability[:, chosen] = calibrated(found.probability, model.config.calibration)
    visible = probability >= model.config.visibility_threshold
    times, rows = query_points[:, 0].astype(int), np.arange(len(query_points))
    tracks[times, rows], probability[times, rows], visible[times, rows] = query_points[:, 1:], 1.0, True
    return SENTrackingOutput(
        tracks=tracks,
        visibility=visible,
        confidence=probability,
        query_points=query_points,
        frame_size=frames.shape[1:3],
    )


def encode(model: "SENForVideoTracking", frames: np.ndarray) -> EncodedFrames:
    """Encodes frames (T, H, W, 3) uint8, with H and W multiples of 8."""
    tokens = model.read_tokens(frames)
    parts = []
    for start in range(0, len(frames), ENCODED):
        chosen = slice(start, start + ENCODED)
        here = torch.from_numpy(np.ascontiguousarray(frames[chosen])).to(model.device)
        encoded = model.network.encode_frames(here, [each[chosen] for each in tokens])
        parts.append(encoded.to(torch.float16) if len(frames) > LONG else encoded)
    return EncodedFrames.join(parts)


def read_size(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """(height, width) of resized frames: multiples of 8, at least 16, with the longer side at most about `longest_side`."""
    scale = min(1.0, longest_side / max(size))
    height, width = (max(SMALLEST, round(side * scale / CELL) * CELL) for side in size)
    return height, width


def calibrated(probability: np.ndarray, calibration: tuple[float, float] | list[float]) -> np.ndarray:
    """Calibrates probabilities by scaling and shifting their logits; zero stays zero."""
    inner = probability.clip(1e-6, 1 - 1e-6)
    logits = np.log(inner / (1 - inner)) * calibration[0] + calibration[1]
    return np.where(probability > 0, 1 / (1 + np.exp(-logits)), 0).astype(np.float32)
