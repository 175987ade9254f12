"""Repairs frame times that do not increase, and logs a message only once."""

import logging
from functools import cache

import numpy as np

logger = logging.getLogger(__name__)


def mended_times(times: np.ndarray, step: float) -> np.ndarray:
    """Increasing frame times: a time that is not above all earlier ones is replaced.

    Replaced times are evenly spaced between the times that are kept, or `step` apart after the last of those.

    Args:
        times: (frames,) float64, finite seconds, at least one.
        step: seconds, positive.

    Returns:
        (frames,) float64, strictly increasing; times that increase are returned unchanged.
    """
    kept = np.flatnonzero(times > np.maximum.accumulate(np.append(-np.inf, times[:-1])))
    numbers = np.arange(len(times))
    after_last = step * np.maximum(numbers - kept[-1], 0)
    return np.interp(numbers, kept, times[kept]) + after_last


@cache
def warn_once(message: str) -> None:
    """Logs a warning, once per process: a clip is indexed again for each neuron's modality and in each epoch."""
    logger.warning("%s", message)


__all__ = ["mended_times", "warn_once"]
