"""Calibration error: against a loop over bins, by hand, and what it refuses."""

import numpy as np
import pytest

from modeling_sen.evaluation.tracking_calibration import calibration_bins, calibration_error, error_of_bins


def written_out(confidence, correct):
    """Of scalars, bin by bin; float32 numbers as they are stored."""
    pairs = [(float(p), bool(right)) for p, right in zip(confidence.ravel(), correct.ravel(), strict=True)]
    error = 0.0
    for number in range(10):
        low, high = number / 10, (number + 1) / 10
        inside = [(p, right) for p, right in pairs if low <= p < high or (number == 9 and p == 1)]
        if inside:
            mean = sum(p for p, _ in inside) / len(inside)
            share = sum(right for _, right in inside) / len(inside)
            error += abs(mean - share) * len(inside) / len(pairs)
    return error


@pytest.mark.parametrize("seed", range(5))
def test_the_error_equals_one_written_out(seed):
    draw = np.random.default_rng(seed)
    confidence = draw.random((7, 11)).astype(np.float32 if seed % 2 else np.float64)
    confidence[0, :3] = (0, 1, 0.5)
    correct = draw.random((7, 11)) < confidence**2
    assert calibration_error(confidence, correct) == pytest.approx(written_out(confidence, correct), abs=1e-12)


def test_numbers_by_hand():
    # Bin 9: mean .95, share .5; bin 0: mean .05, share 0.
    confidence, correct = np.array([0.9, 1.0, 0.0, 0.1 - 1e-9]), np.array([True, False, False, False])
    assert calibration_error(confidence, correct) == pytest.approx((2 * 0.45 + 2 * 0.05) / 4)
    assert calibration_error(np.full(4, 0.75), np.array([True, True, True, False])) == pytest.approx(0)
    assert calibration_error(np.ones(4), np.zeros(4, dtype=bool)) == 1
    assert np.isnan(calibration_error(np.empty(0), np.empty(0, dtype=bool)))


def test_bins_of_parts_add_up_to_those_of_the_whole():
    draw = np.random.default_rng(0)
    confidence, correct = draw.random(50), draw.random(50) < 0.5
    bins = calibration_bins(confidence[:20], correct[:20]) + calibration_bins(confidence[20:], correct[20:])
    np.testing.assert_allclose(bins, calibration_bins(confidence, correct), atol=1e-12)
    assert error_of_bins(bins) == pytest.approx(calibration_error(confidence, correct))
    assert bins[:, 0].sum() == 50


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        (np.array([0.5]), np.array([1]), "correct: expected bool of shape \\(1,\\), found int64"),
        (np.array([0.5]), np.array([True, False]), "correct: expected bool of shape \\(1,\\), found bool \\(2,\\)"),
        (np.array([-0.5, 1.5]), np.array([True, False]), "confidence: expected 0..1, found -0.5 .. 1.5"),
        (np.array([np.nan]), np.array([True]), "confidence: expected 0..1, found nan"),
    ],
)
def test_invalid_inputs_are_refused(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(confidence, correct)
