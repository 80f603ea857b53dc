"""GD2PO, group-dynamic reward-decoupled optimization (Liu et al. 2026, arXiv 2606.16771): conflicts are masked.

Read in its abstract, its introduction and its published code, whose formulas these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import finite
from ctwa.method_info import MethodInfo
from ctwa.scalarizers.base import Estimate, Scalarizer, objective_advantages
from ctwa.scalarizers.decoupled import ROUNDING, DecoupledConfig, batch_normalized, has_signal, to_largest
from ctwa.scalarizers.per_objective import judged_rows, taking_part, trained_objectives


class Gd2poConfig(DecoupledConfig):
    """The options of GD2PO. The defaults are those of the published scripts.

    Attributes:
        threshold: a completion is masked where its objectives' advantages have both signs and ``|sum| / sum of sizes``
            is below this. 0 masks none; 1 masks every completion with both signs, the paper's hard filter.
    """

    type: Literal["gd2po"] = "gd2po"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.8


class Gd2po(Scalarizer):
    """GDPO over the completions whose objectives agree; each prompt counts by the share of its completions that do.

    A completion that lacks the reward of an objective that applies to it is left out: it would be in fewer conflicts.
    """

    info = MethodInfo(
        Gd2poConfig, "GDPO without conflicting completions", "Liu et al. 2026, arXiv 2606.16771", level="advantage"
    )
    config: Gd2poConfig

    def __init__(self, config: Gd2poConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._weights_M = self.by_name(to_largest(weights) if config.batch_normalize else weights, torch.float32)
        self._metrics: dict[str, float] = {}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T): the weighted sum over the objectives, by the prompt's kept share, 0 where masked."""
        weighted_MNT = self._weights_M[:, None, None] * torch.stack(objective_advantages(rollout, estimate, self.names))
        in_loss_N = rollout.loss_mask_NT.bool().any(1)
        rewards = rollout.rewards.select(self.names)
        judged_N = in_loss_N & judged_rows(rewards, taking_part(rewards))
        conflict_N, masked_N = self._conflicts(weighted_MNT, rollout.loss_mask_NT)
        kept_N = judged_N & ~masked_N
        self._metrics = {
            "gd2po/conflict_frac": float(conflict_N[judged_N].double().mean()),
            "gd2po/masked_frac": float(masked_N[judged_N].double().mean()),
        }
        share_N = _share_of_prompt(kept_N, judged_N, rollout.group_N).to(weighted_MNT.dtype)
        total_NT = weighted_MNT.sum(0) * share_N[:, None]
        if not self.config.batch_normalize:
            return torch.where(kept_N[:, None], total_NT, 0.0)
        # What is kept has a mean, so that completions that nothing tells apart would have an advantage.
        rows_N = kept_N & has_signal(weighted_MNT, rollout.group_N)
        return batch_normalized(total_NT, rollout.loss_mask_NT, rows_N, float(weighted_MNT.abs().max()))

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn.

        Returns:
            ``gd2po/conflict_frac``: of the last rollout's completions that are judged and that the loss sees, the share
            whose advantages have both signs. ``gd2po/masked_frac``: the share that is masked.
        """
        del update
        return finite(self._metrics)

    def _conflicts(self, weighted_MNT: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Bool (N,) twice: the completions whose advantages have both signs, and those of them that are masked."""
        num_tokens_N = mask_NT.bool().sum(1).clamp(min=1)
        mean_MN = torch.where(mask_NT.bool(), weighted_MNT, 0.0).double().sum(2) / num_tokens_N
        rounding = ROUNDING * mean_MN.abs().max()
        conflict_N = (mean_MN > rounding).any(0) & (mean_MN < -rounding).any(0)
        agreement_N = mean_MN.sum(0).abs() / mean_MN.abs().sum(0)
        return conflict_N, conflict_N & (agreement_N < self.config.threshold)


def _share_of_prompt(kept_N: Tensor, judged_N: Tensor, group_N: Tensor) -> Tensor:
    """The share of its prompt's judged completions that are kept, for each completion, float64 (N,)."""
    _, index_N = group_N.unique(return_inverse=True)
    zeros_G = torch.zeros(int(index_N.max()) + 1, dtype=torch.float64)
    num_kept_G = zeros_G.index_add(0, index_N, kept_N.double())
    num_judged_G = zeros_G.index_add(0, index_N, judged_N.double())
    return (num_kept_G / num_judged_G.clamp(min=1))[index_N]
