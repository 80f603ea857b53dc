"""SAW, stage-aware weights (He et al. 2026, arXiv 2606.07705): by each reward's coefficient of variation in the batch.

Read in public summaries of its algorithm 1 and section 4, and in the numbers of its published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout, Update, slack
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, weighted_advantages
from ctwa.scalarizers.decoupled import batch_normalized, check_standardises, decoupled_sum, to_largest
from ctwa.scalarizers.per_objective import check_trained, trained_objectives, unit_of


class SawConfig(Options):
    """The options of SAW.

    Attributes:
        apply_to: what the weights multiply. ``rewards``: the rewards, and the sum has one advantage (the paper's GRPO
            mode). ``advantages``: the objectives' own standardised advantages, whose sum is standardised over the
            batch (its GDPO mode).
        lowest: the least reward that an objective can give, by name; 0 for those that are not named. It is subtracted
            before the coefficient of variation is taken, and from nothing else.
        delta: a small number in the denominators; where the coefficients' sum is below it the weights are equal.
    """

    type: Literal["saw"] = "saw"
    apply_to: Literal["rewards", "advantages"] = "rewards"
    lowest: dict[str, float] | None = None
    delta: Annotated[float, Field(gt=0)] = 1e-8

    def fitted(self, *, scale_invariant: bool) -> Self:
        """The same; for advantages the estimator has to standardise each objective, else CtwaError."""
        if self.apply_to == "advantages":
            check_standardises("saw with apply_to=advantages", scale_invariant=scale_invariant)
        return self


class Saw(Scalarizer):
    """A weighted sum whose weights are the objectives' own times ``c_m / sum_l c_l``, new for every batch.

    The coefficient of variation c is the standard deviation of the reward over its mean, both over the batch's scored
    completions.

    Raises:
        CtwaError: ``lowest`` names what is no objective or has the weight 0.
    """

    info = MethodInfo(SawConfig, "weights by the coefficient of variation", "He et al. 2026, arXiv 2606.07705")
    has_zero = True
    config: SawConfig

    def __init__(self, config: SawConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self._lowest = config.lowest or {}
        check_trained("the method's lowest", self._lowest, weights)
        self.names = trained_objectives(weights)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum.

        Raises:
            CtwaError: a reward is below the least that there can be.
        """
        shares = self._shares(self._variation(rollout.rewards))
        if self.config.apply_to == "rewards":
            weights = {name: shares.get(name, 0.0) * self.initial_weights[name] for name in self.names}
            return weighted_advantages(rollout, estimate, dict.fromkeys(self.initial_weights, 0.0) | weights)
        own = to_largest({name: self.initial_weights[name] for name in self.names})
        weights = {name: len(shares) * shares.get(name, 0.0) * own[name] for name in self.names}
        total_NT, size = decoupled_sum(rollout, estimate, weights)
        rows_N = rollout.rewards.select(self.names).applicable_NM.any(1)
        return batch_normalized(total_NT, rollout.loss_mask_NT, rows_N, size)

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn.

        Returns:
            ``saw/variation/<name>``: the coefficient of variation, of an objective with a scored entry.
            ``saw/share/<name>``: what its own weight is multiplied by.
        """
        variation = self._variation(update.rollout.rewards)
        metrics = {f"saw/variation/{name}": value for name, value in variation.items()}
        return metrics | {f"saw/share/{name}": share for name, share in self._shares(variation).items()}

    def _variation(self, rewards: RewardMatrix) -> dict[str, float]:
        """The coefficient of variation of each objective that scored a completion."""
        variation = {}
        for name in self.names:
            values_N, scored_N = rewards.column(name)
            values, lowest = values_N[scored_N], self._lowest.get(name, 0.0)
            if not len(values):
                continue
            if float(values.min()) < lowest - slack(lowest):
                raise CtwaError(
                    f"objective '{name}' has the reward {float(values.min())}, and the method saw takes {lowest} for "
                    "the least that there can be; write the least reward as the method's option "
                    f"lowest={{{name}: NUMBER}}, or bound the reward (in a configuration ctwa.objectives.{name}.clip)"
                )
            shifted = (values - lowest).clamp(min=0) + self.config.delta
            unit = unit_of(shifted)  # of both parts of the ratio
            spread = float((shifted / unit).std()) if len(shifted) > 1 else 0.0
            variation[name] = spread / (float((shifted / unit).mean()) + self.config.delta / unit)
        return variation

    def _shares(self, variation: Mapping[str, float]) -> dict[str, float]:
        """The coefficients as shares of their sum, equal ones where it is nothing; for the objectives that have one."""
        total = sum(variation.values())
        if total < self.config.delta:
            return {name: 1 / len(variation) for name in variation}
        return {name: value / total for name, value in variation.items()}
