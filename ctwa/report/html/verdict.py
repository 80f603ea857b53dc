"""What became of an objective, in one word and one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from ctwa.report.summary import ObjectiveSummary
from ctwa.run.text import Points, number

_SIGMAS = 1.96 * math.sqrt(2)  # of a difference of two results, at 95 %


@dataclass(frozen=True)
class Verdict:
    """One objective's curve, judged."""

    word: str  # "improved", "held", "sacrificed"; "unknown" where the first or the last result is no number
    text: str  # the word, and the steps where
    summary: ObjectiveSummary
    drawdown_steps: tuple[int, int] | None  # from the best before the worst fall to its bottom; None without a fall
    margin: float  # a difference of two results up to this is taken for noise


def judge(points: Points, standard_error: float | None = None) -> Verdict:
    """Judges a curve of at least one result.

    A difference counts where it is beyond 1.96 standard errors of a difference. Where no standard error is known, the
    curve's own jitter stands for it: the median of its steps up and down.

    Args:
        points: (step, mean reward), in the order of the steps.
        standard_error: of one of the results.
    """
    summary = ObjectiveSummary.of(points)
    points, every = [point for point in points if math.isfinite(point[1])], points
    if not math.isfinite(summary.change):
        return Verdict("unknown", _unknown(every, points), summary, None, 0.0)
    margin = _SIGMAS * (_jitter([value for _, value in points]) if standard_error is None else standard_error)
    below = _spans(points, summary.start - margin)
    lost = summary.best - summary.end > margin
    if summary.end < summary.start - margin:
        word, text = "sacrificed", f"sacrificed: below its start since step {below[-1][0]}"
        below = below[:-1]
        if summary.best > summary.start + margin:
            text += f", after a rise to {number(summary.best)} at step {summary.best_step}"
    elif summary.end > summary.start + margin:
        word = text = "improved"
        if lost:
            text += f", but {number(summary.best - summary.end)} below its best, of step {summary.best_step}"
    else:
        word = text = "held"
        if lost:
            text += f"; a rise of {number(summary.best - summary.start)} until step {summary.best_step} was lost"
    if below:
        text += "; below its start in " + " and ".join(_span(*span) for span in below[:3])
        text += f" and {len(below) - 3} times more" if below[3:] else ""
    return Verdict(word, text, summary, _drawdown_steps(points, summary), margin)


def _unknown(every: Points, known: Points) -> str:
    """Where the curve that begins or ends without a number has none."""
    if not known:
        return "unknown: none of its results is a number"
    if math.isfinite(every[-1][1]):
        return f"unknown: no number until step {known[0][0]}"
    since = next(step for step, _ in every if step > known[-1][0])
    return f"unknown: no number since step {since}"


def _jitter(values: list[float]) -> float:
    """The standard deviation of a result, from the steps between neighbours (whose median is 0.954 of it if normal)."""
    if len(values) < 4:
        return 0.01 * fmean(abs(value) for value in values)
    return median(abs(after - before) for before, after in pairwise(values)) / 0.954


def _spans(points: Points, level: float) -> list[tuple[int, int]]:
    """The stretches of steps whose results are below the level."""
    spans: list[tuple[int, int]] = []
    begun = False
    for step, value in points:
        if value < level:
            spans = [*spans[:-1], (spans[-1][0], step)] if begun else [*spans, (step, step)]
        begun = value < level
    return spans


def _span(first: int, last: int) -> str:
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _drawdown_steps(points: Points, summary: ObjectiveSummary) -> tuple[int, int] | None:
    if summary.drawdown == 0:
        return None
    before = [(step, value) for step, value in points if step < summary.drawdown_step]
    top = max(value for _, value in before)
    return max(step for step, value in before if value == top), summary.drawdown_step
