# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Calibration of confidences, as functions of arrays: whether a share p of the predictions with confidence p is correct."""

import numpy as np

NUM_BINS = 10  # bins of equal width over 0 .. 1; each includes its lower edge, the last also 1


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: the mean, over predictions, of |mean confidence - share correct| of the prediction's bin.

    Args:
        confidence: numbers in 0..1, of any shape.
        correct: bool of the same shape.

    Returns:
        In 0..1, lower is better; NaN without predictions. A constant confidence equal to the share correct has no error: the
        metric does not measure how well correct and wrong predictions are separated.

    Raises:
        ValueError: different shapes, confidence outside 0..1, or `correct` that is not bool.

    >>> round(calibration_error(np.array([0.9, 0.9, 0.2]), np.array([True, False, False])), 4)
    0.3333
    """
    return error_of_bins(calibration_bins(confidence, correct))


def calibration_bins(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """(10, 3) float64: number of predictions in each bin, sum of their confidences, number of correct ones.

    Bins of several clips can be added. For arguments and errors, see [`calibration_error`].
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct)
    if correct.shape != confidence.shape or correct.dtype != bool:
        raise ValueError(f"correct: expected bool of shape {confidence.shape}, found {correct.dtype} {correct.shape}")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(f"confidence: expected 0..1, found {confidence.min():g} .. {confidence.max():g}")
    of = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1).ravel()
    columns = (np.ones(of.size), confidence.ravel(), correct.ravel())
    return np.stack([np.bincount(of, weights=column, minlength=NUM_BINS) for column in columns], axis=1)


def error_of_bins(bins: np.ndarray) -> float:
    """[`calibration_error`] from the result of `calibration_bins`, or from a sum of such results."""
    count, confidence, correct = bins.T
    return float(np.abs(confidence - correct).sum() / count.sum()) if count.sum() else float("nan")


__all__ = ["calibration_bins", "calibration_error", "error_of_bins"]
