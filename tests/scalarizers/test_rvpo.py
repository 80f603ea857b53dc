import math

import pytest
import torch

import ctwa
from ctwa.errors import CtwaError
from ctwa.scalarizers import Scalarizer, build_scalarizer
from ctwa.scalarizers.gdpo import GdpoConfig
from ctwa.scalarizers.rvpo import RvpoConfig, soft_minimum
from tests.scalarizers.rollouts import Scores, rollout_of, standardised, update_of

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def rvpo(weights: dict | None = None, *, scale_invariant: bool = True, **options) -> Scalarizer:
    weights = weights or {"a": 1.0, "b": 1.0}
    return build_scalarizer(RvpoConfig(**options), weights, scale_invariant=scale_invariant)


def shares_of(*shares: float) -> torch.Tensor:
    return torch.tensor(shares, dtype=torch.float64)[:, None, None]


@pytest.fixture
def values_MNT() -> torch.Tensor:
    return torch.randn(3, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("weights", "beta", "expected"),
    [
        # Advantages 0 and log 2: exp(-beta A) is 1 and 1 / 2^beta.
        ({"a": 1.0, "b": 1.0}, 0.0, math.log(2) / 2),
        ({"a": 1.0, "b": 1.0}, 1.0, math.log(4 / 3)),
        ({"a": 1.0, "b": 1.0}, 2.0, math.log(8 / 5) / 2),
        ({"a": 1.0, "b": 3.0}, 1.0, math.log(8 / 5)),
        ({"a": 1.0, "b": 1.0}, 1e6, math.log(2) / 1e6),
    ],
)
def test_by_hand(weights, beta, expected):
    rollout = rollout_of({"a": [0.0], "b": [math.log(2)]})
    got = rvpo(weights, beta=beta, batch_normalize=False).advantages(rollout, Scores())
    assert float(got[0, 0]) == pytest.approx(expected, rel=1e-12)


def test_it_falls_with_beta_from_the_mean_to_the_least(values_MNT):
    shares_MN1 = shares_of(*WEIGHTS.values())
    runs = [soft_minimum(values_MNT, shares_MN1, beta)[0] for beta in (0.0, 1e-9, 0.1, 1.0, 5.0, 1e3)]
    torch.testing.assert_close(runs[0], (shares_MN1 * values_MNT).sum(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(runs[-1], values_MNT.amin(0), rtol=0, atol=-math.log(0.2) / 1e3 + 1e-12)
    assert (torch.stack(runs).diff(dim=0) <= 0).all()


def test_to_second_order_it_is_the_mean_less_half_of_beta_times_the_variance_between_objectives(values_MNT):
    """The paper's Taylor expansion: what is left is of third order."""
    shares_MN1 = shares_of(1 / 3, 1 / 3, 1 / 3)
    left = []
    for beta in (1e-2, 1e-3):
        expected = values_MNT.mean(0) - beta / 2 * values_MNT.var(0, correction=0)
        left.append(float((soft_minimum(values_MNT, shares_MN1, beta)[0] - expected).abs().max()))
    assert left[0] / left[1] == pytest.approx(100, rel=0.05)


def test_the_shares_are_the_slope(values_MNT):
    shares_MN1, step = shares_of(*WEIGHTS.values()), 1e-6
    _, slope_MNT = soft_minimum(values_MNT, shares_MN1, 2.0)
    for m in range(3):
        moved_M11 = step * torch.eye(3, dtype=torch.float64)[m][:, None, None]
        above, below = (soft_minimum(values_MNT + sign * moved_M11, shares_MN1, 2.0)[0] for sign in (1, -1))
        torch.testing.assert_close((above - below) / (2 * step), slope_MNT[m], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slope_MNT.sum(0), torch.ones_like(slope_MNT[0]))


@pytest.mark.parametrize("beta", [0.0, 1e-12, 1e12])
def test_advantages_of_any_size(beta):
    values_MNT = torch.tensor([1e12, -1e12], dtype=torch.float64)[:, None, None]
    minimum, slope = soft_minimum(values_MNT, shares_of(0.5, 0.5), beta)
    assert minimum.isfinite().all()
    assert slope.isfinite().all()


def test_at_beta_0_it_is_gdpo(make_batch):
    batch = make_batch(list(WEIGHTS))
    one = rvpo(WEIGHTS, beta=0.0).advantages(batch.rollout, batch.estimate())
    gdpo = build_scalarizer(GdpoConfig(), WEIGHTS, scale_invariant=True)
    # Up to the small number beside the spread.
    torch.testing.assert_close(one, gdpo.advantages(batch.rollout, batch.estimate()), rtol=0, atol=1e-3)


def test_the_batch_is_brought_to_mean_0_and_spread_1(make_batch):
    batch = make_batch(list(WEIGHTS))
    advantages_NT = rvpo(WEIGHTS).advantages(batch.rollout, batch.estimate())
    assert float(advantages_NT[:, 0].mean()) == pytest.approx(0, abs=1e-12)
    assert float(advantages_NT[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_beta_follows_its_schedule_and_a_restart():
    method, rollout, betas = rvpo(beta=2.0, beta_start=1.0, anneal_steps=4), rollout_of({"a": [0.0], "b": [1.0]}), []
    for step in range(6):
        if step == 2:
            state = method.state_dict()
            method = rvpo(beta=2.0, beta_start=1.0, anneal_steps=4)
            method.load_state_dict(state)
        betas.append(method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))["rvpo/beta"])
    assert betas == [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]


def test_a_completion_is_judged_by_the_objectives_that_apply_to_it():
    away = ctwa.NOT_APPLICABLE
    columns = {"a": [0.0, 1.0, away, away], "b": [math.log(2), away, -1.0, away]}
    method = rvpo(beta=1.0, batch_normalize=False)
    rollout = rollout_of(columns)
    advantages_NT = method.advantages(rollout, Scores())
    assert advantages_NT[:, 0].tolist() == pytest.approx([math.log(4 / 3), 1.0, -1.0, 0.0])
    metrics = method.observe_update(update_of(rollout, advantages_NT))
    # Of the first completion a has 1 / 1.5 and b 0.5 / 1.5 of the slope; alone an objective has all.
    assert metrics["rvpo/binding/a"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["rvpo/binding/b"] == pytest.approx((1 / 3 + 1) / 2)


def test_a_completion_that_lacks_a_reward_takes_no_part():
    """The soft minimum of the others is above that of all."""
    columns = {"a": [2.0, -2.0, 1.0, None], "b": [None, None, 1.0, 3.0], "c": [None] * 4}
    method, rollout = rvpo(dict.fromkeys("abc", 1.0), batch_normalize=False), rollout_of(columns)
    advantages_NT = method.advantages(rollout, Scores())
    assert advantages_NT[:, 0].tolist() == pytest.approx([0, 0, 1.0, 0])
    metrics = method.observe_update(update_of(rollout, advantages_NT))
    assert metrics["rvpo/binding/a"] + metrics["rvpo/binding/b"] == pytest.approx(1)
    assert "rvpo/binding/c" not in metrics


def test_equal_advantages_are_what_they_were():
    columns = {"a": [1.0, 4.0, 2.0], "b": [1.0, 4.0, 2.0]}
    got = rvpo(batch_normalize=False, beta=7.0).advantages(rollout_of(columns), Scores(transform=standardised))
    torch.testing.assert_close(got[:, 0], standardised(torch.tensor(columns["a"]).double()), rtol=0, atol=1e-12)


def test_an_estimator_that_does_not_standardise_is_refused():
    with pytest.raises(CtwaError, match="rvpo lets the advantage estimator standardise"):
        rvpo(scale_invariant=False)
