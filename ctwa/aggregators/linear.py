"""Fixed weights: the control of every gradient method, on the same path through the engine."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients
from ctwa.method_info import MethodInfo, Options


class FixedWeightsConfig(Options):
    """Nothing to configure: the weights are the preference."""

    type: Literal["linear"] = "linear"


class FixedWeights(Aggregator):
    """The preference itself, summing to 1, whatever the gradients are."""

    info = MethodInfo(FixedWeightsConfig, "the weighted sum of the losses (DPO-LW)", level="loss")
    needs_semi_definite = False
    for_rewards = False  # there it is the method linear, which needs no gradient of each objective

    @property
    def has_fixed_weights(self) -> bool:
        """Always."""
        return True

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The preference."""
        del gradients
        return self.preference_M.clone(), {}
