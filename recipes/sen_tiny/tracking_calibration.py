"""Fits the probability of a tracked point being visible and within 4 pixels of its place, on clips of their own."""

from collections.abc import Sequence

import numpy as np

from modeling_sen.modeling_sen_tracking import SENForVideoTracking
from modeling_sen.point_refiner import SURE
from modeling_sen.world.tracking_clips import tracking_clip

PRESETS = ("base", "rotation", "all", "fast", "occluder", "smooth", "noise")
CLIPS = [(preset, seed) for preset in PRESETS for seed in range(4000, 4010)]


def measured_points(tracker: SENForVideoTracking, clips: Sequence[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Of clips (preset, seed), each point in each frame but the query's: the tracker's probability, and whether it is right.

    Returns:
        (points,) float32 and (points,) bool.
    """
    probabilities, every = [], []
    for preset, seed in clips:
        clip = tracking_clip(preset, seed)
        found = tracker.track(clip.frames, clip.queries)
        is_right = clip.visibility & (np.linalg.norm(found.tracks - clip.tracks, axis=-1) < SURE)
        counted = np.arange(len(clip.frames))[:, None] != clip.queries[:, 0]
        probabilities.append(found.confidence[counted])
        every.append(is_right[counted])
    return np.concatenate(probabilities), np.concatenate(every)


def fit_calibration(probability: np.ndarray, is_right: np.ndarray, steps: int = 50) -> dict[str, float]:
    """Scale and shift of the logits by logistic regression: Newton's method on the mean log loss.

    Args:
        probability: (points,), in 0..1.
        is_right: (points,) bool.

    Returns:
        `scale`, `shift`, `points`, and the mean log loss `before` and `after`.
    """
    clipped = probability.astype(np.float64).clip(1e-6, 1 - 1e-6)
    logits = np.log(clipped / (1 - clipped))
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)  # (points, 2)
    weights = np.array([1.0, 0.0])
    for _ in range(steps):
        fitted = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (fitted - is_right)
        curvature = (inputs * (fitted * (1 - fitted))[:, None]).T @ inputs
        weights = weights - np.linalg.solve(curvature, slope)
    return {
        "scale": float(weights[0]),
        "shift": float(weights[1]),
        "points": len(logits),
        "log_loss_before": _log_loss(logits, is_right),
        "log_loss_after": _log_loss(inputs @ weights, is_right),
    }


def _log_loss(logits: np.ndarray, is_right: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(is_right, -logits, logits)).mean())
