"""Linear scalarization: fixed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.scalarizers.base import Estimate, Scalarizer, weighted_scores
from ctwa.strict import StrictModel


class LinearConfig(StrictModel):
    """Linear scalarization has nothing to configure: the weights are the objectives' own."""

    type: Literal["linear"] = "linear"


class Linear(Scalarizer):
    """The advantage of the weighted sum of the rewards, with weights that never change."""

    method: ClassVar[str] = "linear"

    def __init__(self, config: LinearConfig, weights: Mapping[str, float], *, scale_invariant: bool) -> None:
        del config, scale_invariant  # every method is built alike
        super().__init__(weights)

    @property
    def weights(self) -> dict[str, float]:
        """The objectives' own weights."""
        return dict(self.initial_weights)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum."""
        return estimate(weighted_scores(rollout, self.initial_weights))

    def observe(self, update: Update) -> dict[str, float]:
        """Nothing to learn."""
        del update
        return {}
