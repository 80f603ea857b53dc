"""``ctwa train`` in phases, where the batch of every update is kept in the run's folder: batches/STEP.pt.

steps 1 to 3    linear weights; in the second somebody who has none of the run's secrets attacks it, and what came
                of it is kept: stranger.json
steps 4 and 5   MGDA
step 6          linear weights
step 7          linear weights; its last prompt has no completions, as after a rollout that failed
step 8          half of its prompts have none
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctwa.cli import run
from ctwa.engine.compose import compose_config
from ctwa.engine.job import execute
from ctwa.engine.recorder import Recorder
from ctwa.engine.sampling import Sampler
from ctwa.engine.settings import read_settings
from ctwa.engine.train import MultiObjectiveTrainer, Step
from ctwa.engine.train_job import TrainJob
from ctwa.engine.verl.columns import advantages_column
from ctwa.engine.verl.rows import prompt_name
from ctwa.scalarizers.base import Scalarizer

COLUMNS = ["input_ids", "responses", "old_log_probs", "advantages"]
ATTACKED, MGDA, LOSES_ONE, LOSES_HALF = 2, (4, 5), 7, 8


class RecordedTrainer(MultiObjectiveTrainer):
    """Keeps what an update is given."""

    def __init__(self, *parts: Any, mgda: Scalarizer, batches: Path) -> None:
        super().__init__(*parts)
        batches.mkdir()
        self._linear, self._mgda, self._batches = self.scalarizer, mgda, batches

    def step(self, number: int) -> dict[str, Any]:
        self.scalarizer = self._mgda if number in MGDA else self._linear
        return super().step(number)

    def sample(self, step: Step) -> None:
        complete = self.session.complete
        if step.number in (LOSES_ONE, LOSES_HALF):
            self.session.complete = partial(self._lose, complete, step.number)
        super().sample(step)
        self.session.complete = complete

    @staticmethod
    def _lose(complete: Callable[..., Any], number: int, prompts: Any, *args: Any, arrived: Any, **kwargs: Any) -> Any:
        """Complete prompts, of which some neither arrive nor are there in the end."""
        names = sorted(name for chunk in prompts for name in chunk["uid"])
        lost = {LOSES_ONE: names[-1:], LOSES_HALF: names[len(names) // 2 :]}[number]

        def left(keys: Sequence[str]) -> list[int]:
            return [place for place, key in enumerate(keys) if prompt_name(key) not in lost]

        batch, metrics = complete(
            prompts, *args, arrived=lambda keys: arrived([keys[place] for place in left(keys)]), **kwargs
        )
        kept = left(batch.keys)
        batch.keys[:], batch.tags[:] = [batch.keys[at] for at in kept], [batch.tags[at] for at in kept]
        return batch, metrics

    def update(self, step: Step) -> None:
        num_objectives = 0 if step.plan is None else len(step.plan.names)
        columns = [*COLUMNS, *map(advantages_column, range(num_objectives))]
        data = step.rows.read(*columns)
        kept: dict[str, Any] = {column: [row.clone() for row in data[column].unbind()] for column in columns}
        kept["rewards_NM"] = step.rollout.rewards.rewards_NM
        torch.save(kept, self._batches / f"{step.number}.pt")
        if step.number == ATTACKED:
            attack(self._batches.parent)
        super().update(step)


class RecordedJob(TrainJob):
    """Trains with it."""

    def trainer(self, sampler: Sampler, recorder: Recorder) -> RecordedTrainer:
        overrides = [each for each in sys.argv[1:] if not each.startswith("method=")]
        mgda = read_settings(compose_config([*overrides, "method=mgda"])).build_scalarizer()
        parts = (self.config, self.settings, self.settings.build_scalarizer(), sampler, recorder)
        return RecordedTrainer(*parts, mgda=mgda, batches=recorder.run.path / "batches")


def attack(folder: Path) -> None:
    """Let a stranger see and do what a process of this machine can see and do."""
    stranger = [sys.executable, str(Path(__file__).with_name("stranger.py")), str(os.getsid(0)), str(folder)]
    with (folder / "stranger.json").open("w") as report:
        subprocess.run(stranger, stdout=report, check=True, timeout=120)


if __name__ == "__main__":
    run(lambda: execute(RecordedJob, sys.argv[1:]))
