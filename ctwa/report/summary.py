"""What came of a run: read back from its trace, summed up, as a table."""

from __future__ import annotations

import json
import multiprocessing
import struct
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import isfinite, nan
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctwa.errors import CtwaError
from ctwa.run.alarms import Episode
from ctwa.run.folder import RunFolder, RunInfo, alarm_monitor
from ctwa.run.jsonl import SCHEMA, iterate_jsonl, read_jsonl, write_atomically
from ctwa.run.text import Points, clean, duration, number, table
from ctwa.run.trace import Record


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
        known = [point for point in points if isfinite(point[1])]
        best_step, best = max(known or points[:1], key=lambda point: point[1])  # the first of equals
        highest, drawdown, drawdown_step = known[0][1] if known else nan, 0.0, points[0][0]
        for step, value in known:
            highest = max(highest, value)
            if highest - value > drawdown:
                drawdown, drawdown_step = highest - value, step
        start, end = points[0][1], points[-1][1]
        return cls(start, best, best_step, end, end - start, drawdown, drawdown_step)


@dataclass(frozen=True)
class RunSummary:
    """What came of a run."""

    method: str
    source: str  # what the objectives' numbers are means over: "held-out" problems or, without any, "training" ones
    result: str  # that, in words
    objectives: dict[str, ObjectiveSummary]
    num_steps: int  # steps that were trained
    train_seconds: float | None  # their sum
    step_seconds: float | None  # their median
    alarms: tuple[Episode, ...] = ()
    stopped: str | None = None  # why it ended before its last step: what its last event says, if an alarm stopped it


@dataclass(frozen=True)
class Column:
    """One metric of a run: the steps that measured it, and what they measured."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class RunTrace:
    """A run read back: its label among others, what ran, and its metrics.

    A trace is kept by metric and not by step, at 16 bytes a number: a long one would not fit into memory otherwise.
    """

    label: str
    folder: RunFolder
    info: RunInfo | None  # None for a trace without run.json
    columns: dict[str, Column]
    times: Column  # s since 1970, when each record was written
    not_finite: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # the steps where a metric was no number
    schema: int = SCHEMA  # the oldest of its records
    visitor: Any = None  # what was shown its records, as asked for by `read_runs`

    @property
    def method(self) -> str:
        """The method's name, or the run's where no run.json tells it."""
        return self.info.method if self.info else self.label

    @property
    def schema_is_older(self) -> bool:
        """Whether an earlier ctwa wrote some of it."""
        return self.schema < SCHEMA

    @property
    def last_step(self) -> int:
        """The newest step with a record, 0 without any."""
        return int(self.times.steps[-1]) if len(self.times.steps) else 0

    @property
    def objectives(self) -> list[str]:
        """The names of the objectives: of run.json, or those the trace has."""
        if self.info:
            return list(self.info.objectives)
        trained = [
            key.removeprefix("objective/").removesuffix("/mean")
            for key in self._keys
            if key.startswith("objective/") and key.endswith("/mean")
        ]
        return trained or [key.removeprefix("val/") for key in self._keys if key.startswith("val/")]

    @property
    def source(self) -> str:
        """Whether the run's results are over held-out problems or, where none were validated, training ones."""
        validated = any(f"val/{name}" in self._keys for name in self.objectives)
        return "held-out" if validated else "training"

    @property
    def result(self) -> str:
        """What the run's results are, in words."""
        if self.info is not None and self.source == "held-out":
            return self.info.result
        return f"mean reward on {self.source} problems"

    def series(self, key: str) -> list[tuple[int, float]]:
        """One metric as (step, value), without the steps that did not measure it or where it was not finite."""
        column = self.columns.get(key)
        return [] if column is None else list(zip(column.steps.tolist(), column.values.tolist(), strict=True))

    def results(self, name: str) -> list[tuple[int, float]]:
        """An objective's mean reward over the problems that `source` names; NaN where it was no number.

        Of training problems it is that too where none of a step's completions could be scored.
        """
        key = f"val/{name}" if self.source == "held-out" else f"objective/{name}/mean"
        known = dict(self.series(key))
        unknown = self.not_finite.get(key, np.zeros(0, np.int64)).tolist()
        if self.source == "training":
            unknown += [step for step, scored in self.series(f"objective/{name}/scored_frac") if not scored]
        return sorted({**dict.fromkeys(unknown, nan), **known}.items())

    @property
    def _keys(self) -> dict[str, None]:
        """The metrics that were measured, numbers or not."""
        return dict.fromkeys([*self.columns, *self.not_finite])

    def target(self, name: str) -> float | None:
        """An objective's covariance target, if the method has one: of run.json, or of the trace where there is none."""
        if self.info:
            objective = self.info.objectives.get(name)
            return objective.target if objective else None
        logged = self.series(f"ctwa/target/{name}")
        # With `measure: correlation` the targets are of another number.
        return logged[-1][1] if logged and f"ctwa/correlation/{name}" not in self._keys else None


class Visitor(Protocol):
    """What is shown the records of a run while it is read; `AlarmMonitor` is one."""

    def feed(self, record: Record) -> object:
        """Looks at the next record."""


def read_runs(
    paths: Sequence[Path | str],
    *,
    wanted: Callable[[str], bool] | None = None,
    visitor: Callable[[RunInfo | None], Visitor] | None = None,
    num_processes: int = 1,
) -> list[RunTrace]:
    """Reads runs, each labelled by as much of the end of its path as tells it from the others.

    Args:
        paths: the folders of the runs.
        wanted: which metrics to keep, by name; None for all.
        visitor: makes, for each run, what is shown its records in order; it is then the trace's `visitor`.
        num_processes: how many runs to read at once. With more than one, `wanted` and `visitor` must be functions of a
            module, and the caller's main module importable without effect.

    Raises:
        CtwaError: a path holds no run, or is given twice.
    """
    folders = [RunFolder.open(path) for path in paths]
    labels = _labels([folder.path.resolve() for folder in folders])
    read = partial(_read_run, wanted=wanted, visitor=visitor)
    if min(num_processes, len(folders)) == 1:
        return [read(label, folder) for label, folder in zip(labels, folders, strict=True)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(folders)), context) as processes:
        return list(processes.map(read, labels, folders))


def _read_run(
    label: str,
    folder: RunFolder,
    wanted: Callable[[str], bool] | None,
    visitor: Callable[[RunInfo | None], Visitor] | None,
) -> RunTrace:
    info = folder.read_info() if folder.info.exists() else None
    shown = visitor(info) if visitor else None
    steps, times, schema = array("q"), array("d"), SCHEMA
    shapes: dict[tuple[str, ...], _Shape] = {}
    for row, record in enumerate(iterate_jsonl(folder.metrics)):
        if shown is not None:
            shown.feed(record)  # type: ignore[arg-type]
        steps.append(record["step"])
        times.append(record["time"])
        schema = min(schema, record["schema"])
        metrics = record["metrics"]
        keys = tuple(metrics)
        shape = shapes.get(keys)
        if shape is None:
            shape = shapes[keys] = _Shape(struct.Struct(f"{len(keys)}d"))
        shape.add(row, metrics.values())
    steps_R = np.array(steps, np.int64)
    columns, not_finite = _columns(shapes, steps_R, wanted)
    times_R = Column(steps_R, np.array(times, np.float64))
    return RunTrace(label, folder, info, columns, times_R, not_finite, schema, shown)


@dataclass(frozen=True)
class _Shape:
    """The records that have the same metrics: most of a run. Their numbers are taken over as a whole."""

    layout: struct.Struct  # packs a record's numbers twice as fast as an array takes them
    rows: array[int] = field(default_factory=lambda: array("q"))
    values: bytearray = field(default_factory=bytearray)

    def add(self, row: int, values: Collection[float | None]) -> None:
        try:
            self.values.extend(self.layout.pack(*values))
        except struct.error:  # what was not finite has no number
            self.values.extend(self.layout.pack(*(nan if value is None else value for value in values)))
        self.rows.append(row)


def _columns(
    shapes: Mapping[tuple[str, ...], _Shape], steps_R: NDArray[np.int64], wanted: Callable[[str], bool] | None
) -> tuple[dict[str, Column], dict[str, NDArray[np.int64]]]:
    """By metric the numbers, and the steps where it was none."""
    parts: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    for keys, shape in shapes.items():
        rows = np.array(shape.rows, np.int64)
        values = np.frombuffer(shape.values, np.float64).reshape(len(rows), len(keys))
        for column, key in enumerate(keys):
            if wanted is None or wanted(key):
                parts.setdefault(key, []).append((rows, values[:, column]))
    found, not_finite = {}, {}
    for key, each in parts.items():
        rows, values = (np.concatenate(arrays) for arrays in zip(*each, strict=True))
        order = np.argsort(rows)
        steps, values = steps_R[rows[order]], values[order]
        known = np.isfinite(values)
        if known.any():
            found[key] = Column(steps[known], values[known])
        if not known.all():
            not_finite[key] = steps[~known]
    return found, not_finite


def summarize(run: RunFolder | Path | str) -> RunSummary:
    """Sums up a run from its trace, finished or not.

    Raises:
        CtwaError: no run is there, or no step of it has measured an objective.
    """
    path = run.path if isinstance(run, RunFolder) else run
    [trace] = read_runs([path], visitor=alarm_monitor)
    return replace(
        summarize_trace(trace), alarms=tuple(trace.visitor.episodes), stopped=_stopped(trace.folder, trace.last_step)
    )


def _stopped(folder: RunFolder, last_step: int) -> str | None:
    events = read_jsonl(folder.events) if folder.events.exists() else []
    # A run that was stopped, resumed and went on was not stopped where it is now.
    return next((each["text"] for each in events if each["kind"] == "stop" and each["step"] == last_step), None)


def write_summary(run: RunFolder | Path | str) -> RunSummary:
    """Sums up a run and writes that to its summary.json."""
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    summary = summarize(folder)
    written = {"schema": SCHEMA, **asdict(summary)}
    for objective in written["objectives"].values():  # JSON has no NaN
        objective |= {key: None for key, value in objective.items() if not isfinite(value)}
    write_atomically(folder.summary, (json.dumps(written, indent=2, allow_nan=False) + "\n").encode())
    return summary


def summary_text(summary: RunSummary) -> str:
    """The summary as a table for a terminal or a README."""
    rows = [(name, *cells(objective)) for name, objective in summary.objectives.items()]
    title = f"{clean(summary.method)}, {summary.num_steps} steps: {clean(summary.result)}"
    lines = [title, *table(("objective", *COLUMNS), rows), _pace(summary), *_alarms(summary)]
    return "\n".join(lines)


def _alarms(summary: RunSummary) -> list[str]:
    """Why the run was stopped, the alarms that hold at its end, and how many were over before."""
    lines = [clean(summary.stopped)] if summary.stopped else []
    holding = [episode.alarm for episode in summary.alarms if not episode.over]
    lines += [f"alarm: {alarm.kind}, since step {alarm.since}: {clean(alarm.text)}" for alarm in holding]
    over = len(summary.alarms) - len(holding)
    return lines + ([f"alarms that were over before the end: {over}"] if over else [])


COLUMNS = ("start", "best", "at step", "end", "change", "worst drop", "at step")


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


def _pace(summary: RunSummary) -> str:
    if summary.step_seconds is None:
        return "no step was timed"
    return f"trained {duration(summary.train_seconds)}, {number(summary.step_seconds)} s a step (median)"


def summarize_trace(run: RunTrace) -> RunSummary:
    """Sums up a run that has been read."""
    curves = {name: run.results(name) for name in run.objectives}
    measured = {name: ObjectiveSummary.of(points) for name, points in curves.items() if points}
    if not measured:
        raise CtwaError(f"{run.folder.path} has no result of any objective yet: wait for its first step to end")
    seconds = [value for _, value in run.series("time/step")]
    return RunSummary(
        method=run.method,
        source=run.source,
        result=run.result,
        objectives=measured,
        num_steps=run.last_step,
        train_seconds=sum(seconds) if seconds else None,
        step_seconds=median(seconds) if seconds else None,
    )


def _labels(paths: Sequence[Path]) -> list[str]:
    for path in paths:
        if paths.count(path) > 1:
            raise CtwaError(f"the run {path} is given twice: give each run once")
    num_parts = 1
    while len({path.parts[-num_parts:] for path in paths}) < len(paths):
        num_parts += 1
    return ["/".join(path.parts[-num_parts:]) for path in paths]
