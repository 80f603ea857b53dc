"""Nothing is differentiated through a method, and none keeps the graphs of the steps before."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ctwa.aggregators import Aggregator
from ctwa.batch import RewardMatrix
from ctwa.scalarizers import Estimate, Scalarizer
from ctwa.scalarizers.controller import WeightController
from ctwa.scalarizers.relative_controller import RelativeController
from tests.scalarizers.every_method import EIGHT, build, drive, every_method, same


@every_method
def test_nothing_is_differentiated_through_a_method(make_batch, method):
    """Advantages and weights are constants of the loss, and a method keeps the graph of no step."""
    names = EIGHT[:2]
    scalarizers = [build(method, names) for _ in range(2)]
    for seed in range(3):
        batch = make_batch(names, seed=seed)
        rollout = replace(batch.rollout, importance_NT=1 + 0.1 * batch.log_ratio_NT)
        plain = type(batch)(rollout, batch.log_ratio_NT)
        rewards, theta = rollout.rewards, torch.ones((), dtype=torch.float64, requires_grad=True)
        rewards = RewardMatrix(rewards.names, theta * rewards.rewards_NM, rewards.scored_NM)
        rollout = replace(rollout, rewards=rewards, importance_NT=theta * rollout.importance_NT)
        one, other = (
            drive(scalarizer, each)
            for scalarizer, each in zip(
                scalarizers, (plain, type(batch)(rollout, theta * batch.log_ratio_NT)), strict=True
            )
        )
        assert same([one], [other])
        assert not other.advantages_NT.requires_grad
    of_estimator_NT = scalarizers[1].advantages(batch.rollout, Differentiable(batch.estimate(), theta))
    assert not of_estimator_NT.requires_grad
    assert not any(tensor.requires_grad for tensor in tensors_in(scalarizers[1]))


def tensors_in(value):
    """What of it is a tensor, however deep."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Scalarizer | Aggregator | WeightController | RelativeController):
        value = list(vars(value).values())
    return [tensor for each in value for tensor in tensors_in(each)] if isinstance(value, list | tuple) else []


@dataclass(frozen=True)
class Differentiable:
    """An estimator with something of the policy in it, as a KL penalty is."""

    estimate: Estimate
    theta: torch.Tensor
    scale_invariant: bool = True

    def __call__(self, scores_N, *rows_N):
        return self.theta * self.estimate(scores_N, *rows_N)
