"""Methods on the gradient level: every objective has its own gradient, and an aggregator combines them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ctwa.aggregators.base import Aggregator
from ctwa.aggregators.registry import AggregatorConfig, build_aggregator
from ctwa.batch import Rollout, slack
from ctwa.errors import CtwaError
from ctwa.scalarizers.base import Estimate, Scalarizer
from ctwa.scalarizers.per_objective import REWARD_CEILING


class GradientMethod(Scalarizer):
    """Descends along ``sum_m w_m grad L_m``, with w from the Gram matrix of the gradients.

    L_m is the policy's clipped loss with the advantages of objective m alone: each objective is estimated by itself,
    so that the scale of its reward does not matter where the estimator standardises.

    Args:
        config: the aggregator's.
        weights: the objectives' own weights, the preference among them.
    """

    STATE = ("aggregator",)
    aggregator: Aggregator

    def __init__(self, config: AggregatorConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.aggregator = build_aggregator(config, weights)

    @property
    def goes_by_weights(self) -> bool:  # type: ignore[override]
        """As the aggregator does."""
        return self.aggregator.goes_by_weights

    @property
    def method(self) -> str:
        """The aggregator's state says which."""
        return "gradient"

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the last combination; at the start the objectives' own, to the sum of 1."""
        return self._in_order(self.aggregator.last_weights_M)

    @property
    def in_units(self) -> dict[str, str]:
        """The losses, where the aggregator compares them with those of other batches."""
        return {"losses": ""} if self.aggregator.needs_losses else {}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """All, where losses are compared: each is what the mean reward lacks of the ceiling."""
        return self.names if self.aggregator.needs_losses else ()

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) as the last weights combine them: what the covariance trace is told of.

        The update itself takes each objective's.
        """
        last_M = self.aggregator.last_weights_M.float()
        return torch.einsum("m,mnt->nt", last_M, self.objective_advantages(rollout, estimate).float())

    def losses(self, rollout: Rollout) -> Tensor | None:
        """How far each objective's mean reward is from its ceiling; NaN where nothing was scored.

        Raises:
            CtwaError: a mean reward above the ceiling, where the method compares losses.
        """
        if not self.aggregator.needs_losses:
            return None
        rewards = rollout.rewards.select(self.names)
        scored_sum_M = torch.where(rewards.scored_NM, rewards.rewards_NM, 0.0).sum(0)
        losses_M = REWARD_CEILING - scored_sum_M / rewards.scored_NM.sum(0)
        least = -slack(REWARD_CEILING)
        if above := [name for name, loss in self.named(losses_M).items() if loss < least]:
            raise CtwaError(
                f"the mean reward of {above} is above {REWARD_CEILING:g}, but '{self.aggregator.method}' compares "
                f"losses counted from there: scale the reward function to at most {REWARD_CEILING:g}"
            )
        return losses_M.clamp(min=0)
