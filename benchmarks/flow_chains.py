"""Optical flow of OpenCV chained to point tracks, forwards and backwards from each query: trackers without a model.

A chained point is lost, and hidden from then on, where the flow back misses it by a pixel or more, or it leaves the picture.
"""

import itertools
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np

MISS = 1.0  # pixels
# Moves points (N, 2) x, y from one grey frame to another: (N, 2), infinite where they are not found.
Flow: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

cv2.setNumThreads(1)


def lucas_kanade(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved, found, _ = cv2.calcOpticalFlowPyrLK(first, second, points[:, None].astype(np.float32), None)
    return np.where(found == 1, moved[:, 0], np.inf)


class DenseFlow:
    """DIS flow between two frames, computed once for each pair."""

    def __init__(self) -> None:
        self.dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.flows: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
        pair = (first.ctypes.data, second.ctypes.data)
        if pair not in self.flows:
            self.flows[pair] = self.dis.calc(first, second, None)
        x, y = (points[:, axis, None].astype(np.float32) for axis in (0, 1))
        return points + cv2.remap(self.flows[pair], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]


def chain(frames: np.ndarray, queries: np.ndarray, flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """Tracks (T, N, 2) and visibility (T, N) of queries (N, 3) t, x, y."""
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    starts, high = queries[:, 0].astype(int), np.array(grey.shape[:0:-1]) - 1  # x, y of the last pixel
    tracks = np.repeat(queries[None, :, 1:], len(frames), axis=0).astype(np.float32)
    visible = np.zeros(tracks.shape[:2], dtype=bool)
    visible[starts, np.arange(len(queries))] = True
    for order in (range(len(frames)), range(len(frames) - 1, -1, -1)):
        for now, then in itertools.pairwise(order):
            chosen = np.flatnonzero(starts <= now if then > now else starts >= now)
            if not len(chosen):
                continue
            points = tracks[now, chosen]
            moved = flow(grey[now], grey[then], points)
            is_finite = np.isfinite(moved).all(axis=1)
            moved = np.where(is_finite[:, None], moved, points)
            missed = np.linalg.norm(flow(grey[then], grey[now], moved) - points, axis=1)
            inside = ((moved >= 0) & (moved <= high)).all(axis=1)
            tracks[then, chosen] = moved
            visible[then, chosen] = visible[now, chosen] & is_finite & inside & (missed < MISS)
    return tracks, visible
