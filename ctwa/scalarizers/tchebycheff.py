"""Weighted Tchebycheff scalarization: the objective that is furthest from its reference counts, and it alone.

As in the baselines of CTWA (Lu & Jiang 2026, arXiv 2602.06869, Algorithm 4), with one score a completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import finite
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, score_advantages
from ctwa.scalarizers.per_objective import check_trained, judged_rows, taking_part, trained_objectives


class TchebycheffOptions(Options):
    """The options of weighted Tchebycheff, plain or smooth.

    Attributes:
        reference: where the reference point is. ``running``: at the best reward that any training completion had so
            far, which only rises. ``batch``: at the best of the current batch. ``fixed``: at ``reference_point``.
        reference_point: the reference of the objectives, by name. ``fixed`` needs all of them; ``running`` starts from
            it, and an objective that is not named starts at the best of its first batch.
    """

    reference: Literal["running", "batch", "fixed"] = "running"
    reference_point: dict[str, float] | None = None

    @model_validator(mode="after")
    def _reference_has_its_point(self) -> Self:
        if self.reference == "fixed" and self.reference_point is None:
            raise CtwaError("reference is fixed, but at nothing; add reference_point with one number an objective")
        if self.reference == "batch" and self.reference_point is not None:
            raise CtwaError("reference is batch, which makes its own reference_point; remove that, or write fixed")
        return self


class TchebycheffConfig(TchebycheffOptions):
    """The options of weighted Tchebycheff."""

    type: Literal["tchebycheff"] = "tchebycheff"


class Tchebycheff(Scalarizer):
    """Scores a completion by its worst weighted distance to a reference point, ``-max_m weight_m (z_m - reward_m)``.

    The maximum is over the objectives that apply to the completion. One without a scored entry in the batch takes no
    part in it, and one of weight 0 never does. A completion that lacks the reward of one that does is left out.

    Raises:
        CtwaError: ``reference_point`` names what is no objective or has the weight 0, or is fixed and leaves one out.
    """

    info = MethodInfo(
        TchebycheffConfig, "the worst weighted distance to a reference point", "Bowman 1976; Miettinen 1999"
    )
    STATE = ("_reference_point",)
    config: TchebycheffOptions

    def __init__(self, config: TchebycheffOptions, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._weights_M = self.by_name(weights)
        point = config.reference_point or {}
        check_trained("the method's reference_point", point, weights)
        if config.reference == "fixed" and (missing := [name for name in self.names if name not in point]):
            raise CtwaError(f"the method's reference_point leaves out {missing}; write one number for each objective")
        self._written_M = self.by_name({name: point.get(name, float("-inf")) for name in self.names})
        self._reference_point: dict[str, float] = {}

    @property
    def in_units(self) -> dict[str, str]:
        """The reference point, but for one that every batch makes anew."""
        return {} if self.config.reference == "batch" else {"reference point": "reference=batch"}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the Tchebycheff score; a running reference point takes in this batch first."""
        reference_M = self._reference_of(rollout)
        if self.config.reference == "running":
            self._reference_point = {
                name: value for name, value in self.named(reference_M).items() if value > float("-inf")
            }
        scores_N = -self.distance(self._gaps(rollout, reference_M))
        return score_advantages(
            rollout, estimate, self.names, torch.where(self._judged(rollout), scores_N, float("nan"))
        )

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn from the update.

        Returns:
            ``tchebycheff/reference/<name>``: the reference point. ``tchebycheff/binding/<name>``: the mean of
            ``binding``, the share of the completions whose score this objective decides, of those that have one and
            that it applies to. Of a method that this one is the base of, in its own name.
        """
        reference_M = self._reference_of(update.rollout)
        rows_NM = self._judged(update.rollout)[:, None] & update.rollout.rewards.select(self.names).applicable_NM
        binding_NM = torch.where(rows_NM, self.binding(self._gaps(update.rollout, reference_M)), 0.0)
        binding = self.named(binding_NM.sum(0) / rows_NM.sum(0))
        metrics: dict[str, float] = {}
        for name, value in self.named(reference_M).items():
            if value > float("-inf"):
                metrics |= {f"{self.method}/reference/{name}": value, f"{self.method}/binding/{name}": binding[name]}
        return finite(metrics)

    def distance(self, gap_NM: Tensor) -> Tensor:
        """How far each completion is from the reference, (N,), by its weighted distances; -inf for no part in it."""
        return gap_NM.amax(1)

    def binding(self, gap_NM: Tensor) -> Tensor:
        """How much of each completion's score each objective decides, (N, M): 1 where it is the furthest."""
        return (gap_NM == gap_NM.amax(1, keepdim=True)).double()

    def _reference_of(self, rollout: Rollout) -> Tensor:
        """The reference point for this batch, -inf where there is none."""
        if self.config.reference == "fixed":
            return self._written_M
        rewards = rollout.rewards.select(self.names)
        best_M = torch.where(rewards.scored_NM, rewards.rewards_NM, float("-inf")).amax(0)
        if self.config.reference == "batch":
            return best_M
        # What is written may be above what a checkpoint has.
        known_M = self.by_name({name: self._reference_point.get(name, float("-inf")) for name in self.names})
        return torch.maximum(torch.maximum(self._written_M, known_M), best_M)

    def _gaps(self, rollout: Rollout, reference_M: Tensor) -> Tensor:
        """The weighted distances to the reference point.

        -inf for an objective that scored nothing in this batch, or does not apply to the completion.
        """
        rewards = rollout.rewards.select(self.names)
        gap_NM = self._weights_M * (reference_M - rewards.rewards_NM)
        return torch.where(taking_part(rewards), gap_NM, float("-inf"))

    def _judged(self, rollout: Rollout) -> Tensor:
        rewards = rollout.rewards.select(self.names)
        return judged_rows(rewards, taking_part(rewards))
