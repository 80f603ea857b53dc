import math

import pytest
import torch

import ctwa
from ctwa.batch import RewardMatrix, Rollout
from ctwa.errors import CtwaError
from ctwa.scalarizers.linear import Linear, LinearConfig
from ctwa.scalarizers.product import Product, ProductConfig, power_mean
from tests.scalarizers.rollouts import Scores, rollout_of, standardised, update_of

POWERS = (-50.0, -1.0, -1e-7, 0.0, 1e-7, 0.5, 1.0, 3.0)
EIGHT_CASES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double()
"""Every outcome of three objectives of 0 and 1."""


def product(weights: dict | None = None, **options) -> Product:
    return Product(ProductConfig(**options), weights or dict.fromkeys("abc", 1.0))


def scores(method: Product, rewards_NM: torch.Tensor) -> torch.Tensor:
    rollout = rollout_of({name: rewards_NM[:, m].tolist() for m, name in enumerate(method.names)})
    return method.advantages(rollout, Scores())[:, 0]


@pytest.fixture
def rewards_NM() -> torch.Tensor:
    return torch.rand(32, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Weights 3/4 and 1/4, rewards 0.16 and 1.
        ({"power": 1.0}, 0.75 * 0.16 + 0.25),
        ({"power": 0.5}, (0.75 * 0.4 + 0.25) ** 2),
        ({"power": 0.0}, 0.16**0.75),
        ({"power": -1.0}, 1 / (0.75 / 0.16 + 0.25)),
        ({"power": 0.0, "exponent": 2.0}, 0.16**1.5),
        ({"power": 0.0, "offset": 0.09}, 0.25**0.75 * 1.09**0.25),
        ({"power": 0.5, "offset": 0.09, "exponent": 3.0}, (0.75 * 0.5 + 0.25 * math.sqrt(1.09)) ** 6),
    ],
)
def test_by_hand(options, expected):
    method = product({"a": 3.0, "b": 1.0}, **options)
    assert scores(method, torch.tensor([[0.16, 1.0]], dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-14)


def test_of_0_and_1_it_is_the_plain_product_whatever_the_weights_are():
    for weights in (dict.fromkeys("abc", 1.0), {"a": 0.7, "b": 0.2, "c": 0.1}):
        for options in ({}, {"exponent": 3.0}, {"power": -2.0}):
            assert torch.equal(scores(product(weights, **options), EIGHT_CASES), EIGHT_CASES.prod(1))


def test_the_plain_product_of_graded_rewards_is_a_member(rewards_NM):
    torch.testing.assert_close(scores(product(exponent=3.0), rewards_NM), rewards_NM.prod(1), rtol=1e-13, atol=0)


def test_at_power_1_it_is_linear(rewards_NM):
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    rollout = rollout_of({name: rewards_NM[:, m].tolist() for m, name in enumerate("abc")})
    linear = Linear(LinearConfig(), weights).advantages(rollout, Scores(transform=standardised))
    got = product(weights, power=1.0).advantages(rollout, Scores(transform=standardised))
    torch.testing.assert_close(got, linear, rtol=0, atol=1e-12)


def test_a_large_offset_makes_the_product_linear(rewards_NM):
    """In order and proportion: what a standardising estimator sees."""
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    rollout = rollout_of({name: rewards_NM[:, m].tolist() for m, name in enumerate("abc")})
    linear = Linear(LinearConfig(), weights).advantages(rollout, Scores(transform=standardised))
    got = product(weights, offset=1e4).advantages(rollout, Scores(transform=standardised))
    torch.testing.assert_close(got, linear, rtol=0, atol=1e-3)


@pytest.mark.parametrize("options", [{"power": 0.3}, {"power": 0.0, "offset": 0.1}])
def test_between_linear_and_all_the_weights_say_what_a_partial_success_is_worth(options):
    """Of rewards of 0 and 1 the score is convex in the weight that is satisfied: order kept, the last step largest."""
    weights = {"a": 0.6, "b": 0.25, "c": 0.15}
    score_N = scores(product(weights, **options), EIGHT_CASES)
    share_N = EIGHT_CASES @ torch.tensor(list(weights.values()), dtype=torch.float64)
    order_N = share_N.argsort()
    slope = score_N[order_N].diff() / share_N[order_N].diff()
    assert (score_N[order_N].diff() > 0).all()
    assert (slope.diff() > 0).all()


def test_the_mean_lies_between_the_least_and_the_greatest_and_rises_with_the_power(rewards_NM):
    means_PN = torch.stack([power_mean(rewards_NM, torch.ones(32, 3, dtype=torch.float64), power) for power in POWERS])
    assert (means_PN.diff(dim=0) > 0).all()
    assert (means_PN >= rewards_NM.amin(1) - 1e-15).all()
    assert (means_PN <= rewards_NM.amax(1) + 1e-15).all()
    # Three equal weights: the least value's share of 1/3 is felt as 3^(1/50).
    assert (means_PN[0] <= rewards_NM.amin(1) * 3 ** (1 / 50) + 1e-15).all()


@pytest.mark.parametrize("power", POWERS)
def test_a_unit_changes_only_the_unit_of_the_mean(rewards_NM, power):
    ones_NM = torch.ones(32, 3, dtype=torch.float64)
    for unit in (1e-200, 1e200):
        mean_N = power_mean(unit * rewards_NM, ones_NM, power)
        torch.testing.assert_close(mean_N / unit, power_mean(rewards_NM, ones_NM, power), rtol=1e-12, atol=0)


def test_at_power_0_each_reward_has_its_own_unit(rewards_NM):
    units_M = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    one, other = (standardised(scores(product(), each_NM)) for each_NM in (rewards_NM, units_M * rewards_NM))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("power", POWERS)
def test_a_better_reward_never_makes_a_worse_score(rewards_NM, power):
    for column in range(3):
        better_NM = rewards_NM + 0.05 * torch.eye(3)[column]
        assert (scores(product(power=power), better_NM) >= scores(product(power=power), rewards_NM)).all()


@pytest.mark.parametrize(("power", "expected"), [(0.5, [0.0, 0.25]), (0.0, [0.0, 0.0]), (-1.0, [0.0, 0.0])])
def test_a_reward_of_0(power, expected):
    values_NM = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert power_mean(values_NM, torch.ones(2, 2, dtype=torch.float64), power).tolist() == expected


def test_a_completion_is_judged_by_the_objectives_that_apply_to_it():
    away = ctwa.NOT_APPLICABLE
    columns = {"a": [0.25, 0.25, away, away], "b": [1.0, away, 0.5, away], "c": [None] * 4}
    method = product()
    rollout = rollout_of(columns)
    advantages_NT = method.advantages(rollout, Scores())

    # c was never scored and takes no part, so the last completion has no score; it is no score of 0.
    assert advantages_NT[:, 0].tolist() == pytest.approx([0.5, 0.25, 0.5, 0.0])
    metrics = method.observe_update(update_of(rollout, advantages_NT))
    assert metrics["product/score"] == pytest.approx(1.25 / 3)
    assert metrics["product/zero_frac"] == 0.0


def test_a_completion_that_lacks_a_reward_has_no_score():
    got = scores_of_columns({"a": [0.2, 0.6, None], "b": [1.0, 1.0, 1.0]})
    assert got == pytest.approx([0.2**0.5, 0.6**0.5, 0])
    method, rollout = product({"a": 1.0, "b": 1.0}), rollout_of({"a": [1.0, None], "b": [1.0, 0.0]})
    metrics = method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))
    assert (metrics["product/score"], metrics["product/zero_frac"]) == (1, 0)


def test_a_prompt_that_does_not_weigh_an_objective_does_not_need_its_reward():
    rewards = RewardMatrix.from_columns({"a": [None, None, 1.0], "b": [0.25] * 3, "c": [1.0] * 3})
    weights = {"a": [0.0, 0.5, 0.5], "b": [0.5] * 3, "c": [0.5] * 3}
    rollout = Rollout(
        rewards,
        torch.arange(3),
        torch.ones(3, 2),
        weights={name: torch.tensor(each).double() for name, each in weights.items()},
    )
    got = product().advantages(rollout, Scores())[:, 0].tolist()
    assert got == pytest.approx([0.25**0.5, 0, 0.25 ** (1 / 3)])


def scores_of_columns(columns: dict) -> list[float]:
    method = product(dict.fromkeys(columns, 1.0))
    return method.advantages(rollout_of(columns), Scores())[:, 0].tolist()


def test_what_is_watched():
    rollout = rollout_of({"a": [1.0, 1.0, 0.0, 0.0], "b": [1.0, 0.0, 1.0, 0.0]})
    method = product({"a": 0.5, "b": 0.5})
    metrics = method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))
    assert metrics == {"product/score": 0.25, "product/zero_frac": 0.75, "product/no_signal_frac": 0.0}

    nothing = rollout_of({"a": [1.0, 1.0], "b": [0.0, 0.0]})
    metrics = method.observe_update(update_of(nothing, method.advantages(nothing, Scores())))
    assert metrics["product/no_signal_frac"] == 1.0


def test_a_reward_below_0_is_named():
    with pytest.raises(CtwaError, match=r"objective 'b' has the reward -2\.0 in row 1.*transform=rank"):
        scores_of_columns({"a": [1.0, 1.0], "b": [0.0, -2.0]})
    assert scores(product({"a": 1.0}, offset=2.0), torch.tensor([[-2.0], [-1.0]])).tolist() == [0.0, 1.0]


def test_scores_too_large_to_train_on_are_refused():
    with pytest.raises(CtwaError, match=r"scores beyond 1e\+15 .* write a smaller exponent"):
        scores(product({"a": 1.0}, exponent=6.0), torch.tensor([[1e3], [1.0]], dtype=torch.float64))


def test_an_objective_of_weight_zero_takes_no_part():
    method = product({"a": 1.0, "b": 0.0})
    rollout = rollout_of({"a": [0.5, 0.2], "b": [-1.0, 0.0]})
    assert method.advantages(rollout, Scores())[:, 0].tolist() == pytest.approx([0.5, 0.2])
