"""What the methods share that standardise each objective by itself before they combine: GDPO and its followers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ctwa.batch import Rollout
from ctwa.errors import CtwaError
from ctwa.method_info import Options
from ctwa.scalarizers.base import Estimate, objective_advantages

EPSILON = 1e-4
ROUNDING = 1e-6  # of a sum of advantages in float32, relative to the terms


class DecoupledConfig(Options):
    """What they may be told.

    Attributes:
        batch_normalize: bring the advantages to mean 0 and standard deviation 1 over the completions of the batch, so
            that their size does not depend on the number of objectives or their weights.
    """

    batch_normalize: bool = True

    def fitted(self, *, scale_invariant: bool) -> Self:
        """The same, for an estimator that standardises each objective. Raises CtwaError for any other."""
        check_standardises(self.type, scale_invariant=scale_invariant)
        return self


def check_standardises(method: str, *, scale_invariant: bool) -> None:
    """Raise CtwaError where the estimator does not bring every objective to one spread."""
    if not scale_invariant:
        raise CtwaError(
            f"the method {method} lets the advantage estimator standardise each objective, and this one does not (or a "
            "KL penalty is in the reward), so an objective would count by the spread of its rewards; use estimator "
            "grpo with norm_adv_by_std_in_grpo: true, without such a penalty"
        )


def to_largest(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights over the largest of them, so that their unit has no say; what weighs 1 in the papers keeps it."""
    largest = max(weights.values())
    return {name: weight / largest for name, weight in weights.items()}


def has_signal(each_MNT: Tensor, group_N: Tensor) -> Tensor:
    """Bool (N,), the completions of prompts in which some objective has an advantage other than 0, up to rounding."""
    size_N = each_MNT.abs().amax((0, 2))
    _, index_N = group_N.unique(return_inverse=True)
    size_G = size_N.new_zeros(int(index_N.max()) + 1).scatter_reduce(0, index_N, size_N, "amax")
    return (size_G > ROUNDING * size_G.max())[index_N]


def decoupled_sum(rollout: Rollout, estimate: Estimate, weights: Mapping[str, float]) -> tuple[Tensor, float]:
    """The weighted sum (N, T) of the objectives' own advantages, and the size of its largest term.

    It runs in the order of the names.
    """
    each_NT = objective_advantages(rollout, estimate, list(weights))
    total_NT, size = torch.zeros_like(each_NT[0]), 0.0
    for weight, advantages_NT in zip(weights.values(), each_NT, strict=True):
        total_NT = total_NT + weight * advantages_NT
        size = max(size, weight * float(advantages_NT.abs().max()))
    return total_NT, size


def batch_normalized(advantages_NT: Tensor, mask_NT: Tensor, rows_N: Tensor, size: float) -> Tensor:
    """Mean 0 and (population) standard deviation 1 over some completions, each counting once whatever its length.

    0 on the others, and on tokens that do not count; all 0 where the standard deviation is no more than rounding: where
    objectives cancel each other.

    Args:
        advantages_NT: the advantages.
        mask_NT: the tokens that count.
        rows_N: bool, the completions.
        size: of the largest term that the advantages were added up from.
    """
    mask_NT = mask_NT.bool() & rows_N[:, None]
    num_tokens_N = mask_NT.sum(1)
    mean_N = torch.where(mask_NT, advantages_NT, 0.0).double().sum(1) / num_tokens_N.clamp(min=1)
    mean_N = mean_N[num_tokens_N > 0]
    if not len(mean_N):
        return torch.zeros_like(advantages_NT)
    centre, spread = float(mean_N.mean()), float(mean_N.std(correction=0))
    if spread <= ROUNDING * size:
        return torch.zeros_like(advantages_NT)
    return torch.where(mask_NT, (advantages_NT - centre) / (spread + EPSILON), 0.0)
