"""Objectives that are read off log-probabilities: not applicable to a reward worker, and exact where they are known."""

from __future__ import annotations

import math

import pytest
import torch

import ctwa
from ctwa.batch import RewardMatrix
from ctwa.errors import CtwaError
from ctwa.objectives import log_probs
from ctwa.objectives.log_probs import QUANTITIES, from_log_probs

MASK_NT = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0]])  # a tool's token; a short one; none of the policy's
LOG_PROBS_NT = torch.tensor([[-1.0, -9.0, -2.0], [-0.5, -1.5, 0.0], [0.0, 0.0, 0.0]])
REFERENCE_NT = torch.tensor([[-1.5, -1.0, -2.25], [-0.25, -1.5, 0.0], [0.0, 0.0, 0.0]])


def test_their_values_are_means_over_the_policy_s_tokens() -> None:
    rewards = from_log_probs({"near": "kl", "open": "entropy"}, MASK_NT, LOG_PROBS_NT, REFERENCE_NT)
    assert rewards.to_columns() == {"near": [-0.375, 0.125, None], "open": [1.5, 1.0, None]}
    assert from_log_probs({"open": "entropy"}, MASK_NT, LOG_PROBS_NT, None).names == ("open",)


def test_by_the_score_function_they_have_the_gradient_of_the_kl_and_of_the_entropy() -> None:
    """Of all responses of one token, each weighed by its probability."""
    logits_V = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    log_probs_V = logits_V.log_softmax(0)
    probs_V = log_probs_V.exp()
    values = from_log_probs(
        {"kl": "kl", "entropy": "entropy"}, torch.ones(4, 1), log_probs_V.detach()[:, None], reference_V[:, None]
    )
    expected = {
        "kl": -(probs_V * (log_probs_V - reference_V)).sum(),
        "entropy": -(probs_V * log_probs_V).sum(),
    }
    for name, value in expected.items():
        rewards_V, _ = values.column(name)
        assert float((probs_V * rewards_V).sum().detach()) == pytest.approx(float(value.detach()))
        [gradient_V] = torch.autograd.grad(value, logits_V, retain_graph=True)
        [score_V] = torch.autograd.grad((probs_V.detach() * rewards_V * log_probs_V).sum(), logits_V, retain_graph=True)
        torch.testing.assert_close(score_V, gradient_V)


def test_as_reward_functions_they_do_not_apply_and_a_step_fills_them_in() -> None:
    assert {spec: getattr(log_probs, spec.partition(":")[2])("text") for spec in QUANTITIES} == {
        "ctwa.objectives.log_probs:kl": ctwa.NOT_APPLICABLE,
        "ctwa.objectives.log_probs:entropy": ctwa.NOT_APPLICABLE,
    }
    scored = RewardMatrix.from_columns({"near": ["not_applicable"] * 3, "right": [1.0, None, "not_applicable"]})
    filled = scored.with_columns(from_log_probs({"near": "kl"}, MASK_NT, LOG_PROBS_NT, REFERENCE_NT))
    assert filled.names == scored.names
    assert filled.to_columns() == {"near": [-0.375, 0.125, None], "right": [1.0, None, "not_applicable"]}
    assert filled.applicable("near").all()
    with pytest.raises(CtwaError, match="no objective 'far'"):
        scored.with_columns(RewardMatrix.from_columns({"far": [math.pi] * 3}))
