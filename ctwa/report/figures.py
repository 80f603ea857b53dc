"""Figures of runs, drawn by matplotlib."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.report.summary import RunTrace, read_runs

# Okabe and Ito's palette, told apart with any common colour vision; the markers tell the runs apart without colour.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#666666"
_FORMATS = (".png", ".svg", ".pdf")
_AVERAGE_STEPS = 5


def plot_runs(paths: Sequence[Path | str], out: Path) -> None:
    """Draws runs over each other: a row of axes for each objective, with its results, covariances and weights.

    Results are over held-out problems where the run has them. A covariance is drawn thin as measured and thick as its
    mean over 5 steps; a target is a dashed line.

    Args:
        paths: the folders of the runs.
        out: the picture, .png, .svg or .pdf.

    Raises:
        CtwaError: a path holds no run or is given twice, or `out` ends in something else.
    """
    out = Path(out)
    if out.suffix not in _FORMATS:
        raise CtwaError(f"{out} is no kind of picture ctwa draws: end it in {', '.join(_FORMATS)}")
    runs = read_runs(paths)
    names = list(dict.fromkeys(name for run in runs for name in run.objectives))
    figure = Figure(figsize=(11, 1.1 + 2.1 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 3, sharex=True, squeeze=False)
    for index, run in enumerate(runs):
        line = {"color": _COLORS[index % len(_COLORS)], "zorder": 3, "linewidth": 1.6}
        # Few and staggered markers, so that curves on top of each other are both seen.
        marks = {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 4}
        few = {**marks, "markevery": ((1 + index) / (8 * (1 + len(runs))), 1 / 8)}
        for row, name in zip(axes, names, strict=True):
            _plot(row[0], run.results(name), **line, **marks)
            covariances = run.series(key_of.covariance(name))
            _plot(row[1], covariances, **{**line, "linewidth": 0.6}, alpha=0.45)
            _plot(row[1], _average(covariances), **line, **few)
            _plot(row[2], run.series(key_of.weight(name)), **line, **few)
    for row, name in zip(axes, names, strict=True):
        _furnish(row, name, runs)
    weights = [value for run in runs for name in names for _, value in run.series(key_of.weight(name))]
    for axis in axes[:, 2]:
        axis.set_ylim(0, 1.1 * (max(weights, default=0.0) or 1.0))
    sources = " or ".join(dict.fromkeys(run.source for run in runs))
    titles = (f"mean reward, {sources} problems", "covariance with the update", "weight")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    _legend(figure, runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def _plot(axis: Axes, points: Sequence[tuple[int, float]], **style: object) -> None:
    axis.plot([step for step, _ in points], [value for _, value in points], **style)  # type: ignore[arg-type]


def _average(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The mean of the last `_AVERAGE_STEPS` values at each step."""
    values = [value for _, value in points]
    return [(step, fmean(values[max(0, at + 1 - _AVERAGE_STEPS) : at + 1])) for at, (step, _) in enumerate(points)]


def _furnish(row: Sequence[Axes], name: str, runs: Sequence[RunTrace]) -> None:
    results, covariance, _ = row
    # Names are the user's: a dollar sign in one is no formula.
    results.set_ylabel(name, parse_math=False, fontsize=11)
    values = [value for run in runs for _, value in run.results(name) if isfinite(value)]
    if values and min(values) >= 0 and max(values) <= 1:
        results.set_ylim(-0.03, 1.03)
    covariance.axhline(0, color=_GREY, linewidth=0.6)
    targets = [run.target(name) for run in runs]
    for target in {target for target in targets if target is not None}:
        covariance.axhline(target, color=_GREY, linewidth=1.2, linestyle=(0, (4, 3)))
    for axis in row:
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, runs: Sequence[RunTrace]) -> None:
    handles = [
        Line2D([], [], color=_COLORS[index % len(_COLORS)], marker=_MARKERS[index % len(_MARKERS)], markersize=5)
        for index in range(len(runs))
    ]
    labels = [run.label for run in runs]
    if any(run.target(name) is not None for run in runs for name in run.objectives):
        handles.append(Line2D([], [], color=_GREY, linewidth=1.2, linestyle=(0, (4, 3))))
        labels.append("covariance target")
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
