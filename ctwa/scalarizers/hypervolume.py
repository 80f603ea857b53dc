"""Hypervolume-guided dynamic weighting (Lu et al. 2025, arXiv 2509.11452): front gains weigh the next step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field
from torch import Tensor

from ctwa.arguments import is_finite
from ctwa.batch import Rollout, Update
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import (
    Estimate,
    Requirements,
    Scalarizer,
    score_advantages,
    weighted_advantages,
    weighted_scores,
)
from ctwa.scalarizers.per_objective import batch_means, check_trained, trained_objectives
from ctwa.solvers.fallbacks import count_fallbacks
from ctwa.solvers.volumes import dominated_volume, not_dominated

_logger = logging.getLogger(__name__)

ApplyTo = Annotated[
    Literal["auto", "rewards", "loss", "off"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML reads off as a boolean
]


class HypervolumeConfig(Options):
    """The options of hypervolume-guided weighting.

    Attributes:
        apply_to: what the multiplier multiplies. ``rewards``, as published, which has no effect and is refused where
            advantages are standardised; ``loss``: the advantages; ``off``: nothing, it is only traced; ``auto``:
            ``off`` where advantages are standardised, else ``rewards``.
        scores: what the points of the front are: mean rewards of ``validation``, or of the training ``batch``.
            ``auto``: of validation where there is one before the first step, else of the batch.
        scales: what a reward is divided by before volumes are taken, by name; 1 for those that are not named.
        num_points: the most points of the front that are kept. A dominated point is never kept; where there are more
            than this, the one that adds least to the volume goes.
    """

    type: Literal["hypervolume"] = "hypervolume"
    apply_to: ApplyTo = "auto"
    scores: Literal["auto", "validation", "batch"] = "auto"
    scales: dict[str, Annotated[float, Field(gt=0)]] | None = None
    num_points: Annotated[int, Field(ge=1)] = 50

    def fitted(self, *, scale_invariant: bool) -> Self:
        """With ``auto`` decided. Raises CtwaError where rewards are to be multiplied and that has no effect."""
        if self.apply_to == "rewards" and scale_invariant:
            raise CtwaError(
                "apply_to is rewards, but the advantage estimator divides by the spread of the scores, which cancels a "
                "factor common to all of them; write apply_to: loss, or use an estimator that does not standardise"
            )
        if self.apply_to != "auto":
            return self
        if scale_invariant:
            _logger.warning(
                "hypervolume: the advantage estimator standardises, which cancels the multiplier; it is traced "
                "and not applied (apply_to: loss applies it to the advantages)"
            )
        return self.model_copy(update={"apply_to": "off" if scale_invariant else "rewards"})


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that the points dominate above the reference, exactly; every objective is to be large.

    Args:
        points: P points of M numbers. One that is not above the reference in every objective adds nothing.
        reference: M numbers.
    """
    if not points:
        return 0.0
    return dominated_volume(np.array(points, dtype=float), np.array(reference, dtype=float))


def multiplier(gain: float) -> float:
    """``0.5 + 1.5 tanh(gain)``, in [0.5, 2): what the next step is multiplied by after this gain in volume."""
    return 0.5 + 1.5 * math.tanh(gain)


class Hypervolume(Scalarizer):
    """Linear scalarization whose next step is multiplied by how much the last scores extended the Pareto front.

    The first scores are the reference point. An objective of weight 0 is no dimension of the volume.

    Raises:
        CtwaError: ``scales`` names what is no objective or has the weight 0.
    """

    info = MethodInfo(
        HypervolumeConfig,
        "steps that extend the front count for more",
        "Lu et al. 2025, arXiv 2509.11452",
        memory="a front of points",
    )
    STATE = (
        *("_source", "_last_validation", "_reference", "_points"),
        *("_gain", "_multiplier", "_num_held", "_num_fallback"),
    )
    config: HypervolumeConfig

    def __init__(self, config: HypervolumeConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        scales = config.scales or {}
        check_trained("the method's scales", scales, weights)
        self.names = trained_objectives(weights)
        self._scales = {name: scales.get(name, 1.0) for name in self.names}
        self._source: str | None = None if config.scores == "auto" else config.scores
        self.requirements = Requirements(validation=config.scores == "validation")
        self._last_validation = -1
        self._reference: dict[str, float] | None = None
        self._points: list[dict[str, float]] = []
        self._gain = 0.0
        self._multiplier = 1.0
        self._num_held = 0
        self._num_fallback = 0

    @property
    def in_units(self) -> dict[str, str]:
        """The front, where it may be of training batches; held-out rewards are of one unit."""
        return {} if self.config.scores == "validation" else {"front": "scores=validation"}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """The dimensions of the volume."""
        return self.names

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum, with the multiplier where it applies."""
        if self.config.apply_to in ("rewards", "auto"):
            scores_N = self._multiplier * weighted_scores(rollout, self.initial_weights)
            return score_advantages(rollout, estimate, list(self.initial_weights), scores_N)
        advantages_NT = weighted_advantages(rollout, estimate, self.initial_weights)
        return self._multiplier * advantages_NT if self.config.apply_to == "loss" else advantages_NT

    def observe_validation(self, step: int, scores: Mapping[str, float]) -> None:
        """Take in the mean held-out rewards; the multiplier that follows holds until the next validation.

        Args:
            step: the step they were measured after. A step that is not later than the last one is a resumed run's
                repetition and is passed over.
            scores: the means, by name.
        """
        if self._source == "batch" or step <= self._last_validation:
            return
        self._source = "validation"
        self._last_validation = step
        self._take(scores)

    def observe_update(self, update: Update) -> dict[str, float]:
        """Take in the batch's mean rewards, where the points are of the batch.

        Returns:
            ``hypervolume/{volume,gain,multiplier,num_points,num_held,num_fallback}``: the volume of the front, what the
            last scores added, what the next step is multiplied by (if ``hypervolume/applied`` is 1), the size of the
            front, how many scores so far lacked an objective, and how many volumes were not believed
            (``ctwa.solvers``). ``hypervolume/reference/<name>``: the reference point.
        """
        if self._source is None:
            self._source = "batch"
        if self._source == "batch":
            self._take(batch_means(update.rollout.rewards, self.names))
        metrics = {
            "hypervolume/multiplier": self._multiplier,
            "hypervolume/applied": float(self.config.apply_to != "off"),
            "hypervolume/num_held": float(self._num_held),
            "hypervolume/num_fallback": float(self._num_fallback),
        }
        if self._reference is not None:
            metrics |= {
                "hypervolume/volume": self._volume(self._points),
                "hypervolume/gain": self._gain,
                "hypervolume/num_points": float(len(self._points)),
            }
            for name, value in self._reference.items():
                metrics[f"hypervolume/reference/{name}"] = value * self._scales[name]
        return metrics

    def identity(self) -> dict[str, Any]:
        """And the scales that the front is divided by."""
        return super().identity() | {"scales": dict(self._scales)}

    def _take(self, scores: Mapping[str, float]) -> None:
        """Add one point to the front and set the multiplier; the first is the reference point."""
        if not all(is_finite(scores.get(name)) for name in self.names):
            self._num_held += 1
            return
        point = {name: scores[name] / self._scales[name] for name in self.names}
        if self._reference is None:
            self._reference = point
            return
        with count_fallbacks() as fallbacks:
            before = self._volume(self._points)
            points = [*self._points, point]
            kept = not_dominated(np.array(self._rows(points)))
            points = [each for each, keep in zip(points, kept, strict=True) if keep]
            self._gain = max(self._volume(points) - before, 0.0)
            self._multiplier = multiplier(self._gain)
            if self._gain > 0:
                self._points = self._thinned(points)
        self._num_fallback += fallbacks.num

    def _volume(self, points: Sequence[Mapping[str, float]]) -> float:
        assert self._reference is not None
        return hypervolume(self._rows(points), *self._rows([self._reference]))

    def _rows(self, points: Sequence[Mapping[str, float]]) -> list[list[float]]:
        return [[point[name] for name in self.names] for point in points]

    def _thinned(self, points: list[dict[str, float]]) -> list[dict[str, float]]:
        """The points that are left when the one that adds least to the volume goes, until there are few enough."""
        while len(points) > self.config.num_points:
            others = [points[:index] + points[index + 1 :] for index in range(len(points))]
            points = max(others, key=self._volume)  # the first of equals
        return points
