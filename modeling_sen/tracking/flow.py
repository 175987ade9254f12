# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Dense optical flow between frames with OpenCV's DIS (Kroeger et al., ECCV 2016, arXiv 1603.03590), medium preset."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

try:
    import cv2
except ImportError as error:
    raise ImportError("video tracking needs OpenCV: pip install 'modeling-sen[tracking]'") from error

MOST_POINTS = 2**14  # points per call of OpenCV, whose limit is below 2**15
GAPS = (1, 2, 4, 8)  # distances in frames between the two frames of a flow


def grey_frame(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) uint8."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8, by area averaging when reducing, bilinear when enlarging."""
    shrinks = size[0] < frame.shape[0]
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class DenseFlow:
    """Estimates flows between grey frames (H, W) uint8 in a pool of threads."""

    def __init__(self, threads: int):
        self.pool = ThreadPoolExecutor(threads)
        self.own = threading.local()  # estimators are not thread-safe

    def _estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if not hasattr(self.own, "estimator"):
            self.own.estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return self.own.estimator.calc(first, second, None)

    def start(self, first: np.ndarray, second: np.ndarray) -> "Future[np.ndarray]":
        """Starts estimating the flow (H, W, 2) float32: a pixel at x, y of the first frame moves to x, y + flow."""
        return self.pool.submit(self._estimate, first, second)


def move(points: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Moves points (..., 2) float32 x, y by the flow (H, W, 2), interpolated bilinearly."""
    flat = points.reshape(-1, 2).astype(np.float32)
    shifts = [
        cv2.remap(flow, part[:, :1], part[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in np.split(flat, range(MOST_POINTS, len(flat), MOST_POINTS))
        if len(part)
    ]
    return points + np.concatenate([np.zeros((0, 1, 2), np.float32), *shifts]).reshape(points.shape)
