"""What became of an objective: its curve in a few numbers, in one word and in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import numpy as np

from ctwa import metrics as key_of
from ctwa.report.curves import averaging_window
from ctwa.report.groups import Group
from ctwa.run.text import Points, number

SIGMAS = 1.96  # standard errors, at 95 %
COLUMNS = ("start", "best", "at step", "end", "change", "worst drop", "at step")
_MARKS = {"gained": "▲", "kept": "=", "lost": "▼", "unknown": "?"}
_ROUNDING = 1e-9  # of a mean, to its size: what does not change may still differ in its last digits
_OF_DIFFERENCES = SIGMAS * math.sqrt(2)  # standard errors of one of two results


@dataclass(frozen=True)
class ObjectiveSummary:
    """One objective's curve in a few numbers; every reward is better when higher.

    A result that was measured and is not a number is NaN, as start and end too, and so is a difference to one.
    """

    start: float
    best: float
    best_step: int
    end: float
    change: float  # end - start
    drawdown: float  # the furthest the curve was below its best so far; 0 where it never fell
    drawdown_step: int  # where that was

    @classmethod
    def of(cls, points: Points) -> ObjectiveSummary:
        """Sums up at least one (step, value)."""
        known = [point for point in points if math.isfinite(point[1])]
        best_step, best = max(known or points[:1], key=lambda point: point[1])  # the first of equals
        highest, drawdown, drawdown_step = known[0][1] if known else math.nan, 0.0, points[0][0]
        for step, value in known:
            highest = max(highest, value)
            if _difference(highest, value) > drawdown:
                drawdown, drawdown_step = highest - value, step
        start, end = points[0][1], points[-1][1]
        return cls(start, best, best_step, end, _difference(end, start), drawdown, drawdown_step)


def _difference(one: float, other: float) -> float:
    """What one value is above another; 0 where that is rounding."""
    return 0.0 if abs(one - other) <= _ROUNDING * max(abs(one), abs(other)) else one - other


def cells(objective: ObjectiveSummary) -> tuple[str, ...]:
    """An objective's row of a table with `COLUMNS`."""
    fell = objective.drawdown > 0
    return (
        number(objective.start),
        number(objective.best),
        str(objective.best_step),
        number(objective.end),
        number(objective.change, sign=True),
        number(-objective.drawdown) if fell else "-",
        str(objective.drawdown_step) if fell else "-",
    )


@dataclass(frozen=True)
class Verdict:
    """One objective's curve, judged."""

    word: str  # "gained", "kept", "lost"; "unknown" where the first or the last result is no number, or is the only one
    text: str  # the word, and the steps where
    summary: ObjectiveSummary
    drawdown_steps: tuple[int, int] | None  # from the best before the worst fall to its bottom; None without a fall
    margin: float  # a difference of two results up to this is taken for noise
    dip: tuple[float, int, int] | None = (
        None  # how far below its start it was before it recovered, and from when to when
    )


def judge(points: Points, standard_error: float | None = None) -> Verdict:
    """Judges a curve of at least one result.

    A difference counts where it is beyond 1.96 standard errors of a difference. Where no standard error is known, the
    curve's own jitter stands for it: the median of its steps up and down.

    Args:
        points: (step, mean reward), in the order of the steps.
        standard_error: of one of the results.
    """
    summary = ObjectiveSummary.of(points)
    if len(points) == 1 and math.isfinite(points[0][1]):
        return Verdict("unknown", f"unknown: one result alone, of step {points[0][0]}", summary, None, 0.0)
    points, every = [point for point in points if math.isfinite(point[1])], points
    if not math.isfinite(summary.change):
        return Verdict("unknown", _unknown(every, points), summary, None, 0.0)
    noise = _jitter([value for _, value in points]) if standard_error is None else standard_error
    margin = max(_OF_DIFFERENCES * noise, _ROUNDING * max(abs(value) for _, value in points))
    below = _spans(points, summary.start - margin)
    dip = None
    lost = summary.best - summary.end > margin
    if summary.end < summary.start - margin:
        word, text = "lost", f"lost: below its start since step {below[-1][0]}"
        below = below[:-1]
        if summary.best > summary.start + margin:
            text += f", after a rise to {number(summary.best)} at step {summary.best_step}"
    elif summary.end > summary.start + margin:
        word = text = "gained"
        if lost:
            text += f", but {number(summary.best - summary.end)} below its best, of step {summary.best_step}"
    else:
        word = text = "kept"
        if lost:
            text += f"; a rise of {number(summary.best - summary.start)} until step {summary.best_step} was lost"
    if below:
        first, last = below[0][0], below[-1][1]
        dip = (summary.start - min(value for step, value in points if first <= step <= last), first, last)
        text += "; below its start in " + " and ".join(_span(*span) for span in below[:3])
        text += f" and {'once' if len(below) == 4 else f'{len(below) - 3} times'} more" if below[3:] else ""
    return Verdict(word, text, summary, _drawdown_steps(points, summary), margin, dip)


def verdicts(group: Group) -> dict[str, Verdict]:
    """Each objective of a group, judged on the mean of its seeds; those without a result are left out."""
    found = {}
    held_out = all(run.source == "held-out" for run in group.runs)
    window = averaging_window(max(run.last_step for run in group.runs))
    for name in group.objectives:
        curve = group.curve(key_of.validation(name)) if held_out else group.curve(key_of.objective_mean(name), window)
        # Where a seed's result is no number, so is the mean of the seeds.
        unknown = {
            step: math.nan for run in group.runs for step, value in run.results(name) if not math.isfinite(value)
        }
        points = sorted({**dict(curve.points), **unknown}.items())
        if not points:
            continue
        errors = group.curve(key_of.validation_error(name)).values if held_out else ()
        error = float(np.mean(errors)) / len(group.runs) ** 0.5 if len(errors) else None
        found[name] = judge(points, error)
    return found


def verdict_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The rows of a table as texts: objectives, and under each the methods."""
    judged = [verdicts(group) for group in groups]
    of_seeds = [[verdicts(Group(run.label, (run,))) for run in group.runs] for group in groups]
    rows = []
    for name in dict.fromkeys(name for each in judged for name in each):
        first = True
        for group, each, seeds in zip(groups, judged, of_seeds, strict=True):
            if name not in each:
                continue
            verdict = each[name]
            summary = verdict.summary
            rows.append(
                {
                    "first": first,
                    "objective": name,
                    "method": group.label,
                    "start": number(summary.start),
                    "best": number(summary.best),
                    "best_step": summary.best_step,
                    "end": number(summary.end),
                    "change": number(summary.change, sign=True),
                    "noise": number(verdict.margin),
                    "drawdown": number(-summary.drawdown) if summary.drawdown else "-",
                    "drawdown_steps": " to ".join(map(str, verdict.drawdown_steps or ())),
                    "word": verdict.word,
                    "mark": _MARKS[verdict.word],
                    "rest": verdict.text.removeprefix(verdict.word),
                    "seeds": _of_seeds([seed[name].word for seed in seeds if name in seed], verdict.word, len(seeds)),
                }
            )
            first = False
    return rows


def _of_seeds(words: Sequence[str], word: str, num_runs: int) -> str:
    """How many seeds agree, where there are several."""
    return f"so {words.count(word)} of {len(words)} seeds" if num_runs > 1 else ""


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
