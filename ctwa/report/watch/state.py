"""What is known of a run that is watched: its trace, read as it grows, and whether it goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import Literal

from ctwa import metrics as key_of
from ctwa.errors import CtwaError, neighbour
from ctwa.report.trace import RunTrace
from ctwa.run.folder import RunFolder, RunInfo, refuse_several
from ctwa.run.jsonl import JsonLinesTail
from ctwa.run.lock import is_held
from ctwa.run.text import clean, duration
from ctwa.run.trace import ENDS, Event, Record

_CHUNK = 1 << 22  # bytes of a trace read at once
_RECENT_STEPS = 20  # whose median time makes the ETA, and whose pauses the patience
_PATIENCE = 30.0  # s without a record after which a run without a visible writer has ended, and
_GAPS = 5  # how many of its longest recent pauses between records
_START_UP = 600.0  # s that a run may take to its first record

_LOOK = 1.0  # s between two looks for a run that has not begun

Word = Literal["going on", "finished", "ended"]


@dataclass(frozen=True)
class Status:
    """How a run is, as one word and as a sentence."""

    word: Word
    text: str


def wait_for_run(path: Path, say: Callable[[str], None]) -> None:
    """Returns when a run has begun in a folder; at once if one has, or if none ever can.

    Args:
        path: the folder.
        say: is told what is waited for.

    Raises:
        CtwaError: the folder holds the folders of several runs.
    """
    refuse_several(path)
    if not RunFolder(path).holds_run() and (path.is_dir() or not path.exists()):
        say(f"no run has begun in {clean(str(path))} yet: waiting for one{neighbour(path)} (Ctrl-C ends this)")
        while not RunFolder(path).holds_run():
            time.sleep(_LOOK)


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
        #: the newest event that is no alarm: those are worked out from the records
        self.event: Event | None = None
        self._clock = clock
        self._info_changed = 0
        self._records = JsonLinesTail(self.folder.metrics, Record)
        self._events = JsonLinesTail(self.folder.events, Event)
        self._had_writer = False
        self._begin()

    def _begin(self) -> None:
        self.trace = RunTrace(self.folder.path.name, self.folder, self.info, _is_shown)
        self.trained = 0.0  # s
        self._seconds: list[float] = []  # of each step
        self._gaps: deque[float] = deque(maxlen=_RECENT_STEPS)

    def poll(self) -> None:
        """Takes in what was written since the last poll.

        Raises:
            CtwaError: a file is broken, or of a newer schema.
        """
        self._read_info()
        while records := self._records.poll(_CHUNK):
            for record in records:
                self._add(record)
        while events := self._events.poll(_CHUNK):
            told = [event for event in events if event["kind"] != "alarm"]
            self.event = told[-1] if told else self.event

    def _read_info(self) -> None:
        changed = self.folder.info.stat().st_mtime_ns if self.folder.info.exists() else 0
        if changed != self._info_changed:
            self._info_changed = changed
            before, self.info = self.info, self.folder.read_info()
            if before is None or (before.objectives, before.alarms) != (self.info.objectives, self.info.alarms):
                # From its start, with these names and limits.
                self._records = JsonLinesTail(self.folder.metrics, Record)
                self._begin()
            self.trace.info = self.info

    def _add(self, record: Record) -> None:
        step, before = record["step"], self.reached
        if before is not None and step <= self.step:  # a resumed run has rewound its trace, which is read again
            self._begin()
            before = None
        seconds = record["metrics"].get(key_of.STEP_SECONDS)
        if before is not None:
            self._gaps.append(record["time"] - before)
            seconds = self._gaps[-1] if seconds is None and step > 0 else seconds
        if seconds is not None:
            self._seconds.append(seconds)
            self.trained += seconds
        self.trace.add(record)

    @property
    def step(self) -> int:
        """The newest step with a record, 0 without any."""
        return self.trace.last_step

    @property
    def reached(self) -> float | None:
        """When the newest record was written; None without any."""
        return self.trace.last_time

    @property
    def num_steps(self) -> int | None:
        """How many steps the run is to have; None where nobody wrote it down."""
        return self.info.num_steps if self.info else None

    @property
    def step_seconds(self) -> float | None:
        """The median time of a step, as the summary has it."""
        return median(self._seconds) if self._seconds else None

    def eta(self) -> float | None:
        """Seconds to the last step, by the time of the recent ones and of what has passed since the newest."""
        if self.num_steps is None or not self._seconds or self.reached is None:
            return None
        recent = median(self._seconds[-_RECENT_STEPS:])
        return max((self.num_steps - self.step) * recent - (self._clock() - self.reached), 0.0)

    def status(self) -> Status:
        """Whether the run goes on.

        It does while a process writes its trace or its log. Where none is seen, because it is gone or the file system
        does not tell, the run has ended if there was one before or if no record came for long.
        """
        at = f"at step {self.step}" + (f" of {self.num_steps}" if self.num_steps else "")
        done = self.num_steps is not None and self.reached is not None and self.step >= self.num_steps
        written = is_held(self.folder.metrics) or is_held(self.folder.engine_log)
        self._had_writer |= written
        going_on = written and not done
        if not going_on and self.event is not None and self.event["kind"] in ENDS:
            return Status("ended", self.event["text"])
        if done or (not going_on and self._is_summed_up()):
            return Status("finished", f"finished {at}")
        silence = self._silence()
        if not going_on and (self._had_writer or silence > self._patience()):
            return Status("ended", f"ended {at} without finishing; engine.log may say why")
        if self.reached is None:
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


def _is_shown(key: str) -> bool:
    metric = key_of.parse(key)
    rewards = metric.family == "objective" and metric.key in ("mean", "scored_frac")
    targets = metric.family == "ctwa" and metric.key == "target"
    return rewards or targets or metric.family in ("val", "covariance", "weight")
