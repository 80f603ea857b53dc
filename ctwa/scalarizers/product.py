"""The family from the weighted sum of the rewards over their product to the least of them: a weighted power mean.

Our own. The mean is Hardy, Littlewood and Polya's (Inequalities, 1934, chapter 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.batch import Rollout, Update, slack
from ctwa.covariance.diagnostics import finite
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, score_advantages
from ctwa.scalarizers.per_objective import judged_rows, magnified, no_signal_frac, trained_objectives, weights_in_score

_LARGEST = 1e15  # as of a reward


class ProductConfig(Options):
    """The options of the product.

    Attributes:
        power: which mean. 1 is the weighted sum, 0 the product (the weighted geometric mean), -1 the harmonic mean; far
            below 0 it is the least reward. The less it is, the less a good reward pays for a bad one.
        offset: added to every reward first. At a power of 0 or less a reward of 0 makes the score 0, whatever the
            others are; with an offset the others still count.
        exponent: the power of the score. The plain product of M rewards of equal weight has power 0 and exponent M.
    """

    type: Literal["product"] = "product"
    power: float = 0.0
    offset: Annotated[float, Field(ge=0)] = 0.0
    exponent: Annotated[float, Field(gt=0)] = 1.0


class Product(Scalarizer):
    """Scores a completion by ``(sum_m w_m (reward_m + offset)^power)^(exponent / power)``.

    The weights w are the objectives' own, or those that the prompt was told, scaled to a sum of 1 over those that apply
    to the completion. At power 0 the score is the limit, ``prod_m (reward_m + offset)^(w_m exponent)``. An objective
    without a scored entry in the batch takes no part in it, and one of weight 0 never does. A completion that lacks the
    reward of one that does is left out.
    """

    info = MethodInfo(
        ProductConfig, "a mean of the rewards between their sum, their product and the least of them", "this project"
    )
    has_zero = True
    takes_prompt_weights = True
    config: ProductConfig

    def __init__(self, config: ProductConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._weights_M = self.by_name(weights)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the score.

        Raises:
            CtwaError: a reward is below 0 by more than the offset: it has no power mean. Or a score is too large.
        """
        return score_advantages(rollout, estimate, self.names, magnified(self._scores(rollout), estimate))

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn from the update.

        Returns:
            ``product/score``: the mean score over the completions that have one; of rewards of 0 and 1 at power 0 and
            offset 0, how often a completion satisfies every objective. ``product/zero_frac``: the share of them whose
            score is 0. ``product/no_signal_frac``: the share of prompts in which all scores are equal, which train
            nothing.
        """
        scores_N = self._scores(update.rollout)
        scores = scores_N[scores_N.isfinite()]
        return finite(
            {
                "product/score": float(scores.mean()),
                "product/zero_frac": float((scores == 0).double().mean()),
                "product/no_signal_frac": no_signal_frac(scores_N, update.rollout.group_N),
            }
        )

    def _scores(self, rollout: Rollout) -> Tensor:
        """One score a completion, float64 (N,); NaN where no objective takes part, or one that does scored nothing."""
        rewards = rollout.rewards.select(self.names)
        values_NM = rewards.rewards_NM + self.config.offset
        if bool((bad_NM := rewards.scored_NM & (values_NM < -slack(self.config.offset))).any()):
            row, column = (int(i) for i in bad_NM.nonzero()[0])
            name = self.names[column]
            raise CtwaError(
                f"objective '{name}' has the reward {float(rewards.rewards_NM[row, column])} in row {row}, and the "
                "method product takes rewards of 0 or more; rank them, bound them from below, or write a larger offset "
                f"(in a configuration ctwa.objectives.{name}.transform=rank or clip=[0,null])"
            )
        weights_NM = weights_in_score(rollout, self.names, self._weights_M)
        scores_N = power_mean(values_NM.clamp(min=0), weights_NM, self.config.power) ** self.config.exponent
        scores_N = torch.where(judged_rows(rewards, weights_NM > 0), scores_N, float("nan"))
        if float(scores_N.nan_to_num(nan=0.0).max()) > _LARGEST:
            raise CtwaError(
                f"the method product makes scores beyond {_LARGEST:g} of these rewards, with which no statistics can "
                "be made: write a smaller exponent, or scale the rewards down (in a configuration "
                "ctwa.objectives.NAME.scale)"
            )
        return scores_N


def power_mean(values_NM: Tensor, weights_NM: Tensor, power: float) -> Tensor:
    """The weighted power mean of each row, (N,); 0 for a row with a 0 where the power is 0 or less.

    Args:
        values_NM: 0 or more, float64.
        weights_NM: 0 or more, float64; a value of weight 0 takes no part, and a row without any other has the mean NaN.
        power: finite; the mean is continuous and rises in it.
    """
    takes_part_NM = weights_NM > 0
    shares_NM = weights_NM / weights_NM.sum(1, keepdim=True)
    logs_NM = torch.where(takes_part_NM, values_NM, 1.0).log()
    # Relative to the value that the power makes the largest, no term is above 1: nothing overflows, and expm1 and log1p
    # lose no digit where the power is near 0.
    beyond = float("-inf") if power > 0 else float("inf")
    known_NM = torch.where(takes_part_NM, logs_NM, beyond)
    first_N = known_NM.amax(1) if power > 0 else known_NM.amin(1)
    below_NM = torch.where(takes_part_NM, logs_NM - first_N[:, None], 0.0)
    if power == 0:
        log_N = first_N + (shares_NM * below_NM).sum(1)
    else:
        log_N = first_N + (shares_NM * torch.expm1(power * below_NM)).sum(1).log1p() / power
    mean_N = torch.where(first_N == float("-inf"), 0.0, log_N.exp())
    return torch.where(takes_part_NM.any(1), mean_N, float("nan"))
