"""GDPO, group reward-decoupled normalization (Liu et al. 2026, arXiv 2601.05242): standardise first, then sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ctwa.batch import Rollout
from ctwa.method_info import MethodInfo
from ctwa.scalarizers.base import Estimate, Scalarizer
from ctwa.scalarizers.decoupled import DecoupledConfig, batch_normalized, decoupled_sum, to_largest
from ctwa.scalarizers.per_objective import trained_objectives


class GdpoConfig(DecoupledConfig):
    """The options of GDPO. The defaults are the paper's."""

    type: Literal["gdpo"] = "gdpo"


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
        weights = {name: self.initial_weights[name] for name in self.names}
        if not self.config.batch_normalize:
            return decoupled_sum(rollout, estimate, weights)[0]
        total_NT, size = decoupled_sum(rollout, estimate, to_largest(weights))
        rows_N = rollout.rewards.select(self.names).applicable_NM.any(1)
        return batch_normalized(total_NT, rollout.loss_mask_NT, rows_N, size)
