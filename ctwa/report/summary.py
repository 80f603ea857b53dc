"""What came of a run: read back from its trace, summed up, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.report.compare import Comparison, compare_groups
from ctwa.report.curves import steps_between
from ctwa.report.groups import Group, group_runs
from ctwa.report.story import Story, story_text, tell
from ctwa.report.trace import RunTrace, check_results, read_runs, why_ended
from ctwa.report.verdict import COLUMNS, ObjectiveSummary, cells, is_apart, on_which, verdicts
from ctwa.run.alarms import Episode
from ctwa.run.folder import RunFolder
from ctwa.run.jsonl import SCHEMA, write_atomically
from ctwa.run.text import clean, counted, duration, number, table


@dataclass(frozen=True)
class RunSummary:
    """What came of a run."""

    method: str
    source: str  # what the objectives' numbers are means over: "held-out" problems or, without any, "training" ones
    result: str  # that, in words
    objectives: dict[str, ObjectiveSummary]
    num_steps: int  # steps that were trained
    train_seconds: float | None  # their sum
    step_seconds: float | None  # their median; of a record that is for several steps, its share for each
    story: Story  # the same in words
    alarms: tuple[Episode, ...] = ()
    sources: dict[str, dict[str, ObjectiveSummary]] = field(default_factory=dict)  # by data source, where several
    unmeasured: tuple[str, ...] = ()  # the objectives without such a mean: none applied, or none were scored
    on_training: tuple[str, ...] = ()  # those whose numbers are of training problems, and the others' are not
    stopped: str | None = None  # why it ended before its last step: what the event says that tells of it


def summarize(run: RunFolder | Path | str) -> RunSummary:
    """Sums up a run from its trace, finished or not.

    Raises:
        CtwaError: no run is there, or no step of it has measured an objective.
    """
    [trace] = read_runs([run.path if isinstance(run, RunFolder) else run])
    return summarize_trace(trace)


class Told(NamedTuple):
    """Runs in groups, their comparison where there is one, and what happened in them."""

    groups: list[Group]
    comparison: Comparison | None
    story: Story


def read_and_tell(paths: Sequence[Path | str]) -> Told:
    """Read runs and say what happened in them; methods without a step in common are not compared.

    Raises:
        CtwaError: a path holds no run or is given twice, or a run has measured no objective yet.
    """
    runs = read_runs(paths)
    for run in runs:
        summarize_trace(run)  # says so where nothing has been measured yet
    groups = group_runs(runs)
    try:
        comparison = compare_groups(groups) if len(groups) > 1 else None
    except CtwaError:  # no step in common: each is shown by itself
        comparison = None
    return Told(groups, comparison, tell(groups, comparison))


def write_summary(run: RunFolder | Path | str) -> RunSummary:
    """Sums up a run and writes that to its summary.json."""
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    summary = summarize(folder)
    written = {"schema": SCHEMA, **asdict(summary), "headline": summary.story.headline}
    del written["story"]
    for objective in [each for of in (written["objectives"], *written["sources"].values()) for each in of.values()]:
        # JSON has no NaN
        objective |= {key: None for key, value in objective.items() if not isfinite(value)}
    write_atomically(folder.summary, (json.dumps(written, indent=2, allow_nan=False) + "\n").encode())
    return summary


def summary_text(summary: RunSummary) -> str:
    """The summary for a terminal or a README: a table, and below it the story."""
    rows = [
        (on_which(name, is_training=name in summary.on_training), *cells(objective))
        for name, objective in summary.objectives.items()
    ]
    title = f"{clean(summary.method)}, {counted(summary.num_steps, 'step')}: {clean(summary.result)}"
    left_out = [f"not measured there: {', '.join(map(clean, summary.unmeasured))}"] if summary.unmeasured else []
    lines = [title, *table(("objective", *COLUMNS), rows), *left_out, *_by_source(summary), _pace(summary)]
    lines += _alarms(summary)
    return "\n".join([*lines, "", story_text(summary.story)])


def _by_source(summary: RunSummary) -> list[str]:
    rows = [
        (source if index == 0 else "", name, *cells(objective))
        for source, objectives in summary.sources.items()
        for index, (name, objective) in enumerate(objectives.items())
    ]
    return table(("data source", "objective", *COLUMNS), rows, left=2) if rows else []


def _alarms(summary: RunSummary) -> list[str]:
    """Why the run was stopped, the alarms that hold at its end, and how many were over before."""
    lines = [clean(summary.stopped)] if summary.stopped else []
    holding = [episode.alarm for episode in summary.alarms if not episode.over]
    lines += [
        f"alarm: {alarm.kind}, since step {alarm.since}: {clean(f'{alarm.text} {alarm.advice}')}" for alarm in holding
    ]
    over = len(summary.alarms) - len(holding)
    return lines + ([f"alarms that were over before the end: {over}"] if over else [])


def _pace(summary: RunSummary) -> str:
    if summary.step_seconds is None:
        return "no step was timed"
    return f"trained {duration(summary.train_seconds)}, {number(summary.step_seconds)} s a step (median)"


def summarize_trace(run: RunTrace) -> RunSummary:
    """Sums up a run that has been read."""
    check_results(run)
    group = Group(run.method, (run,))
    judged = verdicts(group)
    measured = {name: verdict.summary for name, verdict in judged.items()}
    timed = run.series(key_of.STEP_SECONDS)
    seconds = [value for _, value in timed]
    each = [value / num for value, num in zip(seconds, steps_between([step for step, _ in timed]), strict=True)]
    return RunSummary(
        method=run.method,
        source=run.source,
        result=run.result,
        objectives=measured,
        num_steps=run.last_step,
        train_seconds=sum(seconds) if seconds else None,
        step_seconds=median(each) if each else None,
        story=tell([group]),
        alarms=tuple(run.alarms.episodes),
        sources={
            source: {
                name: ObjectiveSummary.of(points)
                for name in measured
                if (points := run.results_of_source(name, source))
            }
            for source in run.sources
        },
        unmeasured=tuple(name for name in run.objectives if name not in measured),
        on_training=tuple(name for name, verdict in judged.items() if is_apart(group, verdict)),
        stopped=why_ended(run.folder, run.last_step),
    )
