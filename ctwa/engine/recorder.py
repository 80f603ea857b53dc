"""What the trainer leaves in the run folder while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctwa.engine.checkpoint import newest_complete
from ctwa.monitor.run import RunFolder
from ctwa.monitor.trace import EventWriter, SampleWriter, TraceWriter
from ctwa.objectives.completion import Completion
from ctwa.objectives.evaluation import Evaluation

_DUPLICATES = ("timing_s/", "timing_per_token_ms/", "perf/time_per_step")  # in the record as time/<phase>


class Recorder:
    """The run's trace, samples and events, continued where a checkpoint left them.

    Args:
        run: the run folder.
        resume: whether an earlier part of the run is continued.
        num_samples: completions kept a step.
        seed: chooses which.
    """

    def __init__(self, run: RunFolder, *, resume: bool, num_samples: int, seed: int) -> None:
        self.run = run
        self.resume_from: Path | None = newest_complete(run.checkpoints) if resume else None
        resume_after: int | None = None
        if resume:
            resume_after = -1 if self.resume_from is None else int(self.resume_from.name.rsplit("_", 1)[1])
        self._trace = TraceWriter(run.metrics, resume_after=resume_after)
        self._samples = SampleWriter(run.samples, num_samples=num_samples, seed=seed, resume_after=resume_after)
        self._events = EventWriter(run.events)
        if self.resume_from is not None:
            self.event("resume", f"continuing from {self.resume_from.name}", step=resume_after)

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write a step's record: every number the engine and the methods know of it."""
        if step <= self._trace.last_step:
            return  # a resumed run offers its checkpoint's record, which is missing only where a crash came before it
        self._trace.write(step, numbers(metrics))

    def samples(self, step: int, completions: Sequence[Completion], evaluation: Evaluation, *, split: str) -> None:
        """Keep a few of a step's completions."""
        rewards = {}
        for name in evaluation.matrix.names:
            values_N, scored_N = evaluation.matrix.column(name)
            rewards[name] = [
                value if scored else None for value, scored in zip(values_N.tolist(), scored_N.tolist(), strict=True)
            ]
        self._samples.write(
            step,
            [completion.prompt for completion in completions],
            [completion.response for completion in completions],
            rewards,
            split=split,
        )

    def event(self, kind: str, text: str, *, step: int | None = None) -> None:
        """Tell the reader what happens between the steps."""
        self._events.write(kind, text, step=step)

    def close(self) -> None:
        """Close the files."""
        for writer in (self._trace, self._samples, self._events):
            writer.close()


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, each once, as Python's own."""
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in metrics.items()
        if _is_number(value) and not key.startswith(_DUPLICATES)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
