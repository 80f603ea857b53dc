"""The probe on the engine: which completions it looks at, and the copy of the weights it keeps."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.covariance.probe import Progress
from ctwa.engine.probe import PreviousWeights, ProbeMeter
from ctwa.engine.settings import ProbeSource
from ctwa.policy_loss import Vanilla

NAMES = ("clarity", "accuracy")


def meter(source: ProbeSource) -> ProbeMeter:
    return ProbeMeter(source, NAMES, num_seen_prompts=2, num_held_out=2)


def update(log_ratio_N: Tensor) -> Update:
    """Four prompts of two completions; the second one of each is clear, the first one right."""
    rewards = RewardMatrix.from_columns({"clarity": [0.0, 1.0] * 4, "accuracy": [1.0, 0.0] * 4})
    rollout = Rollout(rewards, torch.arange(8) // 2, torch.ones(8, 1))
    zeros_NT = torch.zeros(8, 1)
    return Update(rollout, zeros_NT, zeros_NT, log_ratio_N[:, None], Vanilla())


@pytest.mark.parametrize("source", ["held_out", "minibatch"])
def test_it_looks_at_prompts_that_the_step_did_not_see(source: ProbeSource) -> None:
    log_ratio_N = torch.tensor([9.0, -9.0, 9.0, -9.0, 0.0, 0.2, 0.0, 0.4]).double()
    progress = meter(source).forward(update(log_ratio_N))
    assert progress is not None
    assert progress.names == ("accuracy", "clarity")
    assert progress.num_prompts == 2
    # Cov(r, ratio) of two completions is half the difference of the ratios.
    gain = torch.tensor([0.2, 0.4]).double().exp().sub(1).mul(0.5).mean().item()
    assert progress.gain_M.tolist() == pytest.approx([-gain, gain])


def test_only_held_out_prompts_lose_their_advantages() -> None:
    rollout = update(torch.zeros(8)).rollout
    assert meter("held_out").held_out(rollout).tolist() == [False] * 4 + [True] * 4
    for source in ("none", "backward", "minibatch"):
        assert not meter(source).held_out(rollout).any()
    for source in ("none", "backward"):
        assert meter(source).forward(update(torch.zeros(8))) is None


def test_backward_measures_the_step_before_on_all_prompts() -> None:
    rollout = update(torch.zeros(8)).rollout
    now_NT = torch.tensor([0.0, 0.3] * 4)[:, None]
    progress = meter("backward").backward(rollout, now_NT, torch.zeros(8, 1))
    gain = 0.5 * (1 - torch.tensor(-0.3).double().exp().item())
    assert progress.num_prompts == 4
    assert progress.gain_M.tolist() == pytest.approx([-gain, gain], rel=1e-6)


def test_agreement_is_with_the_covariance_of_the_same_step_and_survives_a_restart() -> None:
    one = meter("backward")
    progress = Progress(("accuracy", "clarity"), torch.tensor([0.1, 0.1]), torch.tensor([0.01, 0.01]), 4)
    assert not any("agreement" in key for key in one.metrics(progress))  # nothing to compare with yet
    one.step_covariance({"covariance/accuracy": -1.0, "covariance/clarity": 2.0})
    one.has_weights = True
    other = meter("backward")
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.has_weights
    assert other.metrics(progress) == one.metrics(progress)
    assert one.metrics(progress)["probe/agreement/accuracy"] == 0
    assert one.metrics(progress)["probe/agreement/clarity"] == 1


def test_weights_are_swapped_with_their_copy_and_back_to_the_last_bit() -> None:
    parameters = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
    before = [parameter.detach().clone() for parameter in parameters]
    previous = PreviousWeights(parameters)
    previous.keep()
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.1)
    after = [parameter.detach().clone() for parameter in parameters]
    previous.swap()
    assert all(torch.equal(parameter, old) for parameter, old in zip(parameters, before, strict=True))
    previous.swap()
    assert all(torch.equal(parameter, new) for parameter, new in zip(parameters, after, strict=True))
    previous.keep()
    assert all(torch.equal(copy, new) for copy, new in zip(previous.copies, after, strict=True))
