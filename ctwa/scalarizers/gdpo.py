"""GDPO, group reward-decoupled normalization (Liu et al. 2026, arXiv 2601.05242): standardise first, then sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor

from ctwa.batch import Rollout
from ctwa.errors import CtwaError
from ctwa.methods import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, objective_advantages
from ctwa.scalarizers.per_objective import trained_objectives

_EPSILON = 1e-4
_ROUNDING = 1e-6  # of a sum of advantages in float32, relative to the terms


class GdpoConfig(Options):
    """The options of GDPO. The defaults are the paper's.

    Attributes:
        batch_normalize: bring the sum of the advantages to mean 0 and standard deviation 1 over the completions of the
            batch, so that its size does not depend on the number of objectives or their weights.
    """

    type: Literal["gdpo"] = "gdpo"
    batch_normalize: bool = True

    def fitted(self, *, scale_invariant: bool) -> Self:
        """The same, for an estimator that standardises each objective. Raises CtwaError for any other."""
        if not scale_invariant:
            raise CtwaError(
                "the method gdpo lets the advantage estimator standardise each objective, and this one does not, so "
                "the sum would be that of method linear; use estimator grpo with norm_adv_by_std_in_grpo: true"
            )
        return self


class Gdpo(Scalarizer):
    """The weighted sum of the objectives' own standardised advantages."""

    info = MethodInfo(
        GdpoConfig, "standardises every objective, then sums", "Liu et al. 2026, arXiv 2601.05242", level="advantage"
    )
    config: GdpoConfig

    def __init__(self, config: GdpoConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T): each objective's own times its weight, summed, and standardised over the batch."""
        each_NT = objective_advantages(rollout, estimate, self.names)
        total_NT, size = torch.zeros_like(each_NT[0]), 0.0
        for name, advantages_NT in zip(self.names, each_NT, strict=True):
            total_NT = total_NT + self.initial_weights[name] * advantages_NT
            size = max(size, self.initial_weights[name] * float(advantages_NT.abs().max()))
        if not self.config.batch_normalize:
            return total_NT
        rows_N = rollout.rewards.select(self.names).applicable_NM.any(1)
        return _standardised(total_NT, rollout.loss_mask_NT, rows_N, _ROUNDING * size)


def _standardised(advantages_NT: Tensor, mask_NT: Tensor, rows_N: Tensor, rounding: float) -> Tensor:
    """Mean 0 and (population) standard deviation 1 over some completions, each counting once whatever its length.

    0 on the others; all 0 where the standard deviation is no more than rounding: where objectives cancel each other.
    """
    mask_NT = mask_NT.bool() & rows_N[:, None]
    num_tokens_N = mask_NT.sum(1)
    mean_N = torch.where(mask_NT, advantages_NT, 0.0).double().sum(1) / num_tokens_N.clamp(min=1)
    mean_N = mean_N[num_tokens_N > 0]
    if not len(mean_N):
        return advantages_NT
    centre, spread = float(mean_N.mean()), float(mean_N.std(correction=0))
    if spread <= rounding:
        return torch.zeros_like(advantages_NT)
    return torch.where(rows_N[:, None], (advantages_NT - centre) / (spread + _EPSILON), 0.0)
