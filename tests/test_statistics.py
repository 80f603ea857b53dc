import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from ctwa.statistics import (
    clustered_error,
    holm,
    hypervolume,
    on_front,
    paired_difference,
    reference_value,
    t_interval,
)


def test_one_value_has_no_interval():
    assert t_interval([0.25]) == (0.25, None, None, 1)


@pytest.mark.parametrize("num", [2, 3, 8])
def test_intervals_of_differences_that_are_none_leave_it_out_as_often_as_they_say(num):
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(size=num)) for _ in range(4000)]
    out = np.mean([not each.low <= 0 <= each.high for each in intervals])
    assert out == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 4000) ** 0.5)


def test_the_interval_is_that_of_a_t_test():
    values = [0.1, 0.3, 0.2, 0.6]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((0.3, low, high, 4))
    assert t_interval([0.5, 0.5]) == (0.5, 0.5, 0.5, 2)


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


class TestClusteredError:
    def test_with_one_value_a_group_it_is_the_standard_error_of_the_mean(self) -> None:
        values_N = np.random.default_rng(0).normal(size=40)
        assert clustered_error(values_N, np.arange(40)) == pytest.approx(values_N.std(ddof=1) / 40**0.5)

    def test_values_said_twice_tell_no_more(self) -> None:
        values_N, group_N = np.random.default_rng(0).normal(size=40), np.arange(40)
        twice = clustered_error(np.tile(values_N, 2), np.tile(group_N, 2))
        assert twice == pytest.approx(clustered_error(values_N, group_N))

    def test_it_is_what_means_of_groups_of_any_size_vary_by(self) -> None:
        rng = np.random.default_rng(0)
        sizes_G = rng.integers(1, 6, size=60)
        group_N = np.repeat(np.arange(60), sizes_G)
        found = []
        for _ in range(2000):
            values_N = rng.normal(size=60)[group_N] + rng.normal(size=len(group_N))
            found.append((values_N.mean(), clustered_error(values_N, group_N)))
        means, errors = np.array(found).T
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(), rel=0.06)

    def test_one_group_says_nothing(self) -> None:
        assert math.isnan(clustered_error(np.array([0.0, 1.0]), np.array([3, 3])))


def paired(rng: np.random.Generator, runs: int, problems: int, of_run: float, of_problem: float) -> np.ndarray:
    """Differences of two methods that are equally good: runs, problems and completions make them vary."""
    return (
        of_run * rng.normal(size=(runs, 1))
        + of_problem * rng.normal(size=(1, problems))
        + rng.normal(size=(runs, problems))
    )


NULLS = ((0.0, 0.0), (0.0, 0.3), (0.1, 0.0), (0.3, 0.3), (0.05, 0.5), (0.2, 0.0))
"""What runs vary by, and problems; completions vary by 1."""


class TestPairedDifference:
    @pytest.mark.parametrize(("of_run", "of_problem"), NULLS)
    @pytest.mark.parametrize(("runs", "strata"), [(3, None), (8, None), (9, [0, 0, 0, 1, 1, 1, 2, 2, 2])])
    def test_equal_methods_are_rarely_told_apart(
        self, runs: int, strata: list[int] | None, of_run: float, of_problem: float
    ) -> None:
        rng = np.random.default_rng(0)
        found = [
            paired_difference(paired(rng, runs, 100, of_run, of_problem), strata).p_value or 0.0 for _ in range(800)
        ]
        # Up to two standard errors of a share of 800 above the level; Holm's correction asks for the small ones.
        assert np.mean([each < 0.05 for each in found]) < 0.05 + 0.0155
        assert np.mean([each < 0.01 for each in found]) < 0.01 + 0.007

    @pytest.mark.parametrize(("of_run", "of_problem"), NULLS[1:])
    def test_the_error_is_what_the_mean_varies_by_and_never_much_less(self, of_run: float, of_problem: float) -> None:
        rng = np.random.default_rng(0)
        found = [paired_difference(paired(rng, 8, 100, of_run, of_problem)) for _ in range(1500)]
        variance = np.mean([each.standard_error**2 for each in found if each.standard_error is not None])
        assert 0.95 < variance / np.var([each.mean for each in found]) < 1.3

    def test_what_a_base_model_does_is_no_error_of_runs_on_the_same_ones(self) -> None:
        rng = np.random.default_rng(0)
        of_base_R = np.repeat([1.0, -1.0, 0.3], 3)
        d_RP = of_base_R[:, None] + paired(rng, 9, 50, 0.0, 0.0)
        on_these, on_any = paired_difference(d_RP, of_base_R.tolist()), paired_difference(d_RP)
        assert on_these.mean == on_any.mean
        assert on_these.standard_error is not None
        assert on_any.standard_error is not None
        assert on_these.standard_error < 0.2 * on_any.standard_error
        assert (on_these.degrees, on_any.degrees) == (6, 8)

    def test_runs_that_are_one_number_each_have_the_error_of_a_t_test(self) -> None:
        values_R = np.array([0.1, 0.3, 0.2, 0.6])
        difference = paired_difference(values_R[:, None])
        assert difference.standard_error == pytest.approx(values_R.std(ddof=1) / 2)
        assert difference.p_value == pytest.approx(stats.ttest_1samp(values_R, 0).pvalue)

    def test_one_run_has_no_error(self) -> None:
        assert paired_difference(np.ones((1, 5))) == (1.0, None, None, 1, 0)


class TestHolm:
    def test_by_hand(self) -> None:
        assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
        assert holm([0.9, 0.8]) == [1.0, 1.0]
        assert holm([]) == []

    def test_of_many_nulls_one_is_rejected_no_more_often_than_of_one(self) -> None:
        rng = np.random.default_rng(0)
        rejected = [min(holm(rng.uniform(size=10).tolist())) < 0.05 for _ in range(4000)]
        assert 0.035 < np.mean(rejected) < 0.05 + 0.007
