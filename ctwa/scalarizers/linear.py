"""Linear scalarization: fixed weights."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ctwa.batch import Rollout
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, weighted_advantages
from ctwa.scalarizers.per_objective import told_weights


class LinearConfig(Options):
    """Linear scalarization has nothing to configure: the weights are the objectives' own."""

    type: Literal["linear"] = "linear"


class Linear(Scalarizer):
    """The advantage of the weighted sum of the rewards, with weights that never change, or those of each prompt."""

    info = MethodInfo(LinearConfig, "fixed weights")
    takes_prompt_weights = True

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum.

        Raises:
            CtwaError: prompts were told the weights of some objectives only.
        """
        weights = told_weights(rollout, self.names) or self.initial_weights
        return weighted_advantages(rollout, estimate, weights)
