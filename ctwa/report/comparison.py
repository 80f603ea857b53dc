"""Several runs side by side in plain text: results at equal steps, held-out curves, covariances and weights."""

from collections.abc import Collection, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean

from ctwa.report.summary import COLUMNS, ObjectiveSummary, RunTrace, cells, read_runs, summarize_trace
from ctwa.run.text import Points, beside, clean, duration, fit, number, panel, resample, sparkline, table

_PANEL_WIDTH = 32  # at least, for one chart among others


def compare(paths: Sequence[Path | str], *, width: int = 100) -> str:
    """One or several runs side by side: results at equal steps, held-out curves, covariances and weights.

    Args:
        paths: the folders of the runs.
        width: of the text, in terminal cells.

    Raises:
        CtwaError: a path holds no run or is given twice, or a run has measured no objective yet.
    """
    runs = read_runs(paths)
    return "\n".join(
        [
            *_overview(runs),
            "",
            *_results(runs),
            "",
            *_curves(runs, width),
            *_sparklines(runs, "covariance", "covariance of each objective with the update", width),
            *_sparklines(runs, "weight", "weight of each objective", width),
        ]
    ).rstrip()


def _objectives(runs: Sequence[RunTrace]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.objectives))


def _common_steps(runs: Sequence[RunTrace]) -> set[int]:
    """The steps at which every run has a result of each of its objectives, a number or not."""
    return set.intersection(*({step for step, _ in run.results(name)} for run in runs for name in run.objectives))


def _overview(runs: Sequence[RunTrace]) -> list[str]:
    rows = []
    for run in runs:
        summary = summarize_trace(run)
        seed = "-" if run.info is None or run.info.seed is None else str(run.info.seed)
        rows.append(
            (
                run.label,
                run.method,
                run.source,
                seed,
                str(summary.num_steps),
                duration(summary.train_seconds),
                number(summary.step_seconds),
            )
        )
    return table(("run", "method", "results on", "seed", "steps", "trained", "s a step"), rows, left=3)


def _results(runs: Sequence[RunTrace]) -> list[str]:
    steps = _common_steps(runs)
    if len(runs) == 1:
        title = runs[0].result
    elif steps:
        title = (
            f"mean reward at the steps that all runs have results of: {len(steps)}, from {min(steps)} to {max(steps)}"
        )
    else:
        title = "mean reward; the runs have no step in common, so each is shown over its own"
    rows = []
    for name in _objectives(runs):
        for run in runs:
            points = [(step, value) for step, value in run.results(name) if step in steps or not steps]
            numbers = cells(ObjectiveSummary.of(points)) if points else ("-",) * len(COLUMNS)
            rows.append((name if run is runs[0] else "", run.label, *numbers))
    return [title, *table(("objective", "run", *COLUMNS), rows, left=2)]


def _curves(runs: Sequence[RunTrace], width: int) -> list[str]:
    gap = 3
    num_beside = max(1, min(len(runs), (width + gap) // (_PANEL_WIDTH + gap)))
    each = min((width + gap) // num_beside - gap, 48)
    lines = []
    for name in _objectives(runs):
        measured = {run.label: [point for point in run.results(name) if isfinite(point[1])] for run in runs}
        curves = {label: points for label, points in measured.items() if points}
        if not curves:
            lines += [f"{clean(name)}: no result of any run", ""]
            continue
        low, high = _scale([value for points in curves.values() for _, value in points])
        steps = _step_range(curves.values())
        panels = [[fit(label, each), *panel(points, low, high, steps, each)] for label, points in curves.items()]
        sources = " or ".join(dict.fromkeys(run.source for run in runs if run.label in curves))
        lines.append(f"{clean(name)}: mean reward on {sources} problems over the steps")
        for begin in range(0, len(panels), num_beside):
            lines += [*beside(panels[begin : begin + num_beside], gap), ""]
    return lines


def _sparklines(runs: Sequence[RunTrace], key: str, title: str, width: int) -> list[str]:
    """A line for each objective and run that has the metric: mean, last value, and the curve."""
    rows, curves = [], []
    for name in _objectives(runs):
        for run in runs:
            points = run.series(f"{key}/{name}")
            if not points:
                continue
            values = [value for _, value in points]
            numbers = [number(values[0]), number(fmean(values)), number(values[-1])]
            if key == "covariance":
                target = run.target(name)
                below = None if target is None else fmean(value < target for value in values)
                numbers += [number(target), "-" if below is None else f"{below:.0%}"]
            rows.append((name, run.label, *numbers))
            curves.append(points)
    if not rows:
        return []
    values = [value for points in curves for _, value in points]
    # Weights move by little and all matter: their own range, but never so close that noise looks like movement.
    low, high = _scale(values) if key == "covariance" else (min(*values, 0.8 * max(values)), max(values))
    header = ["objective", "run", "first", "mean", "last", *["target", "below it"] * (key == "covariance")]
    heading, *lines = table(header, rows, left=2)
    widest = max(len(line) for line in [heading, *lines])
    steps = _step_range(curves)
    columns = max(8, min(width - widest - 2, 48))
    return [
        f"{title}, steps {steps[0]} to {steps[1]}; ▁ is {number(low)}, █ is {number(high)}",
        heading,
        *(
            line.ljust(widest) + "  " + sparkline(resample(points, *steps, columns), low, high)
            for line, points in zip(lines, curves, strict=True)
        ),
        "",
    ]


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """0 to 1 for rewards of that kind, so that charts compare at a glance; else from the lowest or 0 to the highest."""
    low, high = min(values), max(values)
    return (0.0, 1.0) if low >= 0 and 0.25 < high <= 1 else (min(low, 0.0), max(high, 0.0))


def _step_range(curves: Collection[Points]) -> tuple[int, int]:
    steps = [step for points in curves for step, _ in points]
    return min(steps), max(steps)
