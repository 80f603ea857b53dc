"""The life of a training, whichever command began it: start or resume; step, validate, save, record; end."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig
from verl.utils.tracking import Tracking

from ctwa.engine import checkpoint
from ctwa.engine.recorder import Recorder, numbers
from ctwa.engine.secrets import written_config
from ctwa.engine.signals import end_request
from ctwa.errors import CtwaError
from ctwa.models.locate import step_folder
from ctwa.models.seal import is_complete
from ctwa.run.alarms import Alarm


class Policy(Protocol):
    """What is trained, wherever it is."""

    def save(self, folder: Path, *, step: int) -> None:
        """Write it, and all that its training goes on from, into a checkpoint's folder."""

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote."""


class Trainer(ABC):
    """A training, step by step; what a step does is the subclass's.

    Args:
        config: the resolved config, verl's and ours.
        policy: what is trained.
        recorder: writes the run folder, and knows of alarms and signals.
        num_steps: of the run.

    Attributes:
        steps_made: so far, those before a resumption among them.
    """

    def __init__(self, config: DictConfig, policy: Policy, recorder: Recorder, *, num_steps: int) -> None:
        self.config = config
        self.policy = policy
        self.recorder = recorder
        self.num_steps = num_steps
        self.steps_made = 0
        self._last: Mapping[str, Any] = {}  # what was recorded last
        self._tracking = Tracking(
            project_name=config.trainer.project_name,
            experiment_name=config.trainer.experiment_name,
            default_backend=config.trainer.logger,
            config=written_config(config),
        )

    # -- what is a training's own -------------------------------------------------------------------------------------

    @abstractmethod
    def step(self, number: int) -> dict[str, Any]:
        """Make a step, whose number counts from 1; returns its metrics."""

    @abstractmethod
    def validate(self) -> dict[str, Any]:
        """Measure the policy as it is."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What adapts beside the policy, as JSON has it."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""

    def is_over(self) -> bool:
        """Whether the last step is made."""
        return self.steps_made >= self.num_steps

    def validates(self) -> bool:
        """Whether the policy is measured after the step that was made last."""
        return self._is_due(self.config.trainer.test_freq) or (self.is_over() and self.validates_at_the_end())

    def validates_at_the_end(self) -> bool:
        """Whether the last policy is measured, where an alarm ends the run too."""
        return self.config.trainer.test_freq > 0

    def saves(self) -> bool:
        """Whether a checkpoint is due after the step that was made last."""
        return self._is_due(self.config.trainer.save_freq)

    def spared(self) -> int | None:
        """A step whose checkpoint stays, old as it may be."""
        return None

    def start(self) -> dict[str, Any]:
        """What is to be recorded before the first step."""
        if not self.config.trainer.val_before_train:
            return {}
        self.recorder.begins("measuring the model before its first step")
        return self.validate()

    def resume(self, metrics: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: its step's record is missing where a crash came before it."""
        self._record(metrics)

    def end(self) -> None:  # noqa: B027 - not every training has any
        """The last words of a training."""

    # -- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last step, or until an alarm or a signal ends the run."""
        folder, watchdog = self.recorder.resume_from, self.recorder.watchdog
        if folder is None:
            with watchdog.phase("first_validation"):
                metrics = self.start()
            if metrics:
                self._record(metrics)
        else:
            with watchdog.phase("load_checkpoint"):
                metrics = self._load(folder)
            self.resume(metrics)
        while not self.is_over() and self.recorder.stopped_by is None:
            end_request.step_begins()
            began = time.perf_counter()
            self.steps_made += 1
            with watchdog.phase("step"):
                metrics = self.step(self.steps_made)
            metrics["time/step"] = time.perf_counter() - began
            metrics |= watchdog.metrics()
            self.finish_step(metrics)
        self.end()
        self._tracking.finish()

    def finish_step(self, metrics: dict[str, Any]) -> None:
        """Validate and save where that is due, or where an alarm or a signal is to end the run; then record."""
        if self.validates():
            self._validate(metrics)
        stop = None if self.is_over() else self.recorder.stopping(self.steps_made, metrics)
        if isinstance(stop, Alarm) and self.validates_at_the_end() and "time/testing" not in metrics:
            self._validate(metrics)
        if stop is not None or self.saves():
            began = time.perf_counter()
            with self.recorder.watchdog.phase("save_checkpoint"):
                self.save(metrics)
            metrics["time/save_checkpoint"] = time.perf_counter() - began
        self._record(metrics)
        if stop is not None:
            self.recorder.stop(stop)

    def _validate(self, metrics: dict[str, Any]) -> None:
        began = time.perf_counter()
        with self.recorder.watchdog.phase("testing"):
            metrics |= self.validate()
        metrics["time/testing"] = time.perf_counter() - began

    def _is_due(self, every: int) -> bool:
        return every > 0 and (self.is_over() or self.steps_made % every == 0)

    def _record(self, metrics: Mapping[str, Any]) -> None:
        self._last = metrics
        if self.recorder.step(self.steps_made, metrics):
            self._tracking.log(data=numbers(metrics), step=self.steps_made)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save(self, metrics: Mapping[str, Any]) -> None:
        """Save the step that was made last, if that is not done yet, with what is known of it."""
        step = self.steps_made
        self._save(step, self.state_dict(), metrics, partial(self.policy.save, step=step))

    @contextmanager
    def saves_the_step_before(self, kept: Callable[[int], Callable[[Path], None]]) -> Iterator[None]:
        """While a step has not changed the policy: should it end the run, what it began with is saved first.

        Args:
            kept: of a step that was made just now, what writes its policy into a checkpoint's folder later.

        Raises:
            CtwaError: what ended it.
        """
        step, last = self.steps_made - 1, self._last
        if step == 0:
            yield
            return
        state, write = copy.deepcopy(self.state_dict()), kept(step)
        try:
            yield
        except CtwaError:
            with self.recorder.watchdog.phase("save_checkpoint"):
                self._save(step, state, last, write)
            raise

    def _save(
        self, step: int, state: Mapping[str, Any], metrics: Mapping[str, Any], write: Callable[[Path], None]
    ) -> None:
        folder = step_folder(self.recorder.run.checkpoints, step)
        if is_complete(folder):
            return
        # Should the run die before the step's record is written, the resumed one still has it.
        state = {"step": step, **state, "metrics": numbers(metrics)}
        keep = self.config.trainer.max_actor_ckpt_to_keep
        with checkpoint.saving(folder, state, keep=keep, spare=self.spared()):
            write(folder)

    def _load(self, folder: Path) -> dict[str, Any]:
        """Take up a checkpoint; returns the metrics of its step."""
        state = checkpoint.read_state(folder)
        try:
            self.load_state_dict(state)
        except KeyError as error:
            raise CtwaError(
                f"{folder} holds nothing of the {error} that this run has: resume it with the command, and the "
                "version of ctwa, that saved it"
            ) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CtwaError(
                f"{folder} holds no state that can be taken up ({error}): restore it, or take the folder away to go on "
                "from an earlier one"
            ) from error
        self.policy.load(folder)
        self.steps_made = state["step"]
        metrics: dict[str, Any] = state["metrics"]
        return metrics
