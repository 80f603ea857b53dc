"""Runs read back from their traces: as a whole, or as they go on."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from math import isfinite, nan
from pathlib import Path

import numpy as np

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.report.curves import EMPTY, Curve
from ctwa.run.folder import RunFolder, RunInfo, alarm_monitor
from ctwa.run.jsonl import read_jsonl
from ctwa.run.trace import ENDS, Event, Record, iterate_trace


class RunTrace:
    """A run as far as its records tell: its label among others, what runs, its metrics and its alarms.

    Metrics are kept by name, at 16 bytes a number; a number that was none is a NaN.

    Args:
        label: what the run is called among others.
        folder: the run's.
        info: what runs; None for a trace without run.json.
        wanted: which metrics to keep; None for all.
    """

    def __init__(
        self, label: str, folder: RunFolder, info: RunInfo | None, wanted: Callable[[str], bool] | None = None
    ):
        self.label = label
        self.folder = folder
        self.info = info
        self.alarms = alarm_monitor(info, folder.path)
        #: the newest step with a record, and when it was written (s since 1970); 0 and None without any
        self.last_step = 0
        self.last_time: float | None = None
        self._wanted = wanted
        self._columns: dict[str, tuple[array[int], array[float]]] = {}

    def add(self, record: Record) -> None:
        """Take in the next record."""
        self.alarms.feed(record)
        self.last_step, self.last_time = record["step"], record["time"]
        metrics = record["metrics"]
        unscored = [mean for key, value in metrics.items() if value == 0 and (mean := key_of.mean_of_share(key))]
        # Where none of a step's completions could be scored the mean reward is left out, and is no number.
        for key, value in (dict.fromkeys(unscored) | metrics).items():
            column = self._columns.get(key)
            if column is None:
                if self._wanted is not None and not self._wanted(key):
                    continue
                column = self._columns[key] = (array("q"), array("d"))
            column[0].append(record["step"])
            column[1].append(nan if value is None else value)

    @property
    def keys(self) -> list[str]:
        """The metrics that were measured, numbers or not."""
        return list(self._columns)

    @property
    def method(self) -> str:
        """The method's name, or the run's where no run.json tells it."""
        return self.info.method if self.info else self.label

    @property
    def objectives(self) -> list[str]:
        """The names of the objectives: of run.json, or those the trace has."""
        return list(self.info.objectives) if self.info else key_of.objectives_in(self._columns)

    @property
    def source(self) -> str:
        """Whether the run's results are over held-out problems or, where none were validated, training ones."""
        validated = any(key_of.validation(name) in self._columns for name in self.objectives)
        return "held-out" if validated else "training"

    @property
    def result(self) -> str:
        """What the run's results are, in words."""
        if self.info is not None and self.source == "held-out":
            return self.info.result
        return f"mean reward on {self.source} problems"

    def curve(self, key: str) -> Curve:
        """One metric where it was measured and finite."""
        if key not in self._columns:
            return EMPTY
        steps, values = (np.array(each) for each in self._columns[key])
        known = np.isfinite(values)
        return Curve(steps[known], values[known])

    def series(self, key: str) -> list[tuple[int, float]]:
        """`curve` as (step, value)."""
        return self.curve(key).points

    def first_and_last(self, key: str) -> tuple[float, float] | None:
        """What was measured first and last of a metric, numbers or not; None where it never was."""
        column = self._columns.get(key)
        return (column[1][0], column[1][-1]) if column else None

    def result_key(self, name: str) -> str:
        """The metric that an objective's results are: its mean reward over the problems that `source` names."""
        return key_of.validation(name) if self.source == "held-out" else key_of.objective_mean(name)

    def results(self, name: str) -> list[tuple[int, float]]:
        """An objective's results as (step, value); NaN where one was no number, or no completion could be scored."""
        return self.measured(self.result_key(name))

    @property
    def sources(self) -> list[str]:
        """The data sources, or validation files by name, that the run tells apart."""
        return key_of.sources_in(self._columns)

    def results_of_source(self, name: str, source: str) -> list[tuple[int, float]]:
        """`results` on the problems of one source; none where the objective does not apply to them."""
        is_held_out = self.source == "held-out"
        return self.measured((key_of.validation_of_source if is_held_out else key_of.objective_of_source)(name, source))

    def measured(self, key: str) -> list[tuple[int, float]]:
        """One metric as (step, value) wherever it was measured; NaN where that was no number."""
        found = zip(*self._columns.get(key, ((), ())), strict=True)
        return [(step, value if isfinite(value) else nan) for step, value in found]

    def target(self, name: str) -> float | None:
        """An objective's covariance target, if the method has one."""
        objective = self.info.objectives.get(name) if self.info else None
        return None if objective is None else objective.target


def read_runs(paths: Sequence[Path | str]) -> list[RunTrace]:
    """Reads runs, each labelled by as much of the end of its path as tells it from the others.

    Args:
        paths: folders of runs; a folder that is none stands for the runs right in it, in the order of their names.

    Raises:
        CtwaError: a path holds no run, or is given twice.
    """
    folders = [RunFolder.open(run) for path in paths for run in _runs_in(Path(path))]
    runs = []
    for label, folder in zip(_labels([folder.path.resolve() for folder in folders]), folders, strict=True):
        runs.append(RunTrace(label, folder, folder.read_info() if folder.info.exists() else None))
        for record in iterate_trace(folder.metrics):
            runs[-1].add(record)
    return runs


def check_results(run: RunTrace) -> None:
    """Refuse a run that has measured no objective yet, or ended before it did.

    Raises:
        CtwaError: it is one, and why, as far as its events tell.
    """
    if any(run.results(name) for name in run.objectives):
        return
    why = why_ended(run.folder, max(run.last_step, 0))
    raise CtwaError(
        f"{run.folder.path} has no result of any objective"
        + (f": it {why}; engine.log may say more" if why else " yet: wait for its first step to end")
    )


def why_ended(folder: RunFolder, last_step: int) -> str | None:
    """Why a run ended at this step, if it was stopped or failed there."""
    events = read_jsonl(folder.events, Event) if folder.events.exists() else []
    # A run that was stopped, resumed and went on was not stopped where it is now.
    ends = [each["text"] for each in events if each["kind"] in ENDS and each["step"] == last_step]
    return ends[-1] if ends else None


def _runs_in(path: Path) -> list[Path]:
    folder = RunFolder(path)
    if folder.holds_run() and not folder.metrics.exists() and (path / "results.json").is_file():
        # A pattern of the shell finds it beside the runs.
        raise CtwaError(
            f"{path} is an evaluation of `ctwa eval` and no run: leave it out, or give {path.parent} for the runs in it"
        )
    if folder.holds_run() or not path.is_dir():
        return [path]
    runs = [inner for inner in sorted(path.iterdir()) if _has_records(RunFolder(inner).metrics)]
    if not runs:
        raise CtwaError(
            f"{path} holds no run (no metrics.jsonl in it), and none is right in it: give the folder of a run that "
            "has begun, or of several"
        )
    return runs


def _has_records(metrics: Path) -> bool:
    return metrics.is_file() and metrics.stat().st_size > 0


def _labels(paths: Sequence[Path]) -> list[str]:
    for path in paths:
        if paths.count(path) > 1:
            raise CtwaError(f"the run {path} is given twice: give each run once")
    num_parts = 1
    while len({path.parts[-num_parts:] for path in paths}) < len(paths):
        num_parts += 1
    return ["/".join(path.parts[-num_parts:]) for path in paths]
