"""The seam between the engine and a gradient method: M gradients' Gram matrix in, the weights of their sum out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctwa.errors import CtwaError, check_state
from ctwa.solvers.fallbacks import count_fallbacks
from ctwa.strict import StrictModel


class AggregatorConfigBase(StrictModel):
    """What every method's config has in common: unknown keys and non-finite numbers are refused."""


@dataclass(frozen=True)
class Solution:
    """How to combine the gradients of one step.

    Attributes:
        weights_M: float64; the update descends along ``sum_m weights_m g_m``.
        skipped: the Gram matrix was not finite: take no step. The weights are the previous ones.
        metrics: what the method reports about this step.
    """

    weights_M: Tensor
    skipped: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


class Aggregator(ABC):
    """A method that weighs M gradients by their Gram matrix.

    Objectives are in alphabetical order of their names in every vector and matrix, so that their order in the config
    changes no bit. ``gram_MM[i, j]`` is ``<g_i, g_j>`` with g_i the gradient of LOSS i, over all parameters, ranks and
    micro-batches.

    Args:
        config: the method's own options.
        preference: the objectives' weights, by name. Only their ratios matter.

    Attributes:
        names: the objectives, in alphabetical order.
        preference_M: the preference, summing to 1.
        last_weights_M: the weights of the last solution; before the first, the preference.
        num_skipped: how many Gram matrices were not finite.
        num_held: how many were of gradients that were all zero, and left the weights as they were.
        num_fallback: how many answers of outside solvers missed the conditions for a minimum, so that the problem was
            solved another way (``ctwa.solvers``).
        metrics: what ``weights`` wants reported with the solution it computes.

    Raises:
        CtwaError: there is no objective, a weight is negative or not finite, all of them are 0, or their sum is not
            finite.
    """

    method: ClassVar[str]
    needs_losses: ClassVar[bool] = False

    def __init__(self, config: Any, preference: Mapping[str, float]) -> None:
        for name, weight in preference.items():
            if not 0 <= weight < math.inf:
                raise CtwaError(f"objective '{name}' has the weight {weight}; write a finite number, 0 or more")
        if sum(preference.values()) == float("inf"):
            raise CtwaError("the weights add up to more than a number can hold; write smaller ones")
        if not any(preference.values()):
            raise CtwaError(
                f"no objective among {list(preference)} has a weight above 0; give at least one of them one"
            )
        self.config = config
        self.names = tuple(sorted(preference))
        preference_M = self.by_name(preference)
        self.preference_M = preference_M / preference_M.sum()
        self.last_weights_M = self.preference_M.clone()
        self.num_skipped = 0
        self.num_held = 0
        self.num_fallback = 0
        self.metrics: dict[str, float] = {}

    def solve(self, gram_MM: Tensor, *, losses_M: Tensor | None = None, learning_rate: float | None = None) -> Solution:
        """Weigh the gradients of one step, and remember the weights.

        The one policy for degenerate gradients: where the Gram matrix is not finite the step is to be skipped, where
        all gradients are zero there is nothing to weigh. Both leave the method as it was, are counted, and give its
        last weights.

        Args:
            gram_MM: inner products of the gradients.
            losses_M: the objectives' losses, for a method that ``needs_losses``; an entry may be not finite.
            learning_rate: of the step to come, for a method that uses it.
        """
        gram_MM = gram_MM.to("cpu", torch.float64)
        self.metrics = {}
        if not gram_MM.isfinite().all():
            self.num_skipped += 1
            return Solution(self.last_weights_M.clone(), skipped=True)
        if not gram_MM.diagonal().any():
            self.num_held += 1
            return Solution(self.last_weights_M.clone())
        gram_MM = (gram_MM + gram_MM.T) / 2  # summed over ranks in another order, the two halves may differ in a bit
        with count_fallbacks() as fallbacks:
            self.last_weights_M = self.weights(gram_MM, losses_M, learning_rate)
        self.num_fallback += fallbacks.num
        return Solution(self.last_weights_M.clone(), metrics=self.metrics)

    @property
    def has_fixed_weights(self) -> bool:
        """Whether the weights are the preference whatever the gradients are: nothing then needs to be measured."""
        return False

    @abstractmethod
    def weights(self, gram_MM: Tensor, losses_M: Tensor | None, learning_rate: float | None) -> Tensor:
        """The method itself, on a symmetric, finite Gram matrix of gradients not all zero: float64 (M,)."""

    def state_dict(self) -> dict[str, Any]:
        """All that a restart needs: plain Python values, keyed by objective name."""
        return {
            **self._identity(),
            "last_weights": self.named(self.last_weights_M),
            "num_skipped": self.num_skipped,
            "num_held": self.num_held,
            "num_fallback": self.num_fallback,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave, to the last bit.

        Raises:
            CtwaError: the state is another method's, another version's, or of other objectives.
        """
        check_state(state, self._identity())
        self.last_weights_M = self.by_name(state["last_weights"])
        self.num_skipped = state["num_skipped"]
        self.num_held = state["num_held"]
        self.num_fallback = state.get("num_fallback", 0)  # checkpoints of ctwa 0.1 have none

    def by_name(self, values: Mapping[str, float]) -> Tensor:
        """Values by objective name as a float64 vector in alphabetical order."""
        return torch.tensor([values[name] for name in self.names], dtype=torch.float64)

    def named(self, values_M: Tensor) -> dict[str, float]:
        """A vector in alphabetical order as values by objective name."""
        return dict(zip(self.names, values_M.tolist(), strict=True))

    def _identity(self) -> dict[str, Any]:
        return {"version": 1, "method": self.method, "objectives": list(self.names)}
