# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Online tracking: each frame is tracked from past frames only, in memory independent of the number of frames."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modeling_sen.point_network import EncodedFrames, EncodedQueries, find_peaks
from modeling_sen.tracking.cycle import cycle_is_wrong
from modeling_sen.tracking.flow import GAPS, DenseFlow, grey_frame, resize_frame
from modeling_sen.tracking.path_search import NUM_PEAKS, FrameStates, PathCosts, advance, trace_back
from modeling_sen.tracking.query_points import resolve_query_points
from modeling_sen.tracking.track_clip import calibrated, encode, read_size
from modeling_sen.tracking.tracker import frame_score, refine, seen_probability

if TYPE_CHECKING:
    from modeling_sen.modeling_sen_tracking import SENForVideoTracking

REMEMBERED = 12  # number of past frames kept, over which tracks are refined; more than the largest gap


@dataclass
class StreamedPoints:
    """Points in the latest frame.

    Attributes:
        ids: (N,) int64.
        points: (N, 2) float32 x, y in pixels of the frame.
        visibility: (N,) bool.
        confidence: (N,) float32.
    """

    ids: np.ndarray
    points: np.ndarray
    visibility: np.ndarray
    confidence: np.ndarray


class PointStream:
    """Tracks points online. Created by `SENForVideoTracking.stream()`.

    ```python
    stream = model.stream()
    stream.step(first_frame)
    ids = stream.add([[120.5, 64.0]])
    for frame in frames:
        found = stream.step(frame)
    ```
    """

    def __init__(self, model: "SENForVideoTracking"):
        self.model, self.costs = model, PathCosts()
        self.flow = DenseFlow(torch.get_num_threads())
        self.number = -1  # number of the newest frame
        self.size: tuple[int, int] | None = None
        self.frames: deque[EncodedFrames] = deque(maxlen=REMEMBERED)
        self.grey: deque[np.ndarray] = deque(maxlen=REMEMBERED)
        self.states: deque[FrameStates] = deque(maxlen=REMEMBERED)
        self.ids, self.next_id = np.zeros(0, dtype=np.int64), 0
        self.queries: EncodedQueries | None = None
        self.query_points = np.zeros((0, 3), dtype=np.float32)  # t, x, y in pixels of the resized frames
        self.query_frames: dict[int, EncodedFrames] = {}  # frames of queries, by number

    @torch.inference_mode()
    def add(self, points: object) -> np.ndarray:
        """Adds points (n, 2) x, y of the newest frame; tracking starts with the next frame.

        Returns:
            (n,) int64, the ids of the points.

        Raises:
            ValueError: no frame yet, or points outside it.
        """
        if self.size is None:
            raise ValueError("points: expected a frame first, by step(frame), found none")
        checked = resolve_query_points(1, self.size, query_points=points)
        if (checked[:, 0] != 0).any() or np.asarray(points).shape[-1] != 2:
            raise ValueError(
                f"points: expected (n, 2) x, y of the newest frame, found shape {np.asarray(points).shape}"
            )
        inner = checked.copy()
        inner[:, 1:] = (checked[:, 1:] + 0.5) * self._scale() - 0.5
        new = self.model.network.encode_queries(self.frames[-1], self._on_device(inner))
        self.queries = new if self.queries is None else self.queries.join(new)
        inner[:, 0] = self.number
        if len(inner):
            self.query_frames[self.number] = self.frames[-1].to(torch.float16)
        self.query_points = np.concatenate([self.query_points, inner])
        for state in self.states:
            state.append(FrameStates.unreached(inner[:, 1:]))
        self.states[-1].start(self.query_points[:, 0] == self.number)
        ids = np.arange(self.next_id, self.next_id + len(inner))
        self.ids, self.next_id = np.concatenate([self.ids, ids]), self.next_id + len(inner)
        return ids

    def drop(self, ids: Iterable[int]) -> None:
        """Removes points.

        Raises:
            ValueError: no such id.
        """
        dropped = np.asarray(list(ids))
        for unknown in dropped[~np.isin(dropped, self.ids)][:1]:
            raise ValueError(f"ids: expected ids of points that are tracked, found {unknown}")
        kept = np.flatnonzero(~np.isin(self.ids, dropped))
        self.ids, self.query_points = self.ids[kept], self.query_points[kept]
        self.queries = None if self.queries is None else self.queries[self._on_device(kept)]
        self.query_frames = {
            number: frame for number, frame in self.query_frames.items() if (self.query_points[:, 0] == number).any()
        }
        for state in self.states:
            state.keep(kept)

    @torch.inference_mode()
    def step(self, frame: np.ndarray) -> StreamedPoints:
        """Tracks the points into the next frame.

        Args:
            frame: (H, W, 3) uint8, of the same size as earlier frames.

        Raises:
            ValueError: another shape or dtype.
        """
        frame = self._checked(frame)
        read = read_size(self.size, self.model.config.longest_side)  # type: ignore[arg-type]
        resized = frame if read == self.size else resize_frame(frame, read)
        self.frames.append(encode(self.model, resized[None]))
        self.grey.append(grey_frame(resized))
        self.number += 1
        after = FrameStates.unreached(self.query_points[:, 1:])
        if len(self.ids) and self.queries is not None:
            after = self._advance(self.queries)
        self.states.append(after)
        if not len(self.ids) or self.queries is None:
            return StreamedPoints(self.ids, np.zeros((0, 2), np.float32), np.zeros(0, bool), np.zeros(0, np.float32))
        points, probability = self._refined(self.queries)
        config = self.model.config
        confidence = calibrated(probability, config.calibration)
        found = ((points + 0.5) / self._scale() - 0.5).astype(np.float32)
        return StreamedPoints(self.ids.copy(), found, confidence >= config.visibility_threshold, confidence)

    def _advance(self, queries: EncodedQueries) -> FrameStates:
        gaps = [gap for gap in GAPS if gap <= len(self.states)]
        coming = {gap: self.flow.start(self.grey[-1 - gap], self.grey[-1]) for gap in gaps}
        newest = self.frames[-1]
        network, points = self.model.network, self._on_device(self.query_points)
        peaks = find_peaks(network.match(newest, queries), NUM_PEAKS)  # (N, 1, peaks, 2)
        own = EncodedFrames.join([self.query_frames[number] for number in sorted(self.query_frames)])
        wrong = cycle_is_wrong(network, newest, own, points, peaks)[:, 0].cpu().numpy()
        past = {gap: self.states[-gap] for gap in gaps}
        flows = {gap: flow.result() for gap, flow in coming.items()}
        active = np.arange(len(self.ids))
        score = frame_score(network, newest, queries, active)
        after = advance(past, flows, peaks[:, 0].cpu().numpy(), wrong, active, score, self.costs)
        after.totals -= after.totals.max(axis=1, keepdims=True)  # bounds the totals in long streams
        return after

    def _refined(self, queries: EncodedQueries) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 2) and probabilities (N,) in the newest frame, refined over the kept frames."""
        places, poses = trace_back(list(self.states))  # (T, N, 2)
        first = self.number - len(self.frames) + 1
        points = self._on_device(self.query_points)
        points[:, 0] -= first  # negative if the query's frame is no longer kept
        encoded = EncodedFrames.join(list(self.frames))
        last = refine(self.model.network, encoded, queries, points, places, poses, self.model.config.refinement_steps)
        return last.tracks[-1].cpu().numpy(), seen_probability(last, self.grey[-1].shape)[-1].cpu().numpy()

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, device=self.model.device)  # a copy

    def _scale(self) -> np.ndarray:
        height, width = self.size  # type: ignore[misc]
        read = read_size((height, width), self.model.config.longest_side)
        return np.array([read[1] / width, read[0] / height], dtype=np.float32)

    def _checked(self, frame: np.ndarray) -> np.ndarray:
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise ValueError(f"frame: expected (H, W, 3) uint8, found {frame.shape} {frame.dtype}")
        if self.size is None:
            self.size = (frame.shape[0], frame.shape[1])
        if frame.shape[:2] != self.size:
            raise ValueError(f"frame: expected {self.size}, (height, width) as before, found {frame.shape[:2]}")
        return frame


__all__ = ["PointStream", "StreamedPoints"]
