"""What TRL's loop tells a trainer between its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from ctwa.integrations.trl.trainer import MultiObjectiveGRPOTrainer


class Between(TrainerCallback):
    """Tells a trainer what its loop does between its steps."""

    def __init__(self, trainer: MultiObjectiveGRPOTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The checkpoint is loaded, and the number of steps known."""
        self._trainer.begin_recording()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The step before is logged, evaluated and saved."""
        self._trainer.before_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The policy has been updated, and nothing is logged or saved yet."""
        self._trainer.after_step()

    def on_log(self, *_: Any, logs: Mapping[str, float] | None = None, **__: Any) -> None:
        """TRL's log."""
        self._trainer.note_logs(logs or {})

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """The last step is over."""
        self._trainer.end_recording()
