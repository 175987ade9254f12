# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Finds the path of a point through the frames: in each frame, one of a few candidate places, visible or hidden.

Candidates are the best places of 1, 2, 4 and 8 frames before, moved by the flow, and peaks of the matching cost. Dynamic
programming (Viterbi) finds the path with the highest total: a place adds its score if the point is visible and a constant
negative value if it is hidden, and shifts that differ from the flow are penalised. Arrays hold N independent queries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from modeling_sen.tracking.flow import GAPS, move

CHAINED = 2  # number of best places of the previous frame that are moved by the flow
NUM_PEAKS = 3
NUM_CANDIDATES = CHAINED + len(GAPS) + NUM_PEAKS
NEVER = -1e9
REACH = 6.0  # distance in pixels, to each side, for estimating the flow's rotation and scale
SCALES = (0.3, 3.0)  # range of a pose's scale


@dataclass(frozen=True)
class PathCosts:
    """Costs in units of the score, which is a logit. Chosen on clips with seeds 3000 to 3002 of five presets."""

    shift: float = 0.3  # per pixel of deviation from the flow
    jump: float = 6.0  # upper limit of the shift cost from a place where the point is visible
    reappear: float = 1.8  # upper limit of the shift cost from a place where the point is hidden
    hidden: float = 1.4  # per frame in which the point is hidden
    wrong_cycle: float = 6.0  # for a peak that does not match back to the query


@dataclass
class FrameStates:
    """States of the search in a frame.

    Attributes:
        places: (N, candidates, 2) x, y.
        poses: (N, candidates, 2) rotation and scale since the query, as a vector.
        seen: (N, candidates) bool, whether the point is visible at the place.
        totals: (N, candidates), total score of the best path that ends at the candidate.
        before: (N, candidates), index of that path's candidate in the previous frame.
    """

    places: np.ndarray
    poses: np.ndarray
    seen: np.ndarray
    totals: np.ndarray
    before: np.ndarray

    @classmethod
    def unreached(cls, points: np.ndarray) -> "FrameStates":
        """States of queries (N, 2) whose frame has not been reached yet."""
        places = np.repeat(points[:, None].astype(np.float32), NUM_CANDIDATES, axis=1)
        poses = np.zeros_like(places)
        poses[..., 0] = 1
        totals = np.full((len(points), NUM_CANDIDATES), NEVER, dtype=np.float32)
        return cls(places, poses, np.zeros(totals.shape, dtype=bool), totals, np.zeros(totals.shape, dtype=np.int64))

    def start(self, chosen: np.ndarray) -> None:
        """Starts the paths of the chosen queries, (N,) bool, in this frame, each at its query point."""
        self.totals[chosen, 0] = 0
        self.seen[chosen, 0] = True

    def append(self, others: "FrameStates") -> None:
        """Appends the states of other queries."""
        for name in self.__dataclass_fields__:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(others, name)]))

    def keep(self, rows: np.ndarray) -> None:
        """Keeps only the queries of the given rows."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name)[rows])

    def best_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Place and pose, each (N, 2), of the best candidate."""
        rows, best = np.arange(len(self.places)), self.totals.argmax(1)
        return self.places[rows, best], self.poses[rows, best]


# Maps places and poses (n, candidates, 2) of some queries to scores (n, candidates).
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def advance(
    past: Mapping[int, FrameStates],
    flows: Mapping[int, np.ndarray],
    peaks: np.ndarray,
    cycle_is_wrong: np.ndarray,
    active: np.ndarray,
    score: Score,
    costs: PathCosts,
) -> FrameStates:
    """Computes the states of the next frame.

    Args:
        past: gap -> states of the frame that many frames before; must contain gap 1.
        flows: gap -> flow (H, W, 2) from that frame to this one.
        peaks: (N, peaks, 2) x, y of the peaks of the matching cost.
        cycle_is_wrong: (N, peaks) bool, true for peaks that do not match back to the query.
        active: (n,) indices of the queries whose frame has passed.
        score: scores places of the active queries.
        costs: the costs.
    """
    before, flow = past[1], flows[1]
    places, poses = _candidates(past, flows, peaks, active)
    scores = score(places, poses)
    wrong = cycle_is_wrong[active]
    scores[:, -1 - NUM_PEAKS :] -= costs.wrong_cycle * np.concatenate([wrong[:, :1], wrong], axis=1)
    height, width = flow.shape[:2]
    outside = ((places < -0.5) | (places > np.array([width, height]) - 0.5)).any(axis=-1)
    scores[outside] = -costs.hidden

    expected = move(before.places[active], flow)  # (n, candidates, 2)
    missed = np.linalg.norm(places[:, None] - expected[:, :, None], axis=-1)  # (n, before, now)
    most = np.where(before.seen[active], costs.jump, costs.reappear)[:, :, None]
    ways = before.totals[active][:, :, None] - np.minimum(costs.shift * missed, most)
    after = FrameStates.unreached(before.places[:, 0])
    after.places[active], after.poses[active], after.seen[active] = places, poses, scores > -costs.hidden
    after.totals[active] = ways.max(1) + scores.clip(min=-costs.hidden)
    after.before[active] = ways.argmax(1)
    return after


def _candidates(
    past: Mapping[int, FrameStates], flows: Mapping[int, np.ndarray], peaks: np.ndarray, active: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places and poses, each (n, candidates, 2), of the active queries."""
    best = np.argsort(-past[1].totals[active], axis=1)[:, :CHAINED, None]
    starts = np.take_along_axis(past[1].places[active], best, axis=1)
    turned = np.take_along_axis(past[1].poses[active], best, axis=1)
    places, poses = [move(starts, flows[1])], [_turn_with_flow(turned, starts, flows[1])]
    for gap in GAPS[1:]:
        place, pose = places[0][:, 0], poses[0][:, 0]
        if gap in past:
            start, turned_start = (each[active] for each in past[gap].best_places())
            reached = (past[gap].totals[active].max(axis=1) > NEVER / 2)[:, None]
            place = np.where(reached, move(start, flows[gap]), place)
            pose = np.where(reached, _turn_with_flow(turned_start, start, flows[gap]), pose)
        places.append(place[:, None])
        poses.append(pose[:, None])
    # Propagated poses drift over hundreds of frames, so peaks use the initial pose; the highest peak is tried with both.
    places += [peaks[active][:, :1], peaks[active]]
    upright = np.zeros_like(peaks[active])
    upright[..., 0] = 1
    poses += [turned[:, :1], upright]
    return np.concatenate(places, axis=1).astype(np.float32), np.concatenate(poses, axis=1).astype(np.float32)


def _turn_with_flow(poses: np.ndarray, points: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Rotates and scales poses (..., 2) at points (..., 2) by the local rotation and scale of the flow."""
    right, left, below, above = (
        move(shifted, flow) - shifted
        for shifted in (
            (points + np.array(offset, dtype=np.float32))
            for offset in ((REACH, 0), (-REACH, 0), (0, REACH), (0, -REACH))
        )
    )
    across, down = right - left, below - above  # differences of the flow over twice the reach
    cosine = 1 + (across[..., 0] + down[..., 1]) / (4 * REACH)
    sine = (across[..., 1] - down[..., 0]) / (4 * REACH)
    turned = np.stack(
        [poses[..., 0] * cosine - poses[..., 1] * sine, poses[..., 0] * sine + poses[..., 1] * cosine], axis=-1
    )
    scale = np.linalg.norm(turned, axis=-1, keepdims=True).clip(1e-6)
    return turned * (scale.clip(*SCALES) / scale)


def trace_back(states: list[FrameStates]) -> tuple[np.ndarray, np.ndarray]:
    """Places and poses, each (T, N, 2), of the best paths to the last frame; before the query's frame, the query point's."""
    rows, state = np.arange(len(states[-1].totals)), states[-1].totals.argmax(axis=1)
    places, poses = [], []
    for each in reversed(states):
        reached = each.totals.max(axis=1) > NEVER / 2
        places.append(each.places[rows, state])
        poses.append(each.poses[rows, state])
        state = np.where(reached, each.before[rows, state], 0)
    return np.stack(places[::-1]), np.stack(poses[::-1])
