"""DVAO, dynamic variance-adaptive advantages (Jiang et al. 2026, arXiv 2605.25604): weights by each prompt's spreads.

Read in its abstract and introduction, with the formula of the weights (its equation 9) from a public summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.method_info import MethodInfo
from ctwa.scalarizers.base import Estimate, Scalarizer, objective_advantages
from ctwa.scalarizers.decoupled import DecoupledConfig, batch_normalized
from ctwa.scalarizers.per_objective import trained_objectives, unit_of


class DvaoConfig(DecoupledConfig):
    """The options of DVAO. The default is the paper's, whose advantages are bounded as they are."""

    type: Literal["dvao"] = "dvao"
    batch_normalize: bool = False


class Dvao(Scalarizer):
    """The objectives' own standardised advantages, weighed by the spread of their rewards within the prompt."""

    info = MethodInfo(
        DvaoConfig, "weights by the spread within the prompt", "Jiang et al. 2026, arXiv 2605.25604", level="advantage"
    )
    config: DvaoConfig

    def __init__(self, config: DvaoConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._weights_M = self.by_name(weights)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T): within a prompt their spread is no more than that of a single objective."""
        each_MNT = torch.stack(objective_advantages(rollout, estimate, self.names))
        weights_MN1 = self._shares(rollout).T[..., None].to(each_MNT.dtype)
        total_NT = torch.zeros_like(each_MNT[0])
        for weights_N1, advantages_NT in zip(weights_MN1, each_MNT, strict=True):
            total_NT = total_NT + weights_N1 * advantages_NT
        if not self.config.batch_normalize:
            return total_NT
        rows_N = rollout.rewards.select(self.names).applicable_NM.any(1)
        return batch_normalized(total_NT, rollout.loss_mask_NT, rows_N, float(each_MNT.abs().max()))

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn.

        Returns:
            ``dvao/weight/<name>``: the objective's weight, the mean over the completions that it applies to.
        """
        shares_NM = self._shares(update.rollout)
        applicable_NM = update.rollout.rewards.select(self.names).applicable_NM
        return {
            f"dvao/weight/{name}": float(shares_N[applicable_N].mean())
            for name, shares_N, applicable_N in zip(self.names, shares_NM.T, applicable_NM.T, strict=True)
            if applicable_N.any()
        }

    def _shares(self, rollout: Rollout) -> Tensor:
        """``w_m s_m / sum_l w_l s_l``, (N, M), with s the spread within the prompt; 0 where no objective varies.

        The spread is of the completions that an estimate of the objective is over, with K - 1 as GRPO's is.
        """
        rewards = rollout.rewards.select(self.names)
        values_NM, applicable_NM = rewards.filled_NM(rollout.group_N), rewards.applicable_NM
        values_NM = values_NM / unit_of(values_NM)  # the shares are the same
        _, index_N = rollout.group_N.unique(return_inverse=True)
        zeros_GM = values_NM.new_zeros(int(index_N.max()) + 1, len(self.names))
        num_GM = zeros_GM.index_add(0, index_N, applicable_NM.double())
        # Without what they have in common, equal rewards have a spread of exactly 0, and no share by their rounding.
        least_GM = torch.full_like(zeros_GM, torch.inf).scatter_reduce(
            0, index_N[:, None].expand(values_NM.shape), torch.where(applicable_NM, values_NM, torch.inf), "amin"
        )
        values_NM = torch.where(applicable_NM, values_NM - least_GM[index_N], 0.0)
        mean_GM = zeros_GM.index_add(0, index_N, values_NM) / num_GM.clamp(min=1)
        squares_NM = applicable_NM * (values_NM - mean_GM[index_N]).square()
        spread_GM = (zeros_GM.index_add(0, index_N, squares_NM) / (num_GM - 1).clamp(min=1)).sqrt()
        weighted_NM = applicable_NM * self._weights_M * spread_GM[index_N]
        total_N1 = weighted_NM.sum(1, keepdim=True)
        return torch.where(total_N1 > 0, weighted_NM / total_N1, 0.0)
