"""Dynamic weighting by gradients (Lu et al. 2025): an objective gains weight as it pulls where all pull together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.errors import CtwaError
from ctwa.method_info import Options


class DynamicConfig(Options):
    """The options of dynamic weighting by gradients.

    Attributes:
        mu: the regularisation. The log-weights move by ``learning_rate / mu`` times the influence, so mu has the units
            of a learning rate times a squared gradient: it does not carry over to gradients of another scale.
    """

    type: Literal["dynamic"] = "dynamic"
    mu: Annotated[float, Field(gt=0)] = 1e-5


class Dynamic(Aggregator):
    """Mirror ascent on the simplex: ``w <- softmax(log w + learning_rate / mu * I)`` with ``I_m = <g_m, sum_j g_j>``.

    The new weights combine the gradients they were computed from.

    Raises:
        CtwaError: a weight is 0, which a product can never raise.
    """

    info = gradient_level(DynamicConfig, "weight for what serves all objectives", "Lu et al. 2025, arXiv 2509.11452")
    needs_learning_rate = True
    needs_semi_definite = False  # it adds inner products up
    STATE = ("log_weights_M",)

    def __init__(self, config: DynamicConfig, preference: Mapping[str, float]) -> None:
        super().__init__(config, preference)
        if zero := [name for name in self.names if preference[name] == 0]:
            raise CtwaError(
                f"{zero} have the weight 0, which dynamic weighting can never raise; write a small positive weight"
            )
        # Kept beside the weights, which may round to 0 for a while without being lost.
        self.log_weights_M = self.preference_M.log()

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The new weights, summing to 1."""
        influence_M = gradients.gram_MM.sum(1)
        # The learning rate enters here and nowhere else.
        move_M = gradients.learning_rate / self.config.mu * influence_M
        self.log_weights_M = torch.log_softmax(self.log_weights_M + move_M, 0)
        metrics = {f"dynamic/influence/{name}": value for name, value in self.named(influence_M).items()}
        return self.log_weights_M.exp(), metrics
