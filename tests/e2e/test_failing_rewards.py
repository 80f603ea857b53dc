"""A reward function that fails: what the run makes of it, and what the user reads: an alarm can end it, too."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ctwa.models.locate import is_complete
from tests.e2e.conftest import CTWA_TRAIN, Run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stopped(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which clarity cannot score half of the completions, told to end when that raises an alarm."""
    folder = tmp_path_factory.mktemp("stopped")
    rewards = folder / "rewards.py"
    rewards.write_text("def sometimes(response): return None if len(response) % 2 else 1.0\n")
    return train(
        folder / "run",
        f"ctwa.objectives.clarity.reward_fn={rewards}:sometimes",
        "ctwa.rewards.max_unscored=1",
        "data.train_batch_size=4",
        "data.val_max_samples=8",
        "trainer.total_training_steps=3",
        "trainer.test_freq=3",
        "trainer.val_before_train=false",
        program=(*CTWA_TRAIN, "--stop-on", "unscored"),
    )


def test_entries_that_could_not_be_scored_are_counted_and_left_out(stopped: Run) -> None:
    metrics = stopped.records[0]
    assert 0 < metrics["objective/clarity/scored_frac"] < 1
    assert metrics["objective/clarity/mean"] == 1
    assert metrics["objective/accuracy/scored_frac"] == 1
    # What was scored is constant: no covariance with anything.
    assert metrics["covariance/clarity"] == pytest.approx(0, abs=1e-12)


def test_an_alarm_ends_the_run_with_a_validation_and_a_checkpoint(stopped: Run) -> None:
    assert stopped.returncode == 3, stopped.output
    (metrics,) = stopped.records  # of three steps
    assert "val/accuracy" in metrics
    events = [json.loads(line) for line in (stopped.folder / "events.jsonl").read_text().splitlines()]
    assert is_complete(stopped.folder / "checkpoints/global_step_1")
    assert [event["kind"] for event in events] == ["start", "alarm", "stop"]
    summary = json.loads((stopped.folder / "summary.json").read_text())
    assert [episode["alarm"]["kind"] for episode in summary["alarms"]] == ["unscored"]
    said = "stopped by the alarm unscored after step 1, whose checkpoint is saved"
    assert summary["stopped"] == said
    assert stopped.output.count(said) == 2  # as it happened, and in the summary
    assert "alarm: unscored: " in stopped.output
    assert "try the reward function by itself" in stopped.output
