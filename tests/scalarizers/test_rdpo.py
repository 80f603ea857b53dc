import pytest
import torch

import ctwa
from ctwa.batch import RewardMatrix
from ctwa.scalarizers.rdpo import Rdpo, RdpoConfig, quantiles, whitening
from tests.scalarizers.rollouts import Scores, rollout_of, update_of


def rdpo(weights: dict | None = None) -> Rdpo:
    return Rdpo(RdpoConfig(), weights or {"a": 1.0, "b": 1.0})


def quantiles_of(*columns: list, groups: list[int] | None = None) -> list[list[float]]:
    rewards = RewardMatrix.from_columns({str(m): column for m, column in enumerate(columns)})
    return quantiles(rewards, torch.tensor(groups or [0] * len(columns[0]))).T.tolist()


def scores(method: Rdpo, columns: dict) -> list[float]:
    return method.advantages(rollout_of(columns), Scores())[:, 0].tolist()


class TestQuantiles:
    def test_of_0_and_1_they_are_the_rewards_less_their_mean(self):
        """A rare success counts 1 at most; its z-score would be sqrt((1 - p) / p)."""
        assert quantiles_of([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]) == [
            pytest.approx([0.75, -0.25, -0.25, -0.25]),
            pytest.approx([-0.75, 0.25, 0.25, 0.25]),
        ]

    def test_far_apart_they_are_ranks(self):
        assert quantiles_of([0.0, 1.0, 1e3, 1e6], groups=[0, 0, 1, 1]) == [pytest.approx([0, 0, -0.5, 0.5], abs=1e-5)]

    def test_differences_below_the_spread_count_by_their_size(self):
        """0, 1, 5: deviations -2, -1, 3, spread sqrt(14 / 3)."""
        near = 1 / (14 / 3) ** 0.5
        assert quantiles_of([0.0, 1.0, 5.0]) == [pytest.approx([(-near - 1) / 3, (near - 1) / 3, 2 / 3])]

    def test_a_unit_or_a_shift_changes_nothing(self):
        values = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        groups = [0] * 5 + [1] * 7
        one, other = quantiles_of(values.tolist(), (1e4 * values - 3).tolist(), groups=groups)
        (far,) = quantiles_of((values + 1e6).tolist(), groups=groups)
        assert one == pytest.approx(other)
        assert far == pytest.approx(one, abs=1e-6)
        assert sum(one[:5]) == pytest.approx(0, abs=1e-12)

    def test_a_prompt_without_differences_takes_them_from_no_other(self):
        one, other = quantiles_of([0.0, 0.3, 0.5, 0.5], [0.0, 0.3, -1e6, -1e6], groups=[0, 0, 1, 1])
        assert one == other
        assert one[1] > 0

    def test_what_was_not_scored_is_neutral_and_counts_for_nobody(self):
        assert quantiles_of([1.0, None, 0.0, ctwa.NOT_APPLICABLE, 0.0]) == [
            pytest.approx([2 / 3, 0, -1 / 3, 0, -1 / 3])
        ]
        assert quantiles_of([0.1] * 3, [None] * 3) == [[0.0] * 3, [0.0] * 3]

    @pytest.mark.parametrize("noise", [1e-16, 1e-8])
    def test_rewards_that_differ_by_rounding_are_ties(self, noise):
        assert quantiles_of([0.3, 0.3 + noise, 0.3 - noise, 0.3]) == [[0.0] * 4]
        assert quantiles_of([2.0, 2.0 + noise, 5.0], groups=[0, 0, 1]) == [[0.0] * 3]


@pytest.mark.parametrize("unit", [2.0**-1060, 2.0**-600, 2.0**600, 2.0**1020])
def test_a_power_of_two_changes_no_bit(unit):
    """Squares of these rewards vanish or are infinite."""
    columns = {"a": [1.0, 2.0, 3.0, 8.0], "b": [4.0, 0.0, 0.0, 1.0], "c": [0.0, 0.0, 3.0, 7.0]}
    one, other = (
        scores(
            rdpo(dict.fromkeys("abc", 1.0)),
            {name: [each * factor for each in column] for name, column in columns.items()},
        )
        for factor in (1.0, unit)
    )
    assert one == other


def test_the_smallest_numbers_there_are():
    least = 5e-324
    got = scores(rdpo(dict.fromkeys("abc", 1.0)), {"a": [0.0, least], "b": [least, 0.0], "c": [least, least]})
    assert got == scores(rdpo(dict.fromkeys("abc", 1.0)), {"a": [0.0, 1.0], "b": [1.0, 0.0], "c": [1.0, 1.0]})


def test_whitening_makes_the_covariance_the_identity():
    values_NM = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[1.0, 0.8, 0.0], [0.0, 0.3, -1.0], [0.0, 0.0, 2.0]], dtype=torch.float64
    )
    white_NM = values_NM @ whitening(values_NM.T @ values_NM / 50)
    torch.testing.assert_close(white_NM.T @ white_NM / 50, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)


def test_by_hand():
    """Quantiles (-1/2, 1/2) twice over and independent: their covariance is a quarter of the identity."""
    columns = {"a": [0.0, 0.0, 1.0, 1.0], "b": [0.0, 1.0, 0.0, 1.0]}
    assert scores(rdpo({"a": 2.0, "b": 1.0}), columns) == pytest.approx([-3, -1, 1, 3])


def test_what_says_the_same_twice_counts_less_than_twice():
    column = [0.0, 1.0, 1.0, 0.0]
    once = scores(rdpo({"a": 1.0}), {"a": column})
    twice = scores(rdpo(), {"a": column, "b": column})
    assert twice == pytest.approx([2**0.5 * score for score in once])


def test_a_rare_agreement_of_opposed_objectives_counts_for_more():
    """Whitening stretches the direction that few completions go: of 10, one is good in both and one bad in both."""
    columns = {"a": [1.0] * 4 + [0.0] * 4 + [1.0, 0.0], "b": [0.0] * 4 + [1.0] * 4 + [1.0, 0.0]}
    got = scores(rdpo(), columns)
    # The sums of the quantiles are 0 and +-1. Their direction has the variance 0.1, the other one 0.4.
    assert got == pytest.approx([0.0] * 8 + [1 / 0.1**0.5, -1 / 0.1**0.5])


def test_the_weights_on_quantiles_are_reported():
    columns = {"a": [0.0, 0.0, 1.0, 1.0], "b": [0.0, 1.0, 0.0, 1.0]}
    method = rdpo({"a": 2.0, "b": 1.0})
    rollout = rollout_of(columns | {"c": [1.0] * 4})
    metrics = method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))
    assert metrics == pytest.approx({"rdpo/weight/a": 4.0, "rdpo/weight/b": 2.0})


def test_each_kind_of_completion_is_whitened_by_itself():
    away = ctwa.NOT_APPLICABLE
    columns = {"a": [1.0, 0.0, 1.0, 0.0, away], "b": [1.0, 0.0, away, away, away], "c": [None] * 5}
    got = scores(rdpo(dict.fromkeys("abc", 1.0)), columns)
    # Quantiles of a and of b are +-1/2; the second kind has a alone. The last completion has no score.
    assert got == pytest.approx([2**0.5, -(2**0.5), 1.0, -1.0, 0.0])
