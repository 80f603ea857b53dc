"""What a trainer leaves in the run folder while it runs, and the alarms that its records raise."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from ctwa.batch import Reward
from ctwa.errors import CtwaError, without_secrets
from ctwa.run.alarms import alarm_event
from ctwa.run.folder import RunFolder, alarm_monitor
from ctwa.run.log import remote_cause
from ctwa.run.trace import EventWriter, SampleWriter, TraceWriter, iterate_trace

_MOST_OF_AN_ERROR = 500  # characters


class RunRecorder:
    """The run's trace, samples and events, continued where a checkpoint left them.

    Every record is shown to the alarms (those of run.json's objectives and limits), on resuming the records that are
    kept first. An alarm is raised once while its reason holds, so one that was raised before goes unsaid until it is
    over and comes again.

    Args:
        run: the run folder.
        resume_after: as in `TraceWriter`.
        num_samples: completions kept a step.
        seed: chooses which.

    Attributes:
        run: the run folder.
        alarms: what watches the records.
    """

    def __init__(self, run: RunFolder, *, resume_after: int | None, num_samples: int, seed: int) -> None:
        self.run = run
        self._trace = TraceWriter(run.metrics, resume_after=resume_after)
        self._samples = SampleWriter(run.samples, num_samples=num_samples, seed=seed, resume_after=resume_after)
        self._events = EventWriter(run.events)
        self.alarms = alarm_monitor(run.read_info(), run.path)
        for record in iterate_trace(run.metrics):
            self.alarms.feed(record)

    @property
    def last_step(self) -> int:
        """The newest step that has a record; -1 where there is none."""
        return self._trace.last_step

    def write(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Write a step's record, every number that is known of it.

        Returns:
            The alarms that it raises, each a sentence with what to try; they are in events.jsonl as well.

        Raises:
            CtwaError: the step is not after the last one, or a metric is no number.
        """
        events = [alarm_event(alarm) for alarm in self.alarms.feed(self._trace.write(step, metrics))]
        for event in events:
            self._events.write(**event)
        return [event["text"] for event in events]

    def step(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Write a step's record where there is none.

        Returns:
            Whether there was none: a resumed run offers its checkpoint's, which is missing only where a crash came
            before it.
        """
        if step <= self.last_step:
            return False
        self.write(step, metrics)
        return True

    def keep(
        self,
        step: int,
        prompts: Sequence[str],
        responses: Sequence[str],
        rewards: Mapping[str, Sequence[Reward]],
        *,
        split: str,
        weights: Sequence[Mapping[str, float] | None] = (),
    ) -> None:
        """Keep a few of a step's completions (`SampleWriter.write`)."""
        self._samples.write(step, prompts, responses, rewards, split=split, weights=weights)

    def event(self, kind: str, text: str, *, step: int | None = None) -> None:
        """Tell the reader what happens between the steps."""
        self._events.write(kind, text, step=step)

    def failed(self, error: BaseException, how_to_go_on: str) -> None:
        """Note by what a run ended, for who reads the run's folder and was not at the terminal.

        Args:
            error: the exception; one that is no error, such as that of Ctrl-C, stopped the run.
            how_to_go_on: what the user can do.
        """
        cause, last = remote_cause(error), max(self.last_step, 0)
        first, *more = without_secrets(str(cause)).strip().splitlines() or [""]
        details = [each.strip() for each in takewhile(lambda each: each.startswith("\t"), more)]
        if details:  # Ray's, of an actor that has died: its class and process
            first += f" ({', '.join(details)})"
        name = type(cause).__name__
        where = f"after step {last}" if last else "before its first step was made"
        if isinstance(cause, Exception):
            kind = "" if isinstance(cause, CtwaError) else f"{name}: "
            event, text = "error", f"failed {where}: {kind}{first[:_MOST_OF_AN_ERROR]}"
        else:
            event, text = "stop", f"stopped by {name} {where}"
        with contextlib.suppress(OSError, CtwaError):  # a disk that is full takes no last word
            self.event(event, f"{text}; {how_to_go_on}", step=last)

    def close(self) -> None:
        """Close the files."""
        for writer in (self._trace, self._samples, self._events):
            writer.close()
