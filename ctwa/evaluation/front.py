"""Fronts: what models trade one objective against the others for, when their weights are chosen at the evaluation.

Letters: D resamples, P points, M objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctwa import metrics as key_of
from ctwa.evaluation.intervals import Floats, Measured, Ratio, resampled_sums
from ctwa.evaluation.models import Model
from ctwa.evaluation.steered import Steered
from ctwa.run.text import number, table
from ctwa.statistics import hypervolume, on_front, reference_value

SINGLE = "models"
"""The front of the models that have no weights to choose, the baseline aside."""
NUM_DRAWS = 1000


@dataclass(frozen=True)
class Point:
    """A model on a front.

    Attributes:
        model: its name.
        front: what it is one of; None for the baseline.
        weights: that were chosen, by objective; None where there is no choice.
        values: what was measured, by objective.
        is_best: whether no other point of all fronts is at least as good in every objective and better in one.
    """

    model: str
    front: str | None
    weights: Mapping[str, float] | None
    values: Mapping[str, Measured]
    is_best: bool


@dataclass(frozen=True)
class Fronts:
    """Fronts beside each other.

    Attributes:
        objectives: in alphabetical order.
        points: the models in their order.
        reference: where hypervolumes are measured from, by objective.
        hypervolumes: by front, with the standard error of resampling the prompts; None of one prompt.
    """

    objectives: Sequence[str]
    points: Sequence[Point]
    reference: Mapping[str, float]
    hypervolumes: Mapping[str, tuple[float, float | None]]

    @classmethod
    def of(
        cls,
        models: Sequence[Model],
        metrics: Mapping[str, Mapping[str, Measured]],
        ratios: Mapping[str, Mapping[str, Ratio]],
    ) -> Fronts:
        """The fronts of some models, of which the first is the baseline.

        Args:
            models: of the evaluation.
            metrics: what was measured, by metric and model.
            ratios: what it was made of, by model and metric.
        """
        names = sorted(key_of.objectives_in(metrics))
        keys = [key_of.objective_mean(name) for name in names]
        points_PM = np.array([[_known(metrics[key][model.name].value) for key in keys] for model in models])
        reference_M = np.array([reference_value(values_P) for values_P in points_PM.T])
        fronts = [
            each.front if isinstance(each, Steered) else SINGLE if place else None for place, each in enumerate(models)
        ]
        points = [
            Point(
                model.name,
                front,
                model.told if isinstance(model, Steered) else None,
                {name: metrics[key][model.name] for name, key in zip(names, keys, strict=True)},
                is_best,
            )
            for model, front, is_best in zip(models, fronts, on_front(points_PM), strict=True)
        ]
        drawn_DPM = _drawn([[ratios[model.name][key] for key in keys] for model in models])
        volumes = {}
        for front in dict.fromkeys(each for each in fronts if each is not None):
            own_P = [each == front for each in fronts]
            draws = [hypervolume(points, reference_M) for points in drawn_DPM[:, own_P]]
            error = float(np.std(draws, ddof=1)) if len(ratios[models[0].name][keys[0]].numerators_P) > 1 else None
            volumes[front] = hypervolume(points_PM[own_P], reference_M), error
        return cls(names, points, dict(zip(names, reference_M.tolist(), strict=True)), volumes)

    def as_json(self) -> dict[str, Any]:
        """As plain values: docs/eval.md has the schema."""
        return {
            "objectives": list(self.objectives),
            "reference": dict(self.reference),
            "points": [
                {
                    "model": point.model,
                    "front": point.front,
                    "weights": None if point.weights is None else dict(point.weights),
                    "values": {name: measured.value for name, measured in point.values.items()},
                    "standard_errors": {name: measured.standard_error for name, measured in point.values.items()},
                    "is_best": point.is_best,
                }
                for point in self.points
            ],
            "hypervolumes": {
                front: {"value": value, "standard_error": error} for front, (value, error) in self.hypervolumes.items()
            },
        }

    def lines(self) -> list[str]:
        """As tables: a line a point, and a line a front."""
        rows = []
        for point in self.points:
            weights = (
                "-" if point.weights is None else _slashed([point.weights.get(name, 0.0) for name in self.objectives])
            )
            label = point.model if point.weights is None else str(point.front)
            values = [f"{number(each.value)} ± {number(each.standard_error)}" for each in point.values.values()]
            rows.append([label, weights, *values, "*" * point.is_best])
        volumes = [
            [front, str(sum(point.front == front for point in self.points)), f"{number(value)} ± {number(error)}"]
            for front, (value, error) in self.hypervolumes.items()
        ]
        return [
            *table(["model", "weights", *self.objectives, ""], rows, left=2),
            f"weights of {_slashed(self.objectives)}; *: no other point is at least as good everywhere",
            "",
            *table(["front", "points", "hypervolume"], volumes),
            f"above {_slashed([self.reference[name] for name in self.objectives])}",
        ]


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _drawn(ratios: Sequence[Sequence[Ratio]]) -> Floats:
    """(D, P, M): the points of resampled prompts, the same prompts for all of them."""
    parts = [part for point in ratios for ratio in point for part in (ratio.numerators_P, ratio.denominators_P)]
    sums_DC = resampled_sums(np.stack(parts, axis=1))[:NUM_DRAWS]
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have nothing to count
        return (sums_DC[:, ::2] / sums_DC[:, 1::2]).reshape(NUM_DRAWS, len(ratios), -1)


def _slashed(values: Sequence[Any]) -> str:
    return "/".join(each if isinstance(each, str) else f"{each:.2g}" for each in values)
