"""benchmarks/shared_bandit.py: the covariance law where prompts share parameters."""

import doctest
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # as a benchmark imports another

import shared_bandit
from shared_bandit import after, covariance, natural_gradient, policy_gradient, standardised

B, A, F, M = 3, 5, 4, 2


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A policy, features, rewards and the weights of an update."""
    generator = torch.Generator().manual_seed(3)
    p_BA, features_BAF, rewards_BAM, scores_BA = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((B, A), (B, A, F), (B, A, M), (B, A))
    )
    p_BA = torch.softmax(p_BA, 1)
    return p_BA, features_BAF, rewards_BAM, standardised(p_BA, scores_BA)[..., None]


def expected(p_BA: Tensor, rewards_BAM: Tensor) -> Tensor:
    return (p_BA[..., None] * rewards_BAM).sum(1).mean(0)


@pytest.mark.parametrize("direction", [policy_gradient, natural_gradient])
def test_the_change_of_a_reward_is_its_covariance_with_the_step(drawn, direction):
    p_BA, features_BAF, rewards_BAM, weights_BA1 = drawn
    step_F, size = direction(p_BA, features_BAF, weights_BA1), 1e-5
    ends = [expected(after(p_BA, features_BAF, sign * size * step_F), rewards_BAM) for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * size), covariance(p_BA, rewards_BAM, features_BAF) @ step_F)


def test_with_a_logit_for_each_arm_the_natural_gradient_moves_rewards_by_the_papers_covariance(drawn):
    p_BA, _, rewards_BAM, weights_BA1 = drawn
    features_BAF = torch.eye(B * A, dtype=torch.float64).view(B, A, -1)
    step_F = natural_gradient(p_BA, features_BAF, weights_BA1)
    c_M = covariance(p_BA, rewards_BAM, weights_BA1)[:, 0]
    torch.testing.assert_close(covariance(p_BA, rewards_BAM, features_BAF) @ step_F, c_M)


def test_a_plain_policy_gradient_counts_rare_arms_less_than_the_covariance_does():
    p_BA = torch.tensor([[0.6, 0.2, 0.2]], dtype=torch.float64)
    r_BA1, w_BA1 = torch.tensor([[[1.0], [1], [0]], [[-0.5], [3], [-1.5]]], dtype=torch.float64)[:, None]
    features_BAF = torch.eye(3, dtype=torch.float64)[None]
    change = covariance(p_BA, r_BA1, features_BAF) @ policy_gradient(p_BA, features_BAF, w_BA1)
    # By hand: c = E[r w] as E[w] = 0; the change is the sum over arms of p^2 (r - E r) w.
    assert float(covariance(p_BA, r_BA1, w_BA1)) == pytest.approx(0.6 * -0.5 + 0.2 * 3)
    assert float(change) == pytest.approx(0.36 * 0.2 * -0.5 + 0.04 * 0.2 * 3 + 0.04 * -0.8 * -1.5)


def test_what_prompts_share_moves_by_the_part_of_the_covariance_between_styles():
    # Two styles, .5 each; right in .8 of the first and .3 of the second; the second has the other reward. All prompts
    # learn is the style: accuracy falls, though its covariance is positive, for right answers have high advantages.
    p_BA = torch.tensor([[0.4, 0.1, 0.15, 0.35]], dtype=torch.float64)
    accuracy_A, brevity_A = torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]], dtype=torch.float64)
    weights_BA1 = standardised(p_BA, (accuracy_A + brevity_A)[None])[..., None]
    rewards_BAM = torch.stack([accuracy_A, brevity_A], dim=1)[None]
    style_BAF = brevity_A[None, :, None]
    step_F = natural_gradient(p_BA, style_BAF, weights_BA1)
    changes_M = covariance(p_BA, rewards_BAM, style_BAF) @ step_F
    std = (0.4 * 1 + 0.1 * 0 + 0.15 * 4 + 0.35 * 1 - 1.05**2) ** 0.5
    between = 0.25 * (0.3 - 0.8) * (1.3 - 0.8) / std
    within = (0.5 * 0.8 * 0.2 + 0.5 * 0.3 * 0.7) / std
    brevity = 0.25 * (1.3 - 0.8) / std
    assert changes_M.tolist() == pytest.approx([between, brevity])
    assert covariance(p_BA, rewards_BAM, weights_BA1)[:, 0].tolist() == pytest.approx([between + within, brevity])
    assert between < 0 < between + within


def test_the_example_in_its_docstring_holds():
    results = doctest.testmod(shared_bandit)
    assert results.attempted > 0
    assert results.failed == 0
