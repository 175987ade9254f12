# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The path of a point through the frames: in each frame it is at one of a few candidate places, seen there or hidden.

Candidates are where flow brings the best places of 1, 2, 4 and 8 frames before, and peaks of the matching cost. The best
path is found by dynamic programming (Viterbi): a place counts with its score where the point is seen, with a constant where
it is hidden, and shifts that disagree with the flow cost. All arrays are of N queries, which do not touch each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from modeling_sen.tracking.flow import GAPS, move

CHAINED = 2  # best places of the frame before that the flow moves on
NUM_PEAKS = 3
NUM_CANDIDATES = CHAINED + len(GAPS) + NUM_PEAKS
NEVER = -1e9
REACH = 6.0  # pixels to each side, over which the flow's own turn and scale are read
SCALES = (0.3, 3.0)  # of a pose


@dataclass(frozen=True)
class PathCosts:
    """In units of the score, which is a logit. Chosen on clips of the seeds 3000 to 3002 of five presets."""

    shift: float = 0.3  # a pixel of disagreement with the flow
    jump: float = 6.0  # at most, from a place where the point is seen
    reappear: float = 1.8  # at most, from a place where it is hidden
    hidden: float = 1.4  # a frame in which the point is hidden at its place
    wrong_cycle: float = 6.0  # of a peak that does not match back to the query


@dataclass
class FrameStates:
    """What the search holds of a frame: `places` and `poses` (N, candidates, 2); `seen` (N, candidates) bool, whether the
    point is seen there, or hidden; `totals` (N, candidates), of the best path that ends there; `before` (N, candidates), the
    candidate of that path in the frame before.
    """

    places: np.ndarray
    poses: np.ndarray
    seen: np.ndarray
    totals: np.ndarray
    before: np.ndarray

    @classmethod
    def unreached(cls, points: np.ndarray) -> "FrameStates":
        """States of queries (N, 2) that lie in no frame yet."""
        places = np.repeat(points[:, None].astype(np.float32), NUM_CANDIDATES, axis=1)
        poses = np.zeros_like(places)
        poses[..., 0] = 1
        totals = np.full((len(points), NUM_CANDIDATES), NEVER, dtype=np.float32)
        return cls(places, poses, np.zeros(totals.shape, dtype=bool), totals, np.zeros(totals.shape, dtype=np.int64))

    def start(self, chosen: np.ndarray) -> None:
        """Makes this the query frame of the chosen (N,) bool: the only path so far is at the point."""
        self.totals[chosen, 0] = 0
        self.seen[chosen, 0] = True

    def append(self, others: "FrameStates") -> None:
        """Adds queries."""
        for name in self.__dataclass_fields__:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(others, name)]))

    def keep(self, rows: np.ndarray) -> None:
        """Forgets all queries but those of the rows."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name)[rows])

    def best_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Place and pose (N, 2) of the best candidate."""
        rows, best = np.arange(len(self.places)), self.totals.argmax(1)
        return self.places[rows, best], self.poses[rows, best]


# Places and poses (n, candidates, 2) of some queries -> scores (n, candidates).
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
    """States of the next frame.

    Args:
        past: gap -> states of the frame that many before; with 1.
        flows: gap -> flow (H, W, 2) from that frame to this one.
        peaks: (N, peaks, 2) x, y; cycle_is_wrong: (N, peaks) bool.
        active: (n,) numbers of the queries whose frame is past.
        score: of the active queries.
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
    """Places and poses (n, candidates, 2)."""
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
    # Poses that are carried along drift over hundreds of frames: at peaks they start anew; at the highest both are tried.
    places += [peaks[active][:, :1], peaks[active]]
    upright = np.zeros_like(peaks[active])
    upright[..., 0] = 1
    poses += [turned[:, :1], upright]
    return np.concatenate(places, axis=1).astype(np.float32), np.concatenate(poses, axis=1).astype(np.float32)


def _turn_with_flow(poses: np.ndarray, points: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Poses (..., 2) at points (..., 2), turned and scaled as the flow turns and scales what surrounds them."""
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
    """The best paths that end in the last frame: places and poses (T, N, 2), before the query's frame its own."""
    rows, state = np.arange(len(states[-1].totals)), states[-1].totals.argmax(axis=1)
    places, poses = [], []
    for each in reversed(states):
        reached = each.totals.max(axis=1) > NEVER / 2
        places.append(each.places[rows, state])
        poses.append(each.poses[rows, state])
        state = np.where(reached, each.before[rows, state], 0)
    return np.stack(places[::-1]), np.stack(poses[::-1])
