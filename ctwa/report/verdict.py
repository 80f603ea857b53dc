"""What became of an objective: its curve in a few numbers, in one word and in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctwa import metrics as key_of
from ctwa.report.curves import Curve, averaged, over_own_spans
from ctwa.report.groups import Group
from ctwa.report.noise import Noise, combined, end_window, noise_of_errors, noise_of_scatter
from ctwa.report.trace import RunTrace
from ctwa.run.rules import Validations
from ctwa.run.text import Points, listed, number

SIGMAS = 1.96  # standard errors, at 95 %
COLUMNS = ("start", "best", "at step", "end", "change", "worst drop", "at step")
_MARKS = {"gained": "▲", "kept": "=", "lost": "▼", "unknown": "?"}
_ROUNDING = 1e-9  # of a mean, to its size: what does not change may still differ in its last digits


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

    # "gained", "kept", "lost"; "unknown" where the first or the last result is no number, or is the only one, and where
    # nothing tells how large the noise is
    word: str
    text: str  # the word, and the steps where
    summary: ObjectiveSummary  # of the curve that was judged
    drawdown_steps: tuple[int, int] | None  # from the best before the worst fall to its bottom; None without a fall
    margin: float | None  # a change up to this is taken for noise; None where the noise is unknown
    dip: tuple[float, int, int] | None = (
        None  # how far below its start it was before it recovered, and from when to when
    )
    source: str = "held-out"  # what it was judged on: held-out or training problems
    seeds: str = ""  # which seeds end before the others; "" where none does


@dataclass(frozen=True)
class Course:
    """What a run measured of an objective, as it is judged."""

    results: Points  # as they were measured; NaN where that is no number
    points: Points  # the numbers; where there are no standard errors, means of as many as start and end are means of
    noise: Noise | None  # of the change from start to end; None where it is unknown
    window: int  # how many results a point is the mean of
    label: str = ""

    @classmethod
    def of(cls, results: Points, errors: Points = (), label: str = "") -> Course:
        """Prepares at least one result, (step, mean reward).

        Args:
            results: in the order of the steps.
            errors: (step, standard error) of results, where they were recorded.
            label: the run's.
        """
        known = [point for point in results if math.isfinite(point[1])]
        steps, values = [step for step, _ in known], [value for _, value in known]
        noise = noise_of_errors(steps, dict(errors)) if known else None
        if noise is not None:
            return cls(results, known, noise, 1, label)
        window = end_window(len(known))
        means = averaged(Curve(np.array(steps, np.int64), np.array(values)), window).points[window - 1 :]
        return cls(results, means, noise_of_scatter(values, window), window, label)


def judge(courses: Sequence[Course]) -> Verdict:
    """Judges an objective by what one or more seeds measured of it.

    A change counts where it is beyond 1.96 standard errors of a difference. Where none were recorded, the results'
    scatter stands for them, with Student's quantile. Each seed is judged over its own span of steps; one with a single
    result is left out where another has more.
    """
    judged = [each for each in courses if len(each.results) > 1] or courses
    curve = over_own_spans([_curve(each.points) for each in judged])
    if any(not math.isfinite(each.results[end][1]) for each in judged for end in (0, -1)):
        return _without_an_end(judged, curve.points)
    points, summary = curve.points, ObjectiveSummary.of(curve.points)
    if len(judged[0].results) == 1:
        return Verdict("unknown", f"unknown: one result alone, of step {points[0][0]}", summary, None, None)
    rounding = _ROUNDING * max(abs(value) for _, value in points)
    noise = combined([each.noise for each in judged])
    if noise is None and summary.best - min(value for _, value in points) > rounding:
        few = min(len(each.results) for each in judged if each.noise is None)
        text = f"unknown: {number(summary.change, sign=True)} in {few} results without standard errors, too few to tell"
        return Verdict("unknown", text, summary, _drawdown_steps(points, summary), None)
    # Of many results between start and end the lowest and the highest are further off by chance than the end is.
    num_between = max(1, max(len(each.points) // each.window for each in judged) - 1)
    margin, of_any = (max(noise.margin(num) if noise else 0.0, rounding) for num in (1, num_between))
    return _judged(points, summary, margin, of_any)


def _judged(points: Points, summary: ObjectiveSummary, margin: float, of_any: float) -> Verdict:
    """The verdict by what the end, and any result before it, may differ from the start by chance."""
    below = _spans(points, summary.start - of_any)
    dip = None
    lost = summary.best - summary.end > of_any
    if summary.end < summary.start - margin:
        since = _spans(points, summary.start - margin)[-1][0]
        word, text = "lost", f"lost: below its start since step {since}"
        below = [span for span in below if span[1] < since]
        if summary.best > summary.start + of_any:
            text += f", after a rise to {number(summary.best)} at step {summary.best_step}"
    elif summary.end > summary.start + margin:
        word = text = "gained"
        if lost:
            text += f", but {number(summary.best - summary.end)} below its best, of step {summary.best_step}"
    else:
        word = text = "kept"
        if lost and summary.best > summary.start + of_any:
            text += f"; a rise of {number(summary.best - summary.start)} until step {summary.best_step} was lost"
    if below:
        first, last = below[0][0], below[-1][1]
        dip = (summary.start - min(value for step, value in points if first <= step <= last), first, last)
        text += "; below its start in " + " and ".join(_span(*span) for span in below[:3])
        text += f" and {'once' if len(below) == 4 else f'{len(below) - 3} times'} more" if below[3:] else ""
    return Verdict(word, text, summary, _drawdown_steps(points, summary), margin, dip)


def verdicts(group: Group) -> dict[str, Verdict]:
    """Each objective of a group, judged by all its seeds; those without a result are left out.

    An objective is judged on held-out problems where its validations go on, else on those of training.
    """
    found = {}
    for name in group.objectives:
        source = source_of(group, name)
        courses = [course for run in group.runs if (course := _course(run, name, source)).results]
        if courses:
            found[name] = _with_seeds(replace(judge(courses), source=source), courses)
    return found


def source_of(group: Group, name: str) -> str:
    """What an objective of a group is judged on: "held-out" or "training" problems.

    They are those of training where it has results there, and its validations do not go on in any run.
    """
    trained = [[step for step, _ in run.measured(key_of.objective_mean(name))] for run in group.runs]
    for run, steps in zip(group.runs, trained, strict=True):
        validations = Validations()
        for step, _ in run.measured(key_of.validation(name)):
            validations.add(step)
        if validations.go_on(max(steps, default=0)):
            return "held-out"
    return "training" if any(trained) else "held-out"


def is_apart(group: Group, verdict: Verdict) -> bool:
    """Whether a verdict is on training problems, where the other results of its runs are on held-out ones."""
    return verdict.source == "training" and any(run.source == "held-out" for run in group.runs)


def on_which(label: str, *, is_training: bool) -> str:
    """What a row of a table of held-out results begins with: marked where its own are on training problems."""
    return f"{label} (training)" if is_training else label


def _course(run: RunTrace, name: str, source: str) -> Course:
    if source == "training":
        return Course.of(run.measured(key_of.objective_mean(name)), label=run.label)
    return Course.of(run.measured(key_of.validation(name)), run.series(key_of.validation_error(name)), run.label)


def _with_seeds(verdict: Verdict, courses: Sequence[Course]) -> Verdict:
    """With the seeds that end before the others, whose last results stand for what they would have become."""
    last = max(course.results[-1][0] for course in courses)
    parts = [
        f"{course.label} left out, with one result alone"
        if len(course.results) == 1
        else f"{course.label} up to step {course.results[-1][0]} only"
        for course in courses
        if course.results[-1][0] < last
    ]
    if not parts:
        return verdict
    return replace(verdict, seeds=listed(parts), text=f"{verdict.text}; {listed(parts)}")


def _curve(points: Points) -> Curve:
    return Curve(np.array([step for step, _ in points], np.int64), np.array([value for _, value in points]))


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


def _without_an_end(courses: Sequence[Course], points: Points) -> Verdict:
    """The verdict where a seed's first or last result is no number: nor is then that of the seeds."""
    found, texts = dict(points), []
    for at, outermost in ((0, min), (-1, max)):
        broken = [each.results for each in courses if not math.isfinite(each.results[at][1])]
        if broken:
            texts.append(_unknown(broken[0]))
            found[outermost([each.results[at][0] for each in courses] + [step for step, _ in points])] = math.nan
    return Verdict("unknown", texts[-1], ObjectiveSummary.of(sorted(found.items())), None, None)


def _unknown(results: Points) -> str:
    """Where the curve that begins or ends without a number has none."""
    known = [step for step, value in results if math.isfinite(value)]
    if not known:
        return "unknown: none of its results is a number"
    if math.isfinite(results[-1][1]):
        return f"unknown: no number until step {known[0]}"
    return f"unknown: no number since step {next(step for step, _ in results if step > known[-1])}"


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
