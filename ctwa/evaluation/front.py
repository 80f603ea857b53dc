"""Fronts: what models trade one objective against the others for, when their weights are chosen at the evaluation.

Letters: D resamples, P points, M objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctwa import metrics as key_of
from ctwa.evaluation.intervals import Floats, Measured, Ratio, measure, on_common_prompts, resampled_values
from ctwa.evaluation.models import Model
from ctwa.evaluation.steered import Steered
from ctwa.run.text import counted, number, table
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
        points: the models in their order, each objective over the prompts in which all of them were scored.
        reference: where hypervolumes are measured from, by objective.
        hypervolumes: by front, with the standard error of resampling the prompts; None of one prompt.
        left_out: by objective, prompts in which one model was scored and another was not.
    """

    objectives: Sequence[str]
    points: Sequence[Point]
    reference: Mapping[str, float]
    hypervolumes: Mapping[str, tuple[float, float | None]]
    left_out: Mapping[str, int]

    @classmethod
    def of(
        cls,
        models: Sequence[Model],
        ratios: Mapping[str, Mapping[str, Ratio]],
    ) -> Fronts:
        """The fronts of some models, of which the first is the baseline.

        Args:
            models: of the evaluation.
            ratios: what was measured, by model and metric.
        """
        names = sorted(key_of.objectives_in(ratios[models[0].name]))
        means = {name: [ratios[model.name][key_of.objective_mean(name)] for model in models] for name in names}
        shared = {name: _comparable(of_models) for name, of_models in means.items()}
        left_out = {
            name: int(np.any([ratio.denominators_P > 0 for ratio in means[name]], axis=0).sum())
            - max(ratio.num for ratio in shared[name])
            for name in names
        }
        measured = measure(shared)
        points_PM = np.array([[_known(measured[name][place].value) for name in names] for place in range(len(models))])
        reference_M = np.array([reference_value(values_P) for values_P in points_PM.T])
        fronts = [
            each.front if isinstance(each, Steered) else SINGLE if place else None for place, each in enumerate(models)
        ]
        points = [
            Point(
                model.name,
                front,
                model.told if isinstance(model, Steered) else None,
                {name: measured[name][place] for name in names},
                is_best,
            )
            for place, (model, front, is_best) in enumerate(zip(models, fronts, on_front(points_PM), strict=True))
        ]
        drawn_DPM = _drawn(list(zip(*shared.values(), strict=True)))
        volumes = {}
        for front in dict.fromkeys(each for each in fronts if each is not None):
            own_P = [each == front for each in fronts]
            draws = [hypervolume(points, reference_M) for points in drawn_DPM[:, own_P]]
            error = float(np.std(draws, ddof=1)) if len(shared[names[0]][0].numerators_P) > 1 else None
            volumes[front] = hypervolume(points_PM[own_P], reference_M), error
        return cls(names, points, dict(zip(names, reference_M.tolist(), strict=True)), volumes, left_out)

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
            "left_out": dict(self.left_out),
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
            *(
                f"{name}: {counted(num, 'prompt')} left out, in which some models were scored and others were not"
                for name, num in self.left_out.items()
                if num
            ),
            "",
            *table(["front", "points", "hypervolume"], volumes),
            f"above {_slashed([self.reference[name] for name in self.objectives])}",
        ]


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _comparable(ratios: Sequence[Ratio]) -> list[Ratio]:
    """Over the prompts in which all models were scored, those aside that were scored in none."""
    common = iter(on_common_prompts([ratio for ratio in ratios if ratio.num] or ratios))
    return [next(common) if ratio.num else ratio for ratio in ratios]


def _drawn(ratios: Sequence[Sequence[Ratio]]) -> Floats:
    """(D, P, M): the points of resampled prompts, the same prompts for all of them."""
    values = [draws_D[:NUM_DRAWS] for draws_D in resampled_values([ratio for point in ratios for ratio in point])]
    return np.stack(values, axis=1).reshape(NUM_DRAWS, len(ratios), -1)


def _slashed(values: Sequence[Any]) -> str:
    return "/".join(each if isinstance(each, str) else f"{each:.2g}" for each in values)
