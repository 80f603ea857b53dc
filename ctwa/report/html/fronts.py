"""Methods side by side: the planes of two objectives with their Pareto fronts, and hypervolumes over the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from ctwa.report.compare import Comparison, results_at
from ctwa.report.curves import EMPTY, Curve, Floats, over_seeds
from ctwa.report.groups import Group
from ctwa.report.html.panels import Figure, Line, Mark, Panel, Section, drawn
from ctwa.report.trace import RunTrace
from ctwa.statistics import Interval, hypervolume

_MOST_PLANES = 6
_MOST_VOLUMES = 200  # steps


def side_by_side(comparison: Comparison, groups: Sequence[Group], objectives: Sequence[str]) -> Section:
    """Pareto fronts of the end results, and hypervolumes over the steps.

    Args:
        comparison: of the methods.
        groups: their runs, in the same order.
        objectives: of all of them.
    """
    means = np.array(
        [
            [method.results[name].mean if name in method.results else np.nan for name in objectives]
            for method in comparison.methods
        ]
    )
    planes = [
        (first, second)
        for first, second in combinations(range(len(objectives)), 2)
        if np.isfinite(means[:, [first, second]]).any(axis=0).all()
    ]
    figures: list[Figure] = [
        _plane(comparison, groups, (objectives[first], objectives[second]), means[:, [first, second]])
        for first, second in sorted(planes, key=_conflict(means))[:_MOST_PLANES]
    ]
    lines = [
        Line(group.label, over_seeds([_volume(run, comparison) for run in group.runs]), index, "marked")
        for index, group in enumerate(groups)
    ]
    figures.append(Panel("hypervolume", "hypervolume of the results", "hypervolume", lines))
    text = (
        f"At {comparison.at}, {comparison.result}: large marks are methods with their"
        " intervals, small ones their runs, the dashed line the front of the plane."
    )
    if len(planes) > _MOST_PLANES:
        text += f" Of {len(planes)} pairs the {_MOST_PLANES} that conflict most are shown."
    return Section("front", "Pareto fronts", text, drawn(figures))


def _plane(comparison: Comparison, groups: Sequence[Group], names: tuple[str, str], points: Floats) -> Panel:
    x_name, y_name = names
    marks = []
    for index, (group, method) in enumerate(zip(groups, comparison.methods, strict=True)):
        if x_name not in method.results or y_name not in method.results:
            continue
        if len(group.runs) > 1:
            for run, step in zip(group.runs, method.steps, strict=True):
                results = results_at(run, step)
                marks.append(Mark(run.label, index, results[x_name], results[y_name], large=False))
        x, y = method.results[x_name], method.results[y_name]
        marks.append(Mark(group.label, index, x.mean, y.mean, _range(x), _range(y)))
    points = points[np.isfinite(points).all(axis=1)]
    order = np.lexsort((-points[:, 1], -points[:, 0]))
    front: list[tuple[float, float]] = []
    for x_value, y_value in points[order]:
        if not front or y_value > front[-1][1]:
            front.append((x_value, y_value))
    title = f"{x_name} and {y_name}"
    return Panel(f"front-{x_name}-{y_name}", title, y_name, marks=marks, front=np.array(front), x_label=x_name)


def _volume(run: RunTrace, comparison: Comparison) -> Curve:
    curves = [run.curve(run.result_key(name)) for name in comparison.objectives]
    if not all(len(each) for each in curves):
        return EMPTY
    steps = curves[0].steps
    for each in curves[1:]:
        steps = np.intersect1d(steps, each.steps)
    if len(steps) > _MOST_VOLUMES:
        steps = steps[np.linspace(0, len(steps) - 1, _MOST_VOLUMES).round().astype(int)]
    values_SM = np.array([each.values[np.isin(each.steps, steps)] for each in curves]).T
    reference = np.array(list(comparison.reference.values()))
    return Curve(steps, np.array([hypervolume(value_M[None], reference) for value_M in values_SM]))


def _range(interval: Interval) -> tuple[float, float] | None:
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)


def _conflict(means: Floats) -> Callable[[tuple[int, int]], float]:
    """The correlation of two objectives over methods: the lower, the more one costs the other."""

    def correlation(pair: tuple[int, int]) -> float:
        points = means[:, list(pair)]
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) < 2 or (points.std(axis=0) == 0).any():
            return 0.0
        return float(np.corrcoef(points[:, 0], points[:, 1])[0, 1])

    return correlation
