"""``ctwa train``, but the batch of every update is kept in the run's folder: batches/STEP.pt.

In the second step somebody who has none of the run's secrets attacks it, and what came of it is kept: stranger.json.
With --lose-a-prompt first, the last prompt of every step has no completions, as after a rollout that failed; and from
the fourth step on half of the prompts have none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from verl.utils.transferqueue_utils import KVBatchMeta

from ctwa.engine.compose import compose_config
from ctwa.engine.gradients import advantages_field
from ctwa.engine.job import prepare_run, run_training, set_environment
from ctwa.engine.train import MultiObjectiveTrainer
from ctwa.engine.verl.rows import prompt_name

FIELDS = ["input_ids", "responses", "old_log_probs", "advantages"]


class RecordedTrainer(MultiObjectiveTrainer):
    """Keeps what an update is given."""

    def __init__(self, *arguments: Any, batches: Path, lose_a_prompt: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._batches = batches
        self._lose_a_prompt = lose_a_prompt

    def _compute_reward_colocate(self, batch: KVBatchMeta, metrics: dict | None = None) -> KVBatchMeta:
        if self._lose_a_prompt:
            names = sorted(set(map(prompt_name, batch.keys)))
            lost = names[-1:] if self.global_steps < 4 else names[len(names) // 2 :]
            kept = [place for place, key in enumerate(batch.keys) if prompt_name(key) not in lost]
            batch.keys[:], batch.tags[:] = [batch.keys[at] for at in kept], [batch.tags[at] for at in kept]
        return super()._compute_reward_colocate(batch, metrics)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        num_objectives = 0 if self._gradient_plan is None else len(self._gradient_plan.names)
        fields = [*FIELDS, *map(advantages_field, range(num_objectives))]
        data = self._rows.read(*fields)
        kept: dict[str, Any] = {field: [row.clone() for row in data[field].unbind()] for field in fields}
        kept["rewards_NM"] = self._rollout.rewards.rewards_NM
        torch.save(kept, self._batches / f"{self.global_steps}.pt")
        if self.global_steps == 2:
            attack(self._batches.parent)
        return super()._update_actor(batch, metrics)


def attack(folder: Path) -> None:
    """Let a stranger see and do what a process of this machine can see and do."""
    stranger = [sys.executable, str(Path(__file__).with_name("stranger.py")), str(os.getsid(0)), str(folder)]
    with (folder / "stranger.json").open("w") as report:
        subprocess.run(stranger, stdout=report, check=True, timeout=120)


def main() -> None:
    """Train."""
    lose_a_prompt = sys.argv[1] == "--lose-a-prompt"
    config = compose_config(sys.argv[1 + lose_a_prompt :])
    set_environment(config)
    settings, run = prepare_run(config)
    batches = run.path / "batches"
    batches.mkdir()
    make_trainer = partial(RecordedTrainer, batches=batches, lose_a_prompt=lose_a_prompt)
    run_training(config, settings, run, make_trainer=make_trainer)


if __name__ == "__main__":
    main()
