"""Fixed weights: the control of every gradient method, on the same path through the engine."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ctwa.aggregators.base import Aggregator, AggregatorConfigBase


class LinearConfig(AggregatorConfigBase):
    """Nothing to configure: the weights are the preference."""

    type: Literal["linear"] = "linear"


class Linear(Aggregator):
    """The preference itself, summing to 1, whatever the gradients are."""

    method: ClassVar[str] = "linear"

    @property
    def has_fixed_weights(self) -> bool:
        """They are."""
        return True

    def weights(self, gram_MM: Tensor, losses_M: Tensor | None, learning_rate: float | None) -> Tensor:
        """The preference."""
        del gram_MM, losses_M, learning_rate
        return self.preference_M.clone()
