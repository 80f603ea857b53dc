"""Methods side by side at equal steps or equal time, with intervals, and their runs' curves: as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.report.curves import EMPTY, Curve, Floats, resampled
from ctwa.report.groups import Group, objectives_of
from ctwa.report.trace import RunTrace, check_results
from ctwa.report.verdict import COLUMNS, SIGMAS, ObjectiveSummary, cells, is_apart, on_which, verdicts
from ctwa.run.jsonl import SCHEMA
from ctwa.run.text import clean, duration, number, sparkline, table
from ctwa.statistics import CONFIDENCE, Interval, hypervolume, on_front, reference_value, t_interval

_CURVE = 12  # characters
_UPDATE_COLUMNS = ("objective", "run", "mean covariance", "target", "below it", "first weight", "last")


@dataclass(frozen=True)
class MethodResult:
    """One method at the point of comparison."""

    label: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    steps: tuple[int, ...]  # of each run: the step its results are from
    seconds: tuple[float | None, ...]  # of each run: what training up to there took
    results: dict[str, Interval]  # by objective; left out where a run has none
    gains: dict[str, Interval]  # the results less those of the baseline with the same seed; empty for the baseline
    noise: dict[str, float]  # a gain up to this is noise: 1.96 standard errors over the held-out problems, where known
    hypervolume: Interval | None
    on_front: bool | None  # whether no other method is at least as good everywhere and better somewhere

    def is_beyond_noise(self, name: str) -> bool | None:
        """Whether an objective's gain is more than noise: by the held-out problems, and by the seeds if there are some.

        None where neither is known: of one seed without standard errors.
        """
        gain, noise = self.gains[name], self.noise.get(name)
        if gain.low is None or gain.high is None:
            return None
        return not gain.low <= 0 <= gain.high and (noise is None or abs(gain.mean) > noise)


@dataclass(frozen=True)
class Comparison:
    """Methods compared, the first of them the baseline."""

    at: str  # "step 40", "600 s of training"
    source: str
    result: str  # of the baseline's runs, in words
    objectives: tuple[str, ...]
    reference: dict[str, float]  # where hypervolumes are measured from
    methods: tuple[MethodResult, ...]

    @property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return self.methods[0].label

    def as_json(self) -> dict[str, Any]:
        """As plain values, for a JSON file."""
        found = asdict(self)
        for method, result in zip(found["methods"], self.methods, strict=True):
            for key in ("results", "gains"):
                method[key] = {name: each._asdict() for name, each in getattr(result, key).items()}
            method["hypervolume"] = result.hypervolume._asdict() if result.hypervolume else None
        return {"schema": SCHEMA, "confidence": CONFIDENCE, "baseline": self.baseline, **found}


def compare_groups(
    groups: Sequence[Group], *, at_steps: int | None = None, at_seconds: float | None = None
) -> Comparison:
    """Compares methods at the same step or after the same time of training; the first is the baseline.

    Args:
        groups: the runs of each.
        at_steps: compare the newest results up to this step; default: the last step that all runs have results of.
        at_seconds: compare the newest results within this much training instead, in s, the sum of `time/step`.

    Raises:
        CtwaError: a run has no result, or none by then, both limits are given, or the results of some runs are over
            held-out problems and of others over training ones.
    """
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        check_results(run)
    sources = {run.source for run in runs}
    if len(sources) > 1:
        trained = next(run.label for run in runs if run.source == "training")
        raise CtwaError(
            f"the run {trained} has no results on held-out problems and others do: compare it with runs like it"
        )
    names = objectives_of(runs)
    at, ends = _ends(runs, at_steps, at_seconds)
    results = {run.label: results_at(run, ends[run.label]) for run in runs}
    reference_M = np.array([reference_value(_values_until(runs, ends, name)) for name in names])
    methods = [_method_result(group, groups[0], results, ends, names, reference_M) for group in groups]
    means = [[method.results[name].mean if name in method.results else np.nan for name in names] for method in methods]
    methods = [  # without all results a method is neither on the front nor off it
        replace(method, on_front=is_on_front if len(method.results) == len(names) else None)
        for method, is_on_front in zip(methods, on_front(np.array(means)), strict=True)
    ]
    reference = dict(zip(names, reference_M.tolist(), strict=True))
    return Comparison(at, runs[0].source, runs[0].result, tuple(names), reference, tuple(methods))


def _method_result(
    group: Group,
    baseline: Group,
    results: dict[str, dict[str, float]],
    ends: dict[str, int],
    names: Sequence[str],
    reference_M: Floats,
) -> MethodResult:
    """A method by itself and against the baseline; what the others have decides whether it is on the front."""
    own = [results[run.label] for run in group.runs]
    shared = [name for name in names if all(name in each for each in own)]
    complete = len(shared) == len(names)
    volumes = [hypervolume(np.array([[each[name] for name in names]]), reference_M) for each in own if complete]
    gains, noise = ({}, {}) if group is baseline else _gains(group, baseline, results, ends, names)
    return MethodResult(
        label=group.label,
        runs=tuple(run.label for run in group.runs),
        seeds=tuple(group.seeds),
        steps=tuple(ends[run.label] for run in group.runs),
        seconds=tuple(_seconds_until(run, ends[run.label]) for run in group.runs),
        results={name: _result(group.runs, name, results, ends) for name in shared},
        gains=gains,
        noise=noise,
        hypervolume=t_interval(volumes) if volumes else None,
        on_front=None,
    )


def _ends(runs: Sequence[RunTrace], at_steps: int | None, at_seconds: float | None) -> tuple[str, dict[str, int]]:
    """Where runs are compared, in words, and the step at which each of them is."""
    if at_steps is not None and at_seconds is not None:
        raise CtwaError("--at-steps and --at-seconds are both given: give one of them")
    if at_seconds is not None:
        return f"{number(at_seconds)} s of training", {run.label: _step_within(run, at_seconds) for run in runs}
    measured = {run.label: _measured_steps(run, at_steps) for run in runs}
    common = set.intersection(*measured.values())
    if not common:
        limit = "" if at_steps is None else f" up to step {at_steps}"
        raise CtwaError(
            f"the runs have no step in common with a result of every objective{limit}: {_what_blocks(measured)}; "
            "leave out what does not fit, or compare at equal time (--at-seconds)"
        )
    return f"step {max(common)}", {run.label: max(common) for run in runs}


def comparison_text(comparison: Comparison) -> str:
    """The comparison as tables for a terminal or a README."""
    overview = [
        (
            method.label,
            str(len(method.runs)),
            ", ".join("-" if seed is None else str(seed) for seed in method.seeds),
            " or ".join(str(step) for step in sorted(set(method.steps))),
            duration(_mean(method.seconds)),
            interval_text(method.hypervolume),
            {True: "yes", False: "no", None: "-"}[method.on_front],
        )
        for method in comparison.methods
    ]
    rows = []
    for name in comparison.objectives:
        for method in comparison.methods:
            gain = method.gains.get(name)
            rows.append(
                (
                    name if method is comparison.methods[0] else "",
                    method.label,
                    interval_text(method.results.get(name)),
                    interval_text(gain, sign=True),
                    "-" if gain is None else str(gain.num),
                )
            )
    title = f"{clean(comparison.result)} at {comparison.at}"
    against = f"gain over {comparison.baseline}"
    return "\n".join(
        [
            f"{title}, with {CONFIDENCE:.0%} intervals",
            *table(("objective", "method", "mean reward", against, "pairs"), rows, left=2),
            "",
            *table(("method", "runs", "seeds", "step", "trained", "hypervolume", "on the front"), overview),
            "",
            "Intervals are Student's over seeds (a gain's over pairs of the same seed), and wide for few of them.",
            "Of one seed they are 1.96 standard errors over the held-out problems, where those are known.",
        ]
    )


def curves_text(runs: Sequence[RunTrace]) -> str:
    """How each run came to its results: each objective's curve, covariance with the update and weight, as tables."""
    curves, updates = [], []
    groups = [Group(run.label, (run,)) for run in runs]
    judged = [verdicts(group) for group in groups]
    for name in objectives_of(runs):
        for run, group, each in zip(runs, groups, judged, strict=True):
            verdict = each.get(name)
            numbers = cells(verdict.summary) if verdict else ("-",) * len(COLUMNS)
            is_training = verdict is not None and is_apart(group, verdict)
            curve = run.curve(key_of.objective_mean(name) if is_training else run.result_key(name))
            beginning = name if run is runs[0] else ""
            curves.append((beginning, on_which(run.label, is_training=is_training), *numbers, _sparkline(curve)))
            updates.append((beginning, run.label, *_update_cells(run, name)))
    by_source = [
        (name, source, run.label, *cells(ObjectiveSummary.of(points)))
        for name in objectives_of(runs)
        for source in dict.fromkeys(source for run in runs for source in run.sources)
        for run in runs
        if (points := run.results_of_source(name, source))
    ]
    return "\n".join(
        [
            *table(("objective", "run", *COLUMNS, "its results"), curves, left=2),
            "",
            *table(_UPDATE_COLUMNS, updates, left=2),
            *(["", *table(("objective", "data source", "run", *COLUMNS), by_source, left=3)] if by_source else []),
        ]
    )


def _sparkline(curve: Curve) -> str:
    columns = resampled(curve, int(curve.steps[0]), int(curve.steps[-1]), _CURVE) if len(curve) else []
    return sparkline(columns, min(columns), max(columns)) if columns else ""


def _update_cells(run: RunTrace, name: str) -> tuple[str, ...]:
    covariances, target = run.curve(key_of.covariance(name)).values, run.target(name)
    weights = run.curve(key_of.weight(name)).values
    mean = number(float(covariances.mean()), sign=True) if len(covariances) else "-"
    below = "-" if target is None or not len(covariances) else f"{(covariances < target).mean():.0%}"
    first_and_last = [number(float(weights[at])) if len(weights) else "-" for at in (0, -1)]
    return (mean, number(target), below, *first_and_last)


def interval_text(interval: Interval | None, *, sign: bool = False) -> str:
    """0.500 [0.400, 0.600]; the mean alone where there is no interval."""
    if interval is None:
        return "-"
    mean = number(interval.mean, sign=sign)
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{number(interval.low, sign=sign)}, {number(interval.high, sign=sign)}]"


def _result(
    runs: Sequence[RunTrace], name: str, results: dict[str, dict[str, float]], ends: dict[str, int]
) -> Interval:
    """An objective's result, with its interval over seeds; of one run over its held-out problems."""
    found = t_interval([results[run.label][name] for run in runs])
    return found if len(runs) > 1 else _around(found, _error_at(runs[0], name, ends[runs[0].label]))


def _around(single: Interval, standard_error: float | None) -> Interval:
    if standard_error is None:
        return single
    margin = SIGMAS * standard_error
    return single._replace(low=single.mean - margin, high=single.mean + margin)


def _gains(
    group: Group,
    baseline: Group,
    results: dict[str, dict[str, float]],
    ends: dict[str, int],
    names: Sequence[str],
) -> tuple[dict[str, Interval], dict[str, float]]:
    """Differences of runs with the same seed, of two single runs without seeds their difference; and their noise.

    All runs are validated on the same problems, so that their errors partly cancel in a difference: this errs towards
    noise.
    """
    by_seed = {seed: run for seed, run in zip(baseline.seeds, baseline.runs, strict=True) if seed is not None}
    pairs = [(run, by_seed[seed]) for seed, run in zip(group.seeds, group.runs, strict=True) if seed in by_seed]
    if len(group.runs) == len(baseline.runs) == 1:
        pairs = [(group.runs[0], baseline.runs[0])]
    gains, noise = {}, {}
    for name in names:
        own = [pair for pair in pairs if all(name in results[run.label] for run in pair)]
        if not own:
            continue
        gains[name] = t_interval([results[run.label][name] - results[other.label][name] for run, other in own])
        errors = [_error_at(run, name, ends[run.label]) for pair in own for run in pair]
        known = [error for error in errors if error is not None]
        if len(known) == len(errors):
            error = math.hypot(*known) / len(own)
            noise[name] = SIGMAS * error
            gains[name] = gains[name] if len(own) > 1 else _around(gains[name], error)
    return gains, noise


def _error_at(run: RunTrace, name: str, step: int) -> float | None:
    """The standard error of a run's newest result of an objective up to a step, over its held-out problems."""
    errors = run.curve(key_of.validation_error(name)) if run.source == "held-out" else EMPTY
    known = errors.values[errors.steps <= step]
    return float(known[-1]) if len(known) else None


def _values_until(runs: Sequence[RunTrace], ends: dict[str, int], name: str) -> list[float]:
    """All results of an objective up to where its runs are compared."""
    return [value for run in runs for step, value in run.results(name) if step <= ends[run.label]]


def results_at(run: RunTrace, step: int) -> dict[str, float]:
    """A run's newest result of each objective up to a step; none where that is no number."""
    found = {}
    for name in run.objectives:
        values = [value for at, value in run.results(name) if at <= step]
        if values and math.isfinite(values[-1]):  # an earlier number is not the result where the newest is none
            found[name] = values[-1]
    return found


def _measured_steps(run: RunTrace, at_steps: int | None) -> set[int]:
    """The steps with a result of each of its objectives that has any, up to a limit."""
    curves = [{step for step, _ in points} for name in run.objectives if (points := run.results(name))]
    return {step for step in set.intersection(*curves) if at_steps is None or step <= at_steps}


def _what_blocks(measured: dict[str, set[int]]) -> str:
    """The run or runs but for which the others had a step in common; where no one run is to blame, all of them."""
    blamed = [label for label, steps in measured.items() if not steps]
    if not blamed and len(measured) > 2:
        blamed = [
            label
            for label in measured
            if set.intersection(*(steps for other, steps in measured.items() if other != label))
        ]
    shown = [f"the run {label} has {_steps_text(measured[label])}" for label in blamed or measured]
    rest = [steps for label, steps in measured.items() if label not in (blamed or measured)]
    if rest and (shared := set.intersection(*rest)):
        shown.append(f"the other{'s have' if len(rest) > 1 else ' has'} {_steps_text(shared)}")
    return ", ".join(shown)


def _steps_text(steps: set[int]) -> str:
    if not steps:
        return "none"
    first, *more = sorted(steps)
    few = 3
    if len(more) < few:
        return ", ".join(map(str, [first, *more]))
    return ", ".join(map(str, [first, *more[: few - 1], "...", more[-1]]))


def _elapsed(run: RunTrace) -> list[tuple[int, float]]:
    """(step, s of training up to its end)."""
    seconds = run.series(key_of.STEP_SECONDS)
    return list(zip((step for step, _ in seconds), accumulate(value for _, value in seconds), strict=True))


def _seconds_until(run: RunTrace, step: int) -> float | None:
    elapsed = _elapsed(run)
    return max((seconds for at, seconds in elapsed if at <= step), default=0.0) if elapsed else None


def _step_within(run: RunTrace, seconds: float) -> int:
    """The last step with results that was reached in so much training; the model before training takes none."""
    elapsed = _elapsed(run)
    if not elapsed:
        raise CtwaError(f"the run {run.label} has no time/step: compare at equal steps")
    reached = max((step for step, at in elapsed if at <= seconds), default=0)
    steps = {step for name in run.objectives for step, _ in run.results(name) if step <= reached}
    if not steps:
        raise CtwaError(f"the run {run.label} has no result within {seconds:g} s of training: give more seconds")
    return max(steps)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
