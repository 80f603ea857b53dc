"""``ctwa train``, but the batch of every update is kept in the run's folder: batches/STEP.pt.

In the second step somebody who has none of the run's secrets attacks it, and what came of it is kept: stranger.json.
With --lose-a-prompt first, the last prompt of every step has no completions, as after a rollout that failed; and from
the fourth step on half of the prompts have none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch

from ctwa.cli import run
from ctwa.engine.job import execute
from ctwa.engine.recorder import Recorder
from ctwa.engine.sampling import Sampler
from ctwa.engine.train import MultiObjectiveTrainer, Step
from ctwa.engine.train_job import TrainJob
from ctwa.engine.verl.columns import advantages_column
from ctwa.engine.verl.rows import prompt_name

FIELDS = ["input_ids", "responses", "old_log_probs", "advantages"]


class RecordedTrainer(MultiObjectiveTrainer):
    """Keeps what an update is given."""

    def __init__(self, *parts: Any, batches: Path, loses_a_prompt: bool) -> None:
        super().__init__(*parts)
        batches.mkdir()
        self._batches, self._loses_a_prompt = batches, loses_a_prompt

    def sample(self, step: Step) -> None:
        super().sample(step)
        if self._loses_a_prompt:
            batch = step.batch
            names = sorted(set(map(prompt_name, batch.keys)))
            lost = names[-1:] if step.number < 4 else names[len(names) // 2 :]
            kept = [place for place, key in enumerate(batch.keys) if prompt_name(key) not in lost]
            batch.keys[:], batch.tags[:] = [batch.keys[at] for at in kept], [batch.tags[at] for at in kept]

    def update(self, step: Step) -> None:
        num_objectives = 0 if step.plan is None else len(step.plan.names)
        fields = [*FIELDS, *map(advantages_column, range(num_objectives))]
        data = step.rows.read(*fields)
        kept: dict[str, Any] = {field: [row.clone() for row in data[field].unbind()] for field in fields}
        kept["rewards_NM"] = step.rollout.rewards.rewards_NM
        torch.save(kept, self._batches / f"{step.number}.pt")
        if step.number == 2:
            attack(self._batches.parent)
        super().update(step)


class RecordedJob(TrainJob):
    """Trains with it."""

    loses_a_prompt: ClassVar[bool] = False

    def trainer(self, sampler: Sampler, recorder: Recorder) -> RecordedTrainer:
        parts = (self.config, self.settings, self.settings.build_scalarizer(), sampler, recorder)
        return RecordedTrainer(*parts, batches=recorder.run.path / "batches", loses_a_prompt=self.loses_a_prompt)


def attack(folder: Path) -> None:
    """Let a stranger see and do what a process of this machine can see and do."""
    stranger = [sys.executable, str(Path(__file__).with_name("stranger.py")), str(os.getsid(0)), str(folder)]
    with (folder / "stranger.json").open("w") as report:
        subprocess.run(stranger, stdout=report, check=True, timeout=120)


def main() -> None:
    """Train."""
    RecordedJob.loses_a_prompt = sys.argv[1] == "--lose-a-prompt"
    run(lambda: execute(RecordedJob, sys.argv[1 + RecordedJob.loses_a_prompt :]))


if __name__ == "__main__":
    main()
