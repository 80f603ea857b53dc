"""The seam between the engine and a gradient method: M gradients' Gram matrix in, the weights of their sum out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.aggregators.gram import has_gradient
from ctwa.arguments import check_tensor, is_finite
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo
from ctwa.solvers.fallbacks import count_fallbacks
from ctwa.state import Stateful
from ctwa.weights import check_weights

gradient_level = partial(MethodInfo, level="gradient", passes="M - 1 backward", memory="M gradient shards")
"""What a method is that weighs gradients: config, summary, source."""


@dataclass(frozen=True)
class Gradients:
    """What a method knows of the gradients of one step; all float64 on the CPU.

    Attributes:
        gram_MM: their inner products: symmetric, finite, not all zero.
        losses_M: the objectives' losses, of which some may be not finite; NaN where the method does not need them.
        learning_rate: of the step to come; NaN where the method does not need it.
        errors_MM: the standard errors of the inner products: 0 where nothing is known of them, infinite where they say
            nothing.
    """

    gram_MM: Tensor
    losses_M: Tensor
    learning_rate: float
    errors_MM: Tensor


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


class Aggregator(Stateful, ABC):
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
        last_weights_M: the weights of steps without a solution: at first the preference, then the last solution's, in
            which what it left out has its preference's share of the sum, and the others have the rest.
        num_skipped: how many Gram matrices were not finite.
        num_held: how many were of gradients that were all zero, and left the weights as they were.
        num_fallback: how many answers of outside solvers missed the conditions for a minimum, so that the problem was
            solved another way (``ctwa.solvers``).

    Raises:
        CtwaError: there is no objective, or one that no metric can be named after; a weight is no number, negative or
            not finite, all of them are 0, or their sum is not finite.
    """

    info: ClassVar[MethodInfo]
    for_rewards: ClassVar[bool] = True
    """Whether it is a method of `ctwa train`, too; every one is of `ctwa prefer`."""
    preference_name: ClassVar[str] = ""
    """What `ctwa prefer` calls it, where that is not its own name."""
    goes_by_weights: ClassVar[bool] = True
    """Whether it matters how large the objectives' own weights are, beyond which of them are 0."""
    of_errors: ClassVar[tuple[str, ...]] = ()
    """The options that do nothing where the inner products are not estimated, and have no standard errors."""
    needs_losses: ClassVar[bool] = False
    needs_learning_rate: ClassVar[bool] = False
    needs_semi_definite: ClassVar[bool] = True
    """Whether a Gram matrix that was estimated, and may have negative eigenvalues, is to be mended first."""
    leaves_out: ClassVar[bool] = False
    """Whether a solution gives an objective without a gradient the weight 0, and not one of the method's own."""
    STATE: ClassVar[tuple[str, ...]] = ("last_weights_M", "num_skipped", "num_held", "num_fallback")

    def __init__(self, config: Any, preference: Mapping[str, float]) -> None:
        check_weights(preference)
        for name in preference:
            key_of.check_name(name)
        self.config = config
        self.names = tuple(sorted(preference))
        preference_M = self.by_name(preference)
        self.preference_M = preference_M / preference_M.sum()
        self.last_weights_M = self.preference_M.clone()
        self.num_skipped = 0
        self.num_held = 0
        self.num_fallback = 0

    @property
    def method(self) -> str:
        """The method's name."""
        return self.info.name

    def solve(
        self,
        gram_MM: Tensor,
        *,
        losses_M: Tensor | None = None,
        learning_rate: float | None = None,
        errors_MM: Tensor | None = None,
    ) -> Solution:
        """Weigh the gradients of one step, and remember the weights.

        The one policy for degenerate gradients: where the Gram matrix is not finite the step is to be skipped, where
        all gradients are zero there is nothing to weigh. Both leave the method as it was, are counted, and give its
        last weights.

        Weights are constants of the step: nothing is differentiated through what they are computed from.

        Args:
            gram_MM: inner products of the gradients.
            losses_M: the objectives' losses, for a method that ``needs_losses``; an entry may be not finite.
            learning_rate: of the step to come, for a method that ``needs_learning_rate``.
            errors_MM: the standard errors of the inner products, where they were estimated.

        Raises:
            CtwaError: something that the method needs is not there, or not of the objectives' number.
        """
        check = partial(check_tensor, anywhere=True, M=len(self.names))
        gram_MM = check("gram_MM", gram_MM)
        losses_M = None if losses_M is None else check("losses_M", losses_M)
        errors_MM = None if errors_MM is None else check("errors_MM", errors_MM)
        if self.needs_losses and losses_M is None:
            raise CtwaError(f"{self.method} needs the objectives' losses: pass losses_M")
        rate = math.nan if learning_rate is None else learning_rate
        if self.needs_learning_rate and not (is_finite(rate) and rate >= 0):
            raise CtwaError(f"{self.method} needs the learning rate of the step: pass it as learning_rate")
        gram_MM = gram_MM.to("cpu", torch.float64)
        if not gram_MM.isfinite().all():
            self.num_skipped += 1
            return Solution(self.last_weights_M.clone(), skipped=True)
        if not gram_MM.diagonal().any():
            self.num_held += 1
            return Solution(self.last_weights_M.clone())
        gradients = Gradients(
            (gram_MM + gram_MM.T) / 2,  # summed over ranks in another order, the two halves may differ in a bit
            torch.full_like(self.preference_M, math.nan) if losses_M is None else losses_M.to("cpu", torch.float64),
            rate,
            torch.zeros_like(gram_MM) if errors_MM is None else errors_MM.to("cpu", torch.float64),
        )
        with count_fallbacks() as fallbacks:
            weights_M, metrics = self.weights(gradients)
        self.num_fallback += fallbacks.num
        left_out_M = ~has_gradient(gradients.gram_MM) & (weights_M == 0) & self.leaves_out
        self.last_weights_M = self._to_keep(weights_M, left_out_M)
        return Solution(weights_M.clone(), metrics=metrics)

    def _to_keep(self, weights_M: Tensor, left_out_M: Tensor) -> Tensor:
        """A solution for the steps that go by it, in which an objective that was left out may have a gradient again."""
        rest = 1 - float(self.preference_M[left_out_M].sum())  # 1 to the bit where nothing is left out
        return torch.where(left_out_M, weights_M.sum() * self.preference_M, rest * weights_M)

    @property
    def has_fixed_weights(self) -> bool:
        """Whether the weights are the preference whatever the gradients are: nothing then needs to be measured."""
        return False

    @abstractmethod
    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The method itself: the weights, float64 (M,), and what it reports of this step."""

    def identity(self) -> dict[str, Any]:
        """Version, method and objectives."""
        return {"version": 1, "method": self.method, "objectives": list(self.names)}
