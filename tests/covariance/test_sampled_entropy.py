"""The entropy of a policy from what it sampled."""

import math

import pytest
import torch

from ctwa.covariance.diagnostics import sampled_entropy


def test_of_a_uniform_policy_it_is_exact_and_what_is_masked_does_not_count():
    log_probs_NT = torch.full((2, 3), -math.log(8))
    log_probs_NT[1, 2] = -math.inf  # padding
    assert sampled_entropy(log_probs_NT, torch.tensor([[1, 1, 1], [1, 1, 0]])) == pytest.approx(math.log(8))


def test_it_tends_to_the_exact_entropy():
    policy = torch.distributions.Categorical(torch.tensor([0.7, 0.2, 0.05, 0.05]))
    torch.manual_seed(0)
    log_probs_NT = policy.log_prob(policy.sample((100, 1000)))
    assert sampled_entropy(log_probs_NT, torch.ones(100, 1000)) == pytest.approx(float(policy.entropy()), abs=0.01)
