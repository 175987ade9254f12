"""Repaired frame times increase; times that increase already are unchanged."""

import numpy as np
import pytest

from modeling_sen.frame_times import mended_times


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 1, 1, 3], [0, 1, 2, 3]),
        ([0, 1, 1, 1, 4], [0, 1, 2, 3, 4]),
        ([0, 5, 2, 3, 8], [0, 5, 6, 7, 8]),
        ([0, 1, 1, 1], [0, 1, 1.5, 2]),
        ([3, 2, 1], [3, 3.5, 4]),
        ([7], [7]),
    ],
)
def test_times_that_do_not_increase_are_replaced_by_interpolated_ones(times, expected):
    np.testing.assert_allclose(mended_times(np.array(times, np.float64), step=0.5), expected)
