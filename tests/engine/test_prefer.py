"""How a preference run ends by a signal or an alarm: loop, recorder and checkpoints, with the workers played."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ctwa.engine.checkpoint import write_state
from ctwa.engine.compose import compose_config
from ctwa.engine.pairs.batches import PairBatch
from ctwa.engine.prefer import PreferenceTrainer
from ctwa.engine.prefer_job import PreferJob
from ctwa.engine.recorder import Recorder
from ctwa.engine.signals import Interruption, end_request
from ctwa.errors import CtwaError
from ctwa.gradients.plan import GradientPlan
from ctwa.models.locate import step_folder, steps
from ctwa.models.seal import is_complete, seal
from ctwa.preference.tokenization import PairTokens
from ctwa.run.alarms import Alarm
from ctwa.run.jsonl import read_jsonl
from ctwa.testbed.preferences import make_preferences


class Workers:
    """Of a policy that is never better: as far as the loop can see, it trains."""

    def __init__(self, signal_at: int | None, alarm_at: int | None) -> None:
        self.updates, self._signal_at, self._alarm_at = 0, signal_at, alarm_at

    def update(self, batch: PairBatch, plan: GradientPlan) -> tuple[torch.Tensor, dict[str, Any], GradientPlan]:
        self.updates += 1
        if self.updates == self._signal_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        norm = math.inf if self.updates == self._alarm_at else 1.0
        metrics = {"loss": 0.7, "grad_norm": norm, "lr": 1e-4, "perf/max_memory_allocated_gb": 0.0}
        return torch.full((len(batch.pairs), 2), -1.0, dtype=torch.float64), metrics, plan

    def log_probs(self, pairs: Sequence[PairTokens]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(pairs),), -1.0).double(), torch.full((len(pairs),), -1.0).double()

    def save(self, folder: Path, *, step: int) -> None:
        assert step == self.updates
        (folder / "model.txt").write_text(str(self.updates))

    def load(self, folder: Path) -> None:
        self.updates = int((folder / "model.txt").read_text())


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    with end_request.listening():
        yield


class Choosers(Workers):
    """Of a policy that ranks all pairs of a prompt alike, those of some prompts right."""

    def log_probs(self, pairs: Sequence[PairTokens]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen_P = torch.tensor([-1.0 - sum(pair.prompt) % 2 for pair in pairs], dtype=torch.float64)
        return chosen_P, torch.full_like(chosen_P, -1.5)


@pytest.fixture
def config(task_dir: Path, tmp_path: Path) -> DictConfig:
    make_preferences("D", tmp_path / "pairs", num_train=40, num_validation=10, num_test=4)
    own = [f"ctwa.run={tmp_path / 'run'}", f"ctwa.task_dir={task_dir}", "data.train_batch_size=8", "loss=simpo"]
    files = [
        f"ctwa.objectives.{name}.{key}={tmp_path}/pairs/{part}.parquet"
        for name in ("accuracy", "conciseness")
        for key, part in (("data", "train"), ("validation", "validation"))
    ]
    often = ["method=linear", "trainer.save_freq=1", "trainer.test_freq=4", "trainer.logger=[]"]
    return compose_config([*own, *files, *often], command="prefer")


@pytest.fixture
def train(config: DictConfig) -> Callable[..., Recorder]:
    def start(
        *,
        signal_at: int | None = None,
        alarm_at: int | None = None,
        resume: bool = False,
        stop_on: str = "",
        test_freq: int = 4,
    ) -> Recorder:
        config.ctwa.resume, config.trainer.test_freq = resume, test_freq
        job = PreferJob(config)
        run = job.make_folder()
        workers: Any = Workers(signal_at, alarm_at)
        with Recorder(run, resume=resume, num_samples=0, seed=0, stop_on=[stop_on]) as recorder:
            PreferenceTrainer(
                config, settings=job.settings, data=job.data, workers=workers, recorder=recorder, num_steps=8
            ).fit()
        return recorder

    return start


def test_a_signal_ends_it_after_its_step_and_the_checkpoints_of_both_parts_are_pruned(
    train: Callable[..., Recorder],
) -> None:
    recorder = train(signal_at=5)
    run = recorder.run
    assert recorder.stopped_by == Interruption("SIGUSR1", 5)
    assert steps(run.checkpoints) == [3, 4, 5]
    assert is_complete(step_folder(run.checkpoints, 5))
    records = read_jsonl(run.metrics)
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert "val/accuracy" not in records[5]["metrics"]  # none was due, and time is short

    end_request.by = None  # of another process
    resumed = train(resume=True)
    assert resumed.stopped_by is None
    assert [record["step"] for record in read_jsonl(run.metrics)] == list(range(9))
    assert steps(run.checkpoints) == [6, 7, 8]


def test_the_pairs_of_a_prompt_are_one_observation(config: DictConfig) -> None:
    job = PreferJob(config)

    def validated(times: int) -> dict[str, Any]:
        parts = [replace(part, tokens=replace(part.tokens, pairs=part.pairs * times)) for part in job.data.validation]
        nobody: Any = None
        workers: Any = Choosers(None, None)
        data = replace(job.data, validation=tuple(parts))
        trainer = PreferenceTrainer(
            config, settings=job.settings, data=data, workers=workers, recorder=nobody, num_steps=8
        )
        return {key: value for key, value in trainer.validate().items() if key.startswith(("val/", "val_standard"))}

    once = validated(1)
    share = once["val/accuracy"]
    assert 0 < share < 1
    assert once["val_standard_error/accuracy"] == pytest.approx(math.sqrt(share * (1 - share) / 9))  # of 10 prompts
    assert validated(20) == pytest.approx(once)


def test_an_alarm_ends_it_with_a_validation_like_the_last_step(train: Callable[..., Recorder]) -> None:
    """Whatever trainer.test_freq says of the steps in between."""
    recorder = train(alarm_at=3, stop_on="non-finite", test_freq=-1)
    assert isinstance(recorder.stopped_by, Alarm)
    records = read_jsonl(recorder.run.metrics)
    assert [record["step"] for record in records if "val/accuracy" in record["metrics"]] == [0, 3]
    assert is_complete(step_folder(recorder.run.checkpoints, 3))


def test_a_checkpoint_of_another_command_is_refused_with_a_sentence(train: Callable[..., Recorder]) -> None:
    folder = step_folder(train(signal_at=2).run.checkpoints, 2)
    write_state(folder, {"step": 2, "scalarizer": {}, "metrics": {}})
    seal(folder)
    end_request.by = None  # of another process
    with pytest.raises(CtwaError, match=r"holds nothing of the 'aggregator' .*: resume it with the command"):
        train(resume=True)
