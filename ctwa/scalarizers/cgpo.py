"""The constraint mask of CGPO (Xu et al. 2024, The Perfect Blend, arXiv 2409.20370): a broken rule earns nothing good.

Read in its abstract and in public summaries. The mask is one part of CGPO; its judges are reward functions here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout, Update, slack
from ctwa.covariance.diagnostics import finite
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, weighted_advantages
from ctwa.scalarizers.per_objective import check_names


class CgpoConfig(Options):
    """The options of CGPO's mask.

    Attributes:
        constraints: the least reward with which an objective's rule is kept, by name. An objective of weight 0 may be a
            rule: it is then no part of the sum.
    """

    type: Literal["cgpo"] = "cgpo"
    constraints: Annotated[dict[str, float], Field(min_length=1)]


class Cgpo(Scalarizer):
    """The advantage of the weighted sum of the rewards, but none above 0 for a completion that breaks a rule.

    A rule says nothing of completions that its objective does not apply to. One whose objective could not be scored
    leaves open whether it is kept: such a completion has the advantage 0, unless another rule is broken.

    Raises:
        CtwaError: ``constraints`` names what is no objective.
    """

    info = MethodInfo(
        CgpoConfig, "the weighted sum, and nothing good where a rule is broken", "Xu et al. 2024, arXiv 2409.20370"
    )
    config: CgpoConfig

    def __init__(self, config: CgpoConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        check_names("the method's constraints", config.constraints, weights)
        self._rules = tuple(sorted(config.constraints))
        self._masked = float("nan")

    @property
    def in_units(self) -> dict[str, str]:
        """The rules."""
        return {"constraints": ""}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum, masked."""
        advantages_NT = weighted_advantages(rollout, estimate, self.initial_weights)
        broken_NM, open_NM = self._broken(rollout.rewards)
        broken_N1, open_N1 = broken_NM.any(1, keepdim=True), open_NM.any(1, keepdim=True)
        has_some_N = rollout.rewards.applicable_NM.any(1)
        self._masked = float((broken_N1 & (advantages_NT > 0)).any(1)[has_some_N].double().mean())
        advantages_NT = torch.where(broken_N1, advantages_NT.clamp(max=0), advantages_NT)
        return torch.where(open_N1 & ~broken_N1, 0.0, advantages_NT)

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn.

        Returns:
            ``cgpo/broken_frac/<name>``: the share of the completions scored by an objective that break its rule.
            ``cgpo/masked_frac``: the share of completions that the mask took an advantage above 0 from.
        """
        broken_NM, _ = self._broken(update.rollout.rewards)
        scored_NM = update.rollout.rewards.select(self._rules).scored_NM
        shares = {
            f"cgpo/broken_frac/{name}": float(broken_N[scored_N].double().mean())
            for name, broken_N, scored_N in zip(self._rules, broken_NM.T, scored_NM.T, strict=True)
        }
        return finite(shares | {"cgpo/masked_frac": self._masked})

    def _broken(self, rewards: RewardMatrix) -> tuple[Tensor, Tensor]:
        """Bool, a column a rule: where it is broken, and where it could not be seen whether it is."""
        rewards = rewards.select(self._rules)
        bounds = [self.config.constraints[name] for name in self._rules]
        least_M = torch.tensor([bound - slack(bound) for bound in bounds], dtype=torch.float64)
        return rewards.scored_NM & (rewards.rewards_NM < least_M), rewards.applicable_NM & ~rewards.scored_NM
