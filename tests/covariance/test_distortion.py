import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctwa.covariance import (
    clipping_distortion,
    completion_weights,
    covariance_bound,
    safe_distortion,
    token_weights,
    within_prompt_covariance,
)
from ctwa.covariance.bandit import covariance, std
from ctwa.policy_loss import Vanilla


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bound_and_safe_limit_on_a_bandit(goldens):
    golden = goldens["T4_cov_law"]
    p_A, rewards_A = tensor(golden["p"]), tensor(golden["r"])
    unclipped_A = tensor([1.2, -0.8, 0.5, -1.5, 2.5, 0.1])
    clipped_A = tensor([1.2, -0.8, 0.5, 0.0, 0.0, 0.1])
    unclipped, clipped = covariance(p_A, rewards_A, unclipped_A), covariance(p_A, rewards_A, clipped_A)
    reward_std, distortion = std(p_A, rewards_A), std(p_A, unclipped_A - clipped_A)
    assert float(unclipped) == pytest.approx(0.900913, abs=1e-9)
    assert float(clipped) == pytest.approx(0.305963, abs=1e-9)
    assert float(reward_std) == pytest.approx(0.789619528634, abs=1e-9)
    assert float(distortion) == pytest.approx(0.878919791562, abs=1e-9)
    assert float(covariance_bound(unclipped, reward_std, distortion)) == pytest.approx(0.20690076848, abs=1e-9)
    assert float(safe_distortion(unclipped, reward_std)) == pytest.approx(1.140945692616, abs=1e-9)
    mass = p_A @ (unclipped_A - clipped_A).abs() / (p_A @ unclipped_A.abs())
    assert float(mass) == pytest.approx(0.376293508937, abs=1e-9)


def random_update(seed: int, spread: float):
    generator = torch.Generator().manual_seed(seed)
    old_NT = torch.randn(24, 6, dtype=torch.float64, generator=generator)
    new_NT = old_NT + spread * torch.randn(24, 6, dtype=torch.float64, generator=generator)
    advantages_NT = torch.randn(24, 1, dtype=torch.float64, generator=generator).expand(24, 6)
    mask_NT = torch.arange(6) < torch.randint(0, 7, (24, 1), generator=generator)
    rewards_NM = torch.randn(24, 3, dtype=torch.float64, generator=generator)
    scored_NM = torch.rand(24, 3, generator=generator) < 0.8
    return (new_NT, old_NT, advantages_NT, mask_NT), (rewards_NM, scored_NM, torch.arange(24) % 5)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), spread=st.floats(0, 2))
def test_clipped_covariance_never_falls_below_the_bound(seed, spread):
    update, (rewards_NM, scored_NM, group_N) = random_update(seed, spread)
    clipped = token_weights(*update, Vanilla(0.2, 0.2, dual=3.0))
    unclipped = token_weights(*update, Vanilla())
    distortion = clipping_distortion(unclipped, clipped, rewards_NM, scored_NM, group_N)
    completions = completion_weights(clipped)
    valid_NM = scored_NM & completions.valid_N[:, None]
    clipped_M = within_prompt_covariance(rewards_NM, completions.weight_N[:, None], valid_NM, group_N).mean_D
    assert (clipped_M >= distortion.bound_M - 1e-12)[~clipped_M.isnan()].all()
    assert torch.equal(clipped_M.isnan(), distortion.bound_M.isnan())
    assert 0 <= distortion.fraction <= 1


def test_shares_and_spread_by_hand():
    """Four completions of one token, one of them clipped: ratio 2 at advantage 1."""
    new_NT = tensor([[2.0], [1.0], [1.0], [1.0]]).log()
    advantages_NT = tensor([[1.0], [1.0], [-1.0], [-1.0]])
    update = (new_NT, torch.zeros(4, 1), advantages_NT, torch.ones(4, 1))
    clipped, unclipped = token_weights(*update, Vanilla(0.2, 0.2)), token_weights(*update, Vanilla())
    rewards_NM = tensor([[1.0], [0.0], [0.0], [1.0]])
    group_N = torch.zeros(4, dtype=torch.int64)
    distortion = clipping_distortion(unclipped, clipped, rewards_NM, torch.ones(4, 1).bool(), group_N)
    assert distortion.fraction == 0.25
    assert distortion.mass == pytest.approx(2 / 5)
    assert distortion.std == pytest.approx(math.sqrt(0.75))
    assert distortion.bound_M.item() == pytest.approx(0.125 - 0.5 * math.sqrt(0.75))


def test_without_clipping_the_bound_is_the_covariance():
    update, rewards = random_update(0, 1.0)
    tokens = token_weights(*update, Vanilla())
    distortion = clipping_distortion(tokens, tokens, *rewards)
    assert (distortion.fraction, distortion.mass, distortion.std) == (0, 0, 0)


def test_an_update_without_any_weight_lost_none():
    zeros_NT = torch.zeros(4, 2, dtype=torch.float64)
    tokens = token_weights(zeros_NT, zeros_NT, zeros_NT, zeros_NT, Vanilla(0.2, 0.2))
    distortion = clipping_distortion(
        tokens, tokens, torch.zeros(4, 1), torch.ones(4, 1).bool(), torch.zeros(4, dtype=torch.int64)
    )
    assert (distortion.fraction, distortion.mass) == (0, 0)
    assert math.isnan(distortion.std)
