import math

import pytest
import torch
from pydantic import ValidationError

from ctwa.scalarizers.smooth_tchebycheff import SmoothTchebycheff, SmoothTchebycheffConfig
from ctwa.scalarizers.tchebycheff import Tchebycheff, TchebycheffConfig
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.4}
POINT = {"a": 1.0, "b": 1.2, "c": 0.9}


def smooth(mu: float, weights: dict = WEIGHTS, **options) -> SmoothTchebycheff:
    options = {"reference": "fixed", "reference_point": POINT} | options
    return SmoothTchebycheff(SmoothTchebycheffConfig(mu=mu, **options), weights)


def scores_of(method, rewards_NM: torch.Tensor) -> torch.Tensor:
    rollout = rollout_of({name: rewards_NM[:, m].tolist() for m, name in enumerate(sorted(WEIGHTS))})
    return method.advantages(rollout, Scores())[:, 0]


@pytest.fixture
def rewards_NM() -> torch.Tensor:
    return torch.rand(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_by_hand():
    """Distances .2 and .6 with mu times the weights' sum = .4: -.4 log((e^.5 + e^1.5) / 2)."""
    rollout = rollout_of({"a": [0.8], "b": [0.4]})
    method = smooth(0.2, {"a": 1.0, "b": 1.0}, reference_point={"a": 1.0, "b": 1.0})
    score = float(method.advantages(rollout, Scores())[0, 0])
    assert score == pytest.approx(-0.4 * math.log((math.exp(0.5) + math.exp(1.5)) / 2), rel=1e-14)


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0, 100.0])
def test_shares_times_weights_are_the_gradient_of_the_score(rewards_NM, mu):
    """By central differences; the shares come from the metrics."""
    method, step = smooth(mu), 1e-6
    for reward_M in rewards_NM[:4]:
        rollout = rollout_of({name: [float(reward_M[m])] for m, name in enumerate(sorted(WEIGHTS))})
        metrics = method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))
        shifted_NM = torch.cat([reward_M + step * torch.eye(3), reward_M - step * torch.eye(3)])
        above_M, below_M = scores_of(method, shifted_NM).view(2, 3)
        slope_M = (above_M - below_M) / (2 * step)
        shares_M = torch.tensor([metrics[f"smooth_tchebycheff/binding/{name}"] for name in sorted(WEIGHTS)])
        weights_M = torch.tensor([WEIGHTS[name] for name in sorted(WEIGHTS)])
        torch.testing.assert_close(slope_M, (weights_M * shares_M).double(), rtol=1e-6, atol=1e-8)
        assert float(shares_M.sum()) == pytest.approx(1)


@pytest.mark.parametrize("mu", [1e-12, 1e-300])
def test_without_smoothing_it_is_tchebycheff(rewards_NM, mu):
    sharp = Tchebycheff(TchebycheffConfig(reference="fixed", reference_point=POINT), WEIGHTS)
    torch.testing.assert_close(scores_of(smooth(mu), rewards_NM), scores_of(sharp, rewards_NM), rtol=0, atol=1e-11)


@pytest.mark.parametrize("mu", [1e7, 1e100])
def test_very_smooth_it_is_linear(rewards_NM, mu):
    """The mean distance, to the last digits: nothing is lost to the size of mu."""
    names = sorted(WEIGHTS)
    weights_M = torch.tensor([WEIGHTS[name] for name in names], dtype=torch.float64)
    point_M = torch.tensor([POINT[name] for name in names], dtype=torch.float64)
    linear_N = (weights_M * (rewards_NM - point_M)).mean(1)
    torch.testing.assert_close(scores_of(smooth(mu), rewards_NM), linear_N, rtol=0, atol=0.1 / mu + 1e-15)


def test_it_lies_between_the_largest_distance_and_the_mean_and_falls_with_mu(rewards_NM):
    runs_MN = torch.stack([scores_of(smooth(mu), rewards_NM) for mu in (1e-12, 0.01, 0.1, 1.0, 1e9)])
    assert (runs_MN.diff(dim=0) > 0).all()


def test_a_better_reward_makes_a_better_score(rewards_NM):
    """Where the maximum stands still for all objectives but one."""
    for column in range(3):
        better_NM = rewards_NM + 0.05 * torch.eye(3)[column]
        assert (scores_of(smooth(0.1), better_NM) > scores_of(smooth(0.1), rewards_NM)).all()


@pytest.mark.parametrize("mu", [1e-12, 0.1, 1e12])
def test_distances_of_any_size_have_a_score(mu):
    huge_NM = torch.tensor([[-1e150, 1e150, 0.0], [1e6, -1e6, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert scores_of(smooth(mu), huge_NM).isfinite().all()


def test_an_objective_without_a_score_takes_no_part(rewards_NM):
    """It changes neither the maximum nor the number the mean is taken over."""
    columns = {"a": rewards_NM[:, 0].tolist(), "b": rewards_NM[:, 1].tolist()}
    scores_N = smooth(0.1).advantages(rollout_of(columns | {"c": [None] * 16}), Scores())[:, 0]
    two = {"a": 0.5, "b": 0.3}
    # The same smoothness, which is in units of the sum of the weights.
    alone = smooth(0.1 * 1.2 / 0.8, two, reference_point={name: POINT[name] for name in two})
    torch.testing.assert_close(scores_N, alone.advantages(rollout_of(columns), Scores())[:, 0], rtol=1e-13, atol=0)


@pytest.mark.parametrize("mu", [0.0, -1.0, math.inf])
def test_mu_is_above_0(mu):
    with pytest.raises(ValidationError, match="mu"):
        SmoothTchebycheffConfig(mu=mu)
