"""Compromise programming (Zeleny 1973): what an objective lacks of its largest reward decides what it weighs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout, Update, slack
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, weighted_advantages
from ctwa.scalarizers.per_objective import REWARD_CEILING, batch_means, check_trained, trained_objectives
from ctwa.scalarizers.since_start import MeansSinceStart

_LEAST_GAP = 0.05  # what an objective is taken to have lacked at the least when it began, in the reward's unit


class CompromiseConfig(Options):
    """The options of compromise programming.

    Attributes:
        alpha: how strongly the objectives that lag are favoured. 0 is linear; the more it is, the more the one that
            lags most counts alone.
        warmup: the number of batches that an objective's beginning is the mean of. Its shortfall is 1 in them.
        half_life: the number of batches after which one counts half in the mean that is held against the beginning.
        largest: the largest reward that an objective can give, by name, where that is not 1.
    """

    type: Literal["compromise"] = "compromise"
    alpha: Annotated[float, Field(ge=0)] = 3.0
    warmup: Annotated[int, Field(ge=1)] = 5
    half_life: Annotated[float, Field(gt=0)] = 5.0
    largest: dict[str, float] | None = None

    def idle(self) -> Mapping[str, str]:
        """Fixed weights hear of no mean."""
        return {"warmup": "alpha=0", "half_life": "alpha=0"} if self.alpha == 0 else {}

    def unreached(self, num_steps: int) -> Iterator[str]:
        """Weights that never move."""
        if self.alpha and self.warmup + 1 >= num_steps:  # a batch moves the weights of the next one
            yield f"warmup={self.warmup}: no weight moves in {num_steps} steps"


class Compromise(Scalarizer):
    """A weighted sum whose weights are the objectives' own times ``shortfall_m^alpha``, scaled to the sum of their own.

    The shortfall is ``(largest_m - mean_m) / (largest_m - start_m)``: 1 where the objective began, if that was .05 or
    more below the largest reward, 0 where it cannot be better, above 1 where it has lost. The weights are the slope of
    the global criterion ``sum_m weight_m shortfall_m^(1 + alpha)`` by the shortfalls.

    Raises:
        CtwaError: ``largest`` names what is no objective or has the weight 0.
    """

    info = MethodInfo(
        CompromiseConfig,
        "weights by what each objective still lacks of its largest reward",
        "Zeleny 1973; Miettinen 1999",
    )
    has_zero = True
    STATE = tuple(f"_means.{each}" for each in MeansSinceStart.STATE)
    config: CompromiseConfig

    def __init__(self, config: CompromiseConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        largest = config.largest or {}
        check_trained("the method's largest", largest, weights)
        each = {name: largest.get(name, REWARD_CEILING) for name in self.names}
        self._largest_M = self.by_name(each)
        self._most_M = self.by_name({name: most + slack(most) for name, most in each.items()})
        self._weights_M = self.by_name(weights)
        self._means = MeansSinceStart(len(self.names), warmup=config.warmup, half_life=config.half_life)

    @property
    def in_units(self) -> dict[str, str]:
        """The largest rewards."""
        return {"largest": ""}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """Those that have a shortfall, where it changes a weight."""
        return self.names if self.config.alpha else ()

    @property
    def shortfall_M(self) -> Tensor:
        """Of each trained objective what it lacks now, as a share of what it lacked at the beginning."""
        gap_M = (self._largest_M - self._means.mean_M).clamp(min=0)
        first_gap_M = (self._largest_M - self._means.start_M).clamp(min=_LEAST_GAP)
        return torch.where(self._means.known_M, gap_M / first_gap_M, 1.0)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the next rollout's score, to the sum of the objectives' own."""
        shortfall_M, weights_M = self.shortfall_M, self._weights_M
        if bool(shortfall_M.any()):
            # Relative to the largest one, none overflows.
            weights_M = weights_M * (shortfall_M / shortfall_M.max()) ** self.config.alpha
        weights_M = weights_M * (self._weights_M.sum() / weights_M.sum())
        return dict.fromkeys(self.initial_weights, 0.0) | self.named(weights_M)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum.

        Raises:
            CtwaError: a reward is above the largest that there can be.
        """
        self._check(rollout.rewards.select(self.names))
        return weighted_advantages(rollout, estimate, self.weights)

    def observe_update(self, update: Update) -> dict[str, float]:
        """Take in the batch's mean rewards; they set the weights of the next rollout.

        Returns:
            ``compromise/shortfall/<name>``: what the objective lacks now as a share of what it lacked at the beginning.
        """
        means = batch_means(update.rollout.rewards, self.names)
        self._means.observe(self.by_name({name: means.get(name) for name in self.names}))
        return {f"compromise/shortfall/{name}": each for name, each in self.named(self.shortfall_M).items()}

    def _check(self, rewards: RewardMatrix) -> None:
        above_NM = rewards.scored_NM & (rewards.rewards_NM > self._most_M)
        if bool(above_NM.any()):
            row, column = (int(i) for i in above_NM.nonzero()[0])
            name = self.names[column]
            raise CtwaError(
                f"objective '{name}' has the reward {float(rewards.rewards_NM[row, column])} in row {row}, and the "
                f"method compromise takes {float(self._largest_M[column]):g} for the largest that there can be; write "
                f"the largest reward as the method's option largest={{{name}: NUMBER}} (in a configuration "
                f"+ctwa.method.largest.{name}=NUMBER), or bound the reward (ctwa.objectives.{name}.clip)"
            )
