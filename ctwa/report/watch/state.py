"""What is known of a run that is watched: read from its files as they grow, and kept in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, nan
from pathlib import Path
from statistics import median
from typing import Literal

from ctwa.errors import CtwaError
from ctwa.report.watch.writer import WriterSearch
from ctwa.run.folder import RunFolder, RunInfo, alarm_monitor
from ctwa.run.jsonl import JsonLinesTail
from ctwa.run.text import duration
from ctwa.run.trace import Event, Record

CURVES = ("val/{}", "objective/{}/mean", "covariance/{}", "weight/{}")

_MOST_POINTS = 1024  # of a curve, an even number: more than a terminal has columns
_CHUNK = 1 << 22  # bytes of a trace read at once
_RECENT_STEPS = 20  # whose median time makes the ETA
_PATIENCE = 30.0  # s without a record after which a run without a visible writer has ended, and
_GAPS = 5  # how many of its longest recent pauses between records
_START_UP = 600.0  # s that a run may take to its first record

Word = Literal["going on", "finished", "ended"]


class Curve:
    """A metric over the steps: its first and last values, and in `points` the means of equally many values each.

    A value that is no number is a first or last one like any other, and no part of a point.
    """

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self._bins: list[tuple[int, float, int]] = []  # the last step of each, its sum, its number of values
        self._most_values = 1  # of a bin

    def add(self, step: int, value: float) -> None:
        """Appends a step's value; where there are too many bins, neighbours become one."""
        self.first = value if self.first is None else self.first
        self.last = value
        if not isfinite(value):
            return
        if self._bins and self._bins[-1][2] < self._most_values:
            _, total, count = self._bins.pop()
            self._bins.append((step, total + value, count + 1))
            return
        if len(self._bins) == _MOST_POINTS:
            pairs = zip(self._bins[::2], self._bins[1::2], strict=True)
            self._bins = [(after, one + other, count + more) for (_, one, count), (after, other, more) in pairs]
            self._most_values *= 2
        self._bins.append((step, value, 1))

    @property
    def points(self) -> list[tuple[int, float]]:
        """The curve, of at most 1024 points."""
        return [(step, total / count) for step, total, count in self._bins]


@dataclass(frozen=True)
class Status:
    """How a run is, as one word and as a sentence."""

    word: Word
    text: str


class WatchedRun:
    """A run as far as its files tell; `poll` reads what was added to them.

    Args:
        path: the run's folder; the run may not have got to its first step.
        clock: s since 1970.

    Raises:
        CtwaError: no run is there.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time):
        self.folder = RunFolder(path)
        if not self.folder.holds_run():
            raise CtwaError(f"{self.folder.path} holds no run: give the folder of a run that has begun")
        self.info: RunInfo | None = None
        self._clock = clock
        self._info_changed = 0
        self._records = JsonLinesTail(self.folder.metrics)
        self._events = JsonLinesTail(self.folder.events)
        self._writer = WriterSearch((self.folder.metrics, self.folder.engine_log))
        self._begin()

    def _begin(self) -> None:
        self.step = -1
        self.reached: float | None = None  # when the newest record was written
        self.curves: dict[str, Curve] = {}
        self.targets: dict[str, float] = {}
        self.trained = 0.0  # s
        self.event: Event | None = None
        self._step_seconds: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._gaps: deque[float] = deque(maxlen=_RECENT_STEPS)
        self.alarms = alarm_monitor(self.info)

    def _restart(self) -> None:
        event = self.event
        self._begin()
        self.event = event

    def poll(self) -> None:
        """Takes in what was written since the last poll.

        Raises:
            CtwaError: a file is broken, or of a newer schema.
        """
        self._read_info()
        while records := self._records.poll(_CHUNK):
            for record in records:
                self._add(record)  # type: ignore[arg-type]
        while events := self._events.poll(_CHUNK):
            told = [event for event in events if event["kind"] != "alarm"]  # alarms are worked out from the records
            self.event = told[-1] if told else self.event  # type: ignore[assignment]

    def _read_info(self) -> None:
        changed = self.folder.info.stat().st_mtime_ns if self.folder.info.exists() else 0
        if changed != self._info_changed:
            self._info_changed = changed
            before, self.info = self.info, self.folder.read_info()
            if before is None or (before.objectives, before.alarms) != (self.info.objectives, self.info.alarms):
                self._records = JsonLinesTail(self.folder.metrics)  # from its start, with these names and limits
                self._restart()

    def _add(self, record: Record) -> None:
        step, metrics, at = record["step"], record["metrics"], record["time"]
        if step <= self.step:  # a resumed run has rewound its trace, which is read from its start again
            self._restart()
        self.alarms.feed(record)
        seconds = metrics.get("time/step")
        if seconds is None and self.reached is not None and step > 0:
            seconds = at - self.reached
        if seconds is not None:
            self._step_seconds.append(seconds)
            self.trained += seconds
        if self.reached is not None:
            self._gaps.append(at - self.reached)
        self.step, self.reached = step, at
        for name in self._names(metrics):
            for pattern in CURVES:
                key = pattern.replace("{}", name)
                if key in metrics:
                    value = metrics[key]
                    self.curves.setdefault(key, Curve()).add(step, nan if value is None else value)
            if metrics.get(f"objective/{name}/scored_frac") == 0:
                self.curves.setdefault(f"objective/{name}/mean", Curve()).add(step, nan)
            target = metrics.get(f"ctwa/target/{name}")
            if target is not None and f"ctwa/correlation/{name}" not in metrics:
                self.targets[name] = target

    def _names(self, metrics: dict[str, float | None]) -> list[str]:
        if self.info:
            return list(self.info.objectives)
        trained = [key[len("objective/") : -len("/mean")] for key in metrics if _is_reward(key)]
        return list(dict.fromkeys([*self.objectives, *trained]))

    @property
    def objectives(self) -> list[str]:
        """Their names: of run.json, or of the trace where there is none."""
        if self.info:
            return list(self.info.objectives)
        return [key[len("objective/") : -len("/mean")] for key in self.curves if _is_reward(key)]

    def curve(self, pattern: str, name: str) -> Curve:
        """A metric of an objective; without points where it was never measured."""
        return self.curves.get(pattern.replace("{}", name)) or Curve()

    def target(self, name: str) -> float | None:
        """An objective's covariance target, if it has one: of run.json, or of the trace where there is none."""
        return self.info.objectives[name].target if self.info else self.targets.get(name)

    @property
    def num_steps(self) -> int | None:
        """How many steps the run is to have; None where nobody wrote it down."""
        return self.info.num_steps if self.info else None

    @property
    def step_seconds(self) -> float | None:
        """The median time of the recent steps."""
        return median(self._step_seconds) if self._step_seconds else None

    def eta(self) -> float | None:
        """Seconds to the last step, by the time of the recent ones and of what has passed since the newest."""
        if self.num_steps is None or self.step_seconds is None or self.reached is None:
            return None
        return max((self.num_steps - self.step) * self.step_seconds - (self._clock() - self.reached), 0.0)

    def status(self) -> Status:
        """Whether the run goes on.

        It does while a process writes it. Where none is seen, because it is on another machine or another user's or is
        gone, the run has ended if there was one before or if no record came for long.
        """
        at = f"at step {max(self.step, 0)}" + (f" of {self.num_steps}" if self.num_steps else "")
        done = self.num_steps is not None and self.step >= self.num_steps
        is_written = not done and self._writer.found()
        if not is_written and self.event is not None and self.event["kind"] == "stop":
            return Status("ended", self.event["text"])
        if done or (not is_written and self._is_summed_up()):
            return Status("finished", f"finished {at}")
        silence = self._silence()
        if not is_written and (self._writer.seen or silence > self._patience()):
            return Status("ended", f"ended {at} without finishing; engine.log may say why")
        if self.step < 0:
            return Status("going on", f"going on for {duration(silence)}, no step has a record yet")
        return Status("going on", f"going on {at}, newest record {duration(silence)} ago")

    def _silence(self) -> float:
        """Seconds since the newest sign of life."""
        signs = [self.reached, self.event["time"] if self.event else None, self.info.created if self.info else None]
        return max(self._clock() - max((sign for sign in signs if sign is not None), default=-inf), 0.0)

    def _patience(self) -> float:
        if self.reached is None:
            return _START_UP
        return max(_PATIENCE, _GAPS * max(self._gaps, default=_START_UP / _GAPS))

    def _is_summed_up(self) -> bool:
        """Whether a summary was written after the newest record: a run can end before its last step."""
        summary, metrics = self.folder.summary, self.folder.metrics
        return summary.exists() and metrics.exists() and summary.stat().st_mtime_ns >= metrics.stat().st_mtime_ns


def _is_reward(key: str) -> bool:
    return key.startswith("objective/") and key.endswith("/mean")
