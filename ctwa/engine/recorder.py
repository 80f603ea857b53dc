"""How a run of the engine is recorded: what it resumes from, what ends it, and how that is said."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ctwa.engine.checkpoint import clear_the_way, find_resumption
from ctwa.engine.restarts import how_to_go_on, last_step
from ctwa.engine.signals import Interruption, end_request
from ctwa.engine.watchdog import Watchdog, WatchdogSettings
from ctwa.errors import CtwaError
from ctwa.models.locate import step_of
from ctwa.objectives.completion import Completion
from ctwa.objectives.evaluator import Evaluation
from ctwa.run.alarms import Alarm
from ctwa.run.folder import RunFolder
from ctwa.run.jsonl import dropped
from ctwa.run.recorder import RunRecorder
from ctwa.run.trace import make_record

Stop = Alarm | Interruption
"""What ends a run before its last step."""
_DUPLICATES = ("timing_s/", "timing_per_token_ms/", "perf/time_per_step")  # in the record as time/<phase>


class Recorder(RunRecorder):
    """The run's trace, samples and events; and what becomes of a run that ends early.

    An alarm that was raised before a resume ends no run, until it is over and comes again.

    Args:
        run: the run folder.
        resume: whether an earlier part of the run is continued.
        num_samples: completions kept a step.
        seed: chooses which.
        stop_on: the kinds of alarms that end the run: see `stopping`.
        watchdog: how long is waited for a phase.

    Attributes:
        watchdog: ends a run that waits for what will not come.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        resume: bool,
        num_samples: int,
        seed: int,
        stop_on: Collection[str] = (),
        watchdog: WatchdogSettings | None = None,
    ) -> None:
        self.watchdog = Watchdog(
            watchdog or WatchdogSettings(), end=end_request.fail, say=lambda text: self.event("stuck", text)
        )
        self._began = time.monotonic()
        self.resume_from: Path | None = None
        resume_after: int | None = None
        left_out = ""
        if resume:
            found = find_resumption(run.checkpoints)
            self.resume_from, left_out = found.folder, clear_the_way(found)
            resume_after = -1 if self.resume_from is None else step_of(self.resume_from)
        made = last_step(run) if resume and self.resume_from is None else 0
        super().__init__(run, resume_after=resume_after, num_samples=num_samples, seed=seed)
        #: the alarm or signal that ended the run, if one did
        self.stopped_by: Stop | None = None
        self._stop_on = frozenset(stop_on)
        if self.resume_from is not None:
            text = f"continuing from {self.resume_from.name}" + self._still_holding() + left_out
            self.event("resume", text, step=resume_after)
        elif left_out or made:
            kept = f"; the records up to step {made} are in {dropped(run.metrics).name}" * (made > 0)
            self.event("resume", f"no checkpoint is complete: starting over{left_out}{kept}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        """Close the files. How the run ended before its last step is noted; by a first signal that is no error.

        Raises:
            CtwaError: the step that was to be saved did not end in time.
        """
        try:
            if end_request.explains(error):
                return self._ended_at_once()
            if isinstance(error, Exception):
                self.failed(error, how_to_go_on(self.run))
            return False
        finally:
            self.close()

    def _ended_at_once(self) -> bool:
        hint = how_to_go_on(self.run)
        by, last = end_request.by or "Ctrl-C", max(self.last_step, 0)
        if end_request.fault is not None:
            self.event("error", f"failed after step {last}: {end_request.fault}; {hint}", step=last)
            raise CtwaError(end_request.fault)
        if end_request.overdue:
            text = f"{by}: the step after {last} did not end within ctwa.stop_within={end_request.within:g} s"
            self.event("stop", f"{text}; {hint}", step=last)
            raise CtwaError(text)
        self.event("stop", f"ended at once by {by} after step {last}; {hint}", step=last)
        if end_request.by is None or end_request.insisted:
            return False
        self.stopped_by = Interruption(by, last)
        return True

    def _still_holding(self) -> str:
        """What the user should know of the alarms that would have ended the run, had they not been raised before."""
        kinds = sorted({alarm.kind for alarm in self.alarms.active} & self._stop_on)
        if not kinds:
            return ""
        return f"; {', '.join(kinds)} was raised before and holds: it ends the run only if it is over and comes again"

    def begins(self, phase: str) -> None:
        """Tell the reader what is being waited for, before the first step."""
        self.event("phase", phase)

    def engine_is_up(self) -> None:
        """Note how long the start took."""
        self.event("start", f"the engine is up after {time.monotonic() - self._began:.0f} s")

    def step(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """With what of the metrics are numbers."""
        return super().step(step, numbers(metrics))

    def stopping(self, step: int, metrics: Mapping[str, Any]) -> Stop | None:
        """What is to end the run after this step: a signal, or an alarm that the step's record would raise.

        Asked before the record is written. A trainer that is told of an alarm adds a last validation to the metrics;
        for either it writes the record (`step`), saves a checkpoint, says so (`stop`) and ends.
        """
        interruption = self.interruption(step)
        if interruption is not None or not self._stop_on:
            return interruption
        raised = self.alarms.peek(make_record(step, numbers(metrics)))
        return next((alarm for alarm in raised if alarm.kind in self._stop_on), None)

    def interruption(self, step: int) -> Interruption | None:
        """The signal that is to end the run after this step."""
        return None if end_request.by is None else Interruption(end_request.by, step)

    def stop(self, stop: Stop) -> None:
        """Note what has ended the run, whose checkpoint is saved."""
        self.stopped_by = stop
        by = f"the alarm {stop.kind}" if isinstance(stop, Alarm) else stop.by
        hint = "" if isinstance(stop, Alarm) else ": ctwa.resume=true goes on from there"
        self.event("stop", f"stopped by {by} after step {stop.step}, whose checkpoint is saved{hint}", step=stop.step)

    def samples(self, step: int, completions: Sequence[Completion], evaluation: Evaluation, *, split: str) -> None:
        """Keep a few of a step's completions."""
        self.keep(
            step,
            [completion.prompt for completion in completions],
            [completion.transcript for completion in completions],
            evaluation.matrix.to_columns(),
            split=split,
            weights=[completion.weights for completion in completions],
        )


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, each once, as Python's own."""
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in metrics.items()
        if _is_number(value) and not key.startswith(_DUPLICATES)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
