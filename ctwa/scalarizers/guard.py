"""Every objective has a gate on the others: they count only where it is good, until it has gained.

Our own. A gate by itself is the conditioned reward of GDPO (Liu et al. 2026, arXiv 2601.05242), set by hand for one
objective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import Rollout, Update, slack
from ctwa.covariance.diagnostics import finite
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, score_advantages
from ctwa.scalarizers.per_objective import (
    batch_means,
    check_trained,
    judged_rows,
    magnified,
    no_signal_frac,
    trained_objectives,
    weights_in_score,
)
from ctwa.scalarizers.since_start import MeansSinceStart

_LEAST_MARGIN = 0.05  # of an objective that begins at its bound, or nearer to it than that


class GuardConfig(Options):
    """The options of the guard.

    Attributes:
        margin: by how much an objective's mean reward rises above where it began until its gate is open. Of one that
            begins nearer to its bound it is all that it lacks, .05 at the least and ``margin`` at the most.
        warmup: the number of batches that an objective's beginning is the mean of. Its gate is closed in them.
        half_life: the number of batches after which one counts half in the mean that is held against the beginning.
        bounds: between what an objective's rewards are, by name, where that is not 0 and 1. They are moved and scaled
            to 0 and 1 first, and ``margin`` is in this unit.
    """

    type: Literal["guard"] = "guard"
    margin: Annotated[float, Field(gt=0)] = 0.25
    warmup: Annotated[int, Field(ge=1)] = 3
    half_life: Annotated[float, Field(gt=0)] = 3.0
    bounds: dict[str, tuple[float, float]] | None = None

    def unreached(self, num_steps: int) -> Iterator[str]:
        """Gates that never open."""
        if self.warmup >= num_steps:
            yield f"warmup={self.warmup}: no gate opens in {num_steps} steps"


class Guard(Scalarizer):
    """Scores a completion by ``sum_m w_m reward_m prod_{k != m} (1 - gate_k (1 - reward_k))``.

    With all gates closed (1) that is the product of the rewards, with all of them open (0) their weighted sum. A gate
    is closed until its objective has gained, opens in proportion to the gain, and closes as the gain is lost. The
    weights w are the objectives' own, or those that the prompt was told, scaled to a sum of 1 over those that apply to
    the completion; what does not apply has no gate either. A completion that lacks the reward of an objective that
    applies to it is left out.

    Raises:
        CtwaError: bounds of what is no objective or has the weight 0, or whose first is not below the second.
    """

    info = MethodInfo(
        GuardConfig, "from the rewards' product to their sum, as far as every objective has gained", "this project"
    )
    has_zero = True
    takes_prompt_weights = True
    STATE = tuple(f"_means.{each}" for each in MeansSinceStart.STATE)
    config: GuardConfig

    def __init__(self, config: GuardConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        bounds = config.bounds or {}
        check_trained("the method's bounds", bounds, weights)
        if wrong := {name: pair for name, pair in bounds.items() if not pair[0] < pair[1]}:
            raise CtwaError(f"the method has the bounds {wrong}; write the lowest reward and then the highest")
        self._lowest_M = self.by_name({name: bounds.get(name, (0.0, 1.0))[0] for name in self.names})
        self._highest_M = self.by_name({name: bounds.get(name, (0.0, 1.0))[1] for name in self.names})
        self._slack_M = self.by_name({name: slack(max(map(abs, bounds.get(name, (0.0, 1.0))))) for name in self.names})
        self._weights_M = self.by_name(weights)
        self._means = MeansSinceStart(len(self.names), warmup=config.warmup, half_life=config.half_life)

    @property
    def in_units(self) -> dict[str, str]:
        """What rewards are between."""
        return {"bounds": ""}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """Those that have a gate."""
        return self.names

    @property
    def gates_M(self) -> Tensor:
        """Of each trained objective, from 1, closed, to 0, open."""
        start_M, mean_M = self._in_bounds(self._means.start_M), self._in_bounds(self._means.mean_M)
        margin_M = (1 - start_M).clamp(_LEAST_MARGIN, self.config.margin)
        open_M = ((mean_M - start_M) / margin_M).clamp(0, 1)
        return torch.where(self._means.known_M, 1 - open_M, 1.0)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """Move the gates by the mean rewards of this rollout, then the advantages (N, T) of the score.

        Raises:
            CtwaError: a reward is out of its objective's bounds.
        """
        means = batch_means(rollout.rewards, self.names)
        self._means.observe(self.by_name({name: means.get(name) for name in self.names}))
        return score_advantages(rollout, estimate, self.names, magnified(self._scores(rollout), estimate))

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn: the gates moved before this update.

        Returns:
            ``guard/gate/<name>``: 1 where the others counted only with this objective, 0 where they counted without.
            ``guard/gain/<name>``: how far its mean is above where it began, after the warm-up.
            ``guard/no_signal_frac``: the share of prompts in which all scores are equal, which train nothing.
        """
        without = no_signal_frac(self._scores(update.rollout), update.rollout.group_N)
        gain_M = self._in_bounds(self._means.mean_M) - self._in_bounds(self._means.start_M)
        gains, known = self.named(gain_M), self.named(self._means.known_M)
        return finite(
            {key_of.gate(name): gate for name, gate in self.named(self.gates_M).items()}
            | {f"guard/gain/{name}": gain for name, gain in gains.items() if known[name]}
            | {"guard/no_signal_frac": without}
        )

    def identity(self) -> dict[str, Any]:
        """The version is that of means in the rewards' own units, so that a run may go on with other bounds."""
        return super().identity() | {"version": 2}

    def _scores(self, rollout: Rollout) -> Tensor:
        """One score a completion, float64 (N,); NaN where no objective takes part, or one that does scored nothing."""
        rewards = rollout.rewards.select(self.names)
        beyond_NM = torch.maximum(self._lowest_M - rewards.rewards_NM, rewards.rewards_NM - self._highest_M)
        outside_NM = rewards.scored_NM & (beyond_NM > self._slack_M)
        if bool(outside_NM.any()):
            row, column = (int(i) for i in outside_NM.nonzero()[0])
            name = self.names[column]
            raise CtwaError(
                f"objective '{name}' has the reward {float(rewards.rewards_NM[row, column])} in row {row}, and the "
                f"method guard takes it to be between {float(self._lowest_M[column]):g} and "
                f"{float(self._highest_M[column]):g}; write what it is between as the "
                f"method's option bounds={{{name}: [LOWEST, HIGHEST]}} (in a configuration "
                f"+ctwa.method.bounds.{name}=[LOWEST,HIGHEST], or ctwa.objectives.{name}.transform=sigmoid)"
            )
        weights_NM = weights_in_score(rollout, self.names, self._weights_M)
        scores_N = guarded_sum(self._in_bounds(rewards.rewards_NM).clamp(0, 1), weights_NM, self.gates_M)
        return torch.where(judged_rows(rewards, weights_NM > 0), scores_N, float("nan"))

    def _in_bounds(self, rewards_M: Tensor) -> Tensor:
        """Rewards (..., M) on the scale on which their bounds are 0 and 1."""
        return (rewards_M - self._lowest_M) / (self._highest_M - self._lowest_M)


def guarded_sum(values_NM: Tensor, weights_NM: Tensor, gates_M: Tensor) -> Tensor:
    """The score of each row, (N,).

    Args:
        values_NM: from 0 to 1.
        weights_NM: 0 or more, or one row (M,) for all. A value of weight 0 has no gate, and a row without any other has
            the score NaN.
        gates_M: from 0 to 1.
    """
    takes_part_NM = weights_NM > 0
    factors_NM = torch.where(takes_part_NM, 1 - gates_M * (1 - values_NM), 1.0)
    # A product over all but one: the factors themselves may be 0, so nothing is divided.
    every = torch.ones_like(factors_NM[:, :1])
    before_NM = torch.cat([every, factors_NM[:, :-1]], dim=1).cumprod(1)
    after_NM = torch.cat([factors_NM[:, 1:], every], dim=1).flip(1).cumprod(1).flip(1)
    terms_NM = weights_NM * torch.where(takes_part_NM, values_NM, 0.0) * before_NM * after_NM
    return terms_NM.sum(-1) / weights_NM.sum(-1)
