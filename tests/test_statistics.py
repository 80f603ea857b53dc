import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from ctwa.statistics import bootstrap, hypervolume, on_front, reference_value


def test_two_values_resample_to_three_means():
    # The resamples of {0, 1}: 00, 01, 10, 11 with means 0, 1/2, 1/2, 1: a tail of 2.5 % is within the first and last.
    assert bootstrap([0.0, 1.0]) == (0.5, 0.0, 1.0, 2)


def test_the_interval_of_three_values_by_hand():
    # 27 resamples of {0, 0, 3}: the mean is 0 in 8, 1 in 12, 2 in 6, 3 in 1 of them (3.7 % > 2.5 %).
    assert bootstrap([0.0, 0.0, 3.0]) == (1.0, 0.0, 3.0, 3)


def test_four_values_leave_the_rarest_means_out():
    # 256 resamples of {0, 0, 0, 4}: the mean 4 in 1, 3 in 12, 2 in 54: 1 is 0.4 % < 2.5 % and 13 are 5 %.
    assert bootstrap([0.0, 0.0, 0.0, 4.0]) == (1.0, 0.0, 3.0, 4)


def test_one_value_has_no_interval():
    assert bootstrap([0.25]) == (0.25, None, None, 1)


def test_many_values_agree_with_scipy():
    values = np.random.default_rng(7).normal(size=40)
    found = bootstrap(values)
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.02)
    assert bootstrap(values) == found


def test_the_front_is_what_no_other_point_dominates():
    points = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.4, 0.5], [1.0, 0.0], [2.0, math.nan]]
    assert on_front(np.array(points)) == [True, True, True, False, True, False]


def test_the_volume_of_two_boxes_by_hand():
    # 2 x 1 and 1 x 3 overlap in 1 x 1.
    assert hypervolume(np.array([[2.0, 1.0], [1.0, 3.0]]), np.zeros(2)) == pytest.approx(2 + 3 - 1)


def test_the_volume_of_points_below_the_reference_is_zero():
    assert hypervolume(np.array([[-1.0, 5.0]]), np.zeros(2)) == 0.0
    assert hypervolume(np.array([[math.nan, 5.0]]), np.zeros(2)) == 0.0


@pytest.mark.parametrize("num_objectives", [2, 3, 5, 8])
def test_the_volume_agrees_with_inclusion_and_exclusion(num_objectives):
    points = np.random.default_rng(num_objectives).random((6, num_objectives))
    volume = 0.0
    for size in range(1, len(points) + 1):
        for chosen in combinations(points, size):
            volume -= (-1) ** size * np.prod(np.min(chosen, axis=0))
    assert hypervolume(points, np.zeros(num_objectives)) == pytest.approx(volume)


def test_the_volume_of_many_points_in_many_objectives_is_thinned_from_below():
    points = np.abs(np.random.default_rng(0).normal(size=(300, 8)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    volume = hypervolume(points, np.zeros(8))
    assert max(np.prod(points, axis=1)[[0, -1]]) <= volume <= 1


@pytest.mark.parametrize(
    ("values", "reference"),
    [
        ([0.2, 0.4, 0.0], 0.0),
        ([-1.0, math.nan, 1.0], -1.2),
        ([-0.5, 0.0], -0.55),
        ([0.0, 0.0], -1.0),
        ([-2.0], -3.0),
        ([], 0.0),
    ],
)
def test_the_reference_is_zero_or_below_the_lowest(values, reference):
    assert reference_value(values) == pytest.approx(reference)


def test_a_penalty_that_ends_at_zero_leaves_the_other_objectives_their_volume():
    reference_M = np.array([reference_value([0.2, 0.5]), reference_value([0.0, 0.0])])
    assert hypervolume(np.array([[0.5, 0.0]]), reference_M) == pytest.approx(0.5)
