# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Tracks points through a whole clip, forwards and backwards from each query's frame."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeling_sen.point_network import EncodedFrames, EncodedQueries, PointNetwork, find_peaks
from modeling_sen.point_refiner import RefinedTracks
from modeling_sen.tracking.cycle import cycle_is_wrong
from modeling_sen.tracking.flow import GAPS, DenseFlow
from modeling_sen.tracking.path_search import (
    NUM_CANDIDATES,
    NUM_PEAKS,
    FrameStates,
    PathCosts,
    Score,
    advance,
    trace_back,
)

COST_CELLS = 2**23  # cells of the matching cost computed at once
SCORED = 256  # queries whose candidates are scored at once
COMPARED = 2**13  # places refined at once


@dataclass
class FoundTracks:
    """`tracks` (T, N, 2) float32 x, y; `probability` (T, N) float32 that the point is visible within four pixels."""

    tracks: np.ndarray
    probability: np.ndarray


class ClipTracker:
    """Tracks any number of points in the frames of a clip, which are encoded once.

    Args:
        network: the tracker's network.
        encoded: the T encoded frames.
        grey: (T, H, W) uint8, the same frames in grey.
        flow: estimates the flow between them.
        steps: number of refinement steps.
    """

    def __init__(
        self,
        network: PointNetwork,
        encoded: EncodedFrames,
        grey: np.ndarray,
        flow: DenseFlow,
        steps: int,
    ):
        self.network, self.encoded, self.grey, self.flow = network, encoded, grey, flow
        self.steps, self.costs = steps, PathCosts()

    def track(self, query_points: Tensor, searched: Callable[[], None]) -> FoundTracks:
        """Tracks queries. In the query's frame, the result is the network's estimate and not the query point.

        Args:
            query_points: (N, 3) t, x, y.
            searched: called after each frame of the forward and the backward search, 2 * T times.
        """
        queries = self.network.encode_queries(self.encoded, query_points)
        peaks, wrong = self._peaks(queries, query_points)
        tracks, poses = self._search(queries, query_points, peaks, wrong, searched)
        refined = refine(self.network, self.encoded, queries, query_points, tracks, poses, self.steps)
        probability = seen_probability(refined, self.grey.shape[1:])
        return FoundTracks(refined.tracks.cpu().numpy(), probability.cpu().numpy())

    def _peaks(self, queries: EncodedQueries, query_points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Peaks (N, T, peaks, 2), and (N, T, peaks) bool, true for those that do not match back to the query."""
        height, width = self.encoded.levels[1].shape[-2:]
        frames = max(1, COST_CELLS // (len(query_points) * height * width))
        peaks = torch.cat(
            [
                find_peaks(self.network.match(self.encoded[start : start + frames], queries), NUM_PEAKS)
                for start in range(0, len(self.encoded), frames)
            ],
            dim=1,
        )
        numbers = query_points[:, 0].unique().long()
        own = EncodedFrames(tuple(level[numbers] for level in self.encoded.levels), None)
        wrong = cycle_is_wrong(self.network, self.encoded, own, query_points, peaks)
        return peaks.cpu().numpy(), wrong.cpu().numpy()

    def _search(
        self,
        queries: EncodedQueries,
        query_points: Tensor,
        peaks: np.ndarray,
        wrong: np.ndarray,
        searched: Callable[[], None],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tracks and poses, each (T, N, 2), along the best paths."""
        starts, points = np.split(query_points.cpu().numpy(), [1], axis=1)
        starts = starts[:, 0]
        places = np.repeat(points[None], len(self.grey), axis=0)
        poses = np.zeros_like(places)
        poses[..., 0] = 1
        for way in (1, -1):
            order = range(len(self.grey))[::way]
            states: list[FrameStates] = []
            coming: dict[tuple[int, int], Future[np.ndarray]] = {}
            for number, frame in enumerate(order):
                for ahead in order[
                    number : number + 2
                ]:  # estimates the next frame's flows during the search of this one
                    self._start_flows(coming, ahead, way, bool((starts * way < ahead * way).any()))
                active = np.flatnonzero(starts * way < frame * way)
                after = FrameStates.unreached(points)
                if len(active):
                    past = {gap: states[number - gap] for gap in GAPS if gap <= number}
                    flows = {gap: coming.pop((frame, gap)).result() for gap in past}
                    score = frame_score(self.network, self.encoded[frame : frame + 1], queries, active)
                    after = advance(past, flows, peaks[:, frame], wrong[:, frame], active, score, self.costs)
                after.start(starts == frame)
                states.append(after)
                searched()
            found_places, found_poses = (each[::way] for each in trace_back(states))
            reached = (starts * way < np.arange(len(self.grey))[:, None] * way)[..., None]
            places, poses = np.where(reached, found_places, places), np.where(reached, found_poses, poses)
        return places, poses

    def _start_flows(
        self, coming: dict[tuple[int, int], "Future[np.ndarray]"], frame: int, way: int, wanted: bool
    ) -> None:
        """Starts estimating the flows to a frame from earlier frames, stored by (frame, gap)."""
        for gap in GAPS:
            origin = frame - way * gap
            if wanted and 0 <= origin < len(self.grey) and (frame, gap) not in coming:
                coming[frame, gap] = self.flow.start(self.grey[origin], self.grey[frame])


def refine(
    network: PointNetwork,
    encoded: EncodedFrames,
    queries: EncodedQueries,
    query_points: Tensor,
    tracks: np.ndarray,
    poses: np.ndarray,
    steps: int,
) -> RefinedTracks:
    """Refines tracks (T, N, 2), in chunks of queries."""
    device = query_points.device
    time = torch.arange(len(tracks), device=device)[:, None] - query_points[:, 0]
    start, start_poses = (torch.tensor(each, device=device).float() for each in (tracks, poses))
    parts = []
    for chosen in torch.arange(len(query_points), device=device).split(max(1, COMPARED // len(tracks))):
        points = query_points[chosen, 1:]
        found = network.refine(
            encoded, queries[chosen], points, time[:, chosen], start[:, chosen], start_poses[:, chosen], steps
        )
        parts.append(found[-1])
    return RefinedTracks(
        *(torch.cat([getattr(part, name) for part in parts], dim=1) for name in RefinedTracks.__dataclass_fields__)
    )


def seen_probability(refined: RefinedTracks, frame_size: tuple[int, ...]) -> Tensor:
    """(T, N), the probability that a point is visible within four pixels of its track; zero outside the frame."""
    height, width = frame_size
    x, y = refined.tracks.unbind(-1)
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return refined.visibility_logits.sigmoid() * refined.confidence_logits.sigmoid() * inside


def frame_score(network: PointNetwork, frame: EncodedFrames, queries: EncodedQueries, active: np.ndarray) -> Score:
    """A function that scores places in one frame for the queries with indices `active`."""
    frame = frame.to(torch.float32).expand(NUM_CANDIDATES)
    device = frame.levels[0].device

    def score(places: np.ndarray, poses: np.ndarray) -> np.ndarray:
        # The network's frame axis is used for candidates: (candidates, n, 2).
        place, pose = (torch.tensor(each.swapaxes(0, 1), device=device) for each in (places, poses))
        scores = [
            network.score(frame, queries[chosen], place[:, rows], pose[:, rows])
            for chosen, rows in zip(
                torch.tensor(active, device=device).split(SCORED),
                torch.arange(len(active), device=device).split(SCORED),
                strict=True,
            )
        ]
        return torch.cat(scores, dim=1).T.cpu().numpy()

    return score
