"""A reward function that fails: what the user reads, and what the run makes of it: an alarm that can end it, too."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctwa.engine.checkpoint import is_complete
from tests.e2e.conftest import CTWA_TRAIN, Run

pytestmark = pytest.mark.e2e

REWARDS = """
def raises(response):
    raise KeyError("no such thing")

def hangs(response):
    while True:
        pass

def not_finite(response):
    return float("nan")

def text(response):
    return "good"

def many(response):
    return [1.0, 2.0]

def sometimes(response):
    return None if len(response) % 2 else 1.0
"""
QUICK = ("trainer.total_training_steps=1", "trainer.val_before_train=false", "data.train_batch_size=4")


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(REWARDS)
    return path


def test_reward_functions_that_fail_stop_the_run_which_says_how_each_did(
    rewards: Path, train: Callable[..., Run], tmp_path: Path
) -> None:
    failing = ("raises", "not_finite", "text", "many")
    objectives = ",".join(f"{name}:{{reward_fn:'{rewards}:{name}',weight:1}}" for name in failing)
    own = ("~ctwa.objectives", f"+ctwa.objectives={{{objectives}}}")
    run = train(tmp_path / "run", *QUICK, "method=linear", *own)
    assert run.returncode == 1
    said = " ".join(run.output[run.output.index("error:") :].split())
    for name, what in (
        ("raises", "exception: KeyError: 'no such thing' (rewards.py, line 3)"),
        ("not_finite", "not_finite: returned nan; return a finite number, or None"),
        ("text", "wrong_type: returned the str 'good'; return one number, or None"),
        ("many", "wrong_type: returned the list [1.0, 2.0]; return one number, or None"),
    ):
        failed = rf"objective '{name}' \(\S+\) could not score 16 of 16 completions .+? first row 0: "
        assert re.search(failed + re.escape(what), said), run.output
    assert said.count("its completion begins") == len(failing)
    assert "Traceback" not in run.output


def test_a_reward_function_that_hangs_stops_the_run_early(
    rewards: Path, train: Callable[..., Run], tmp_path: Path
) -> None:
    objective = "ctwa.objectives.clarity"
    run = train(tmp_path / "run", *QUICK, f"{objective}.reward_fn={rewards}:hangs", f"+{objective}.timeout=0.5")
    assert run.returncode == 1
    said = " ".join(run.output[run.output.index("error:") :].split())
    assert "objective 'clarity'" in said
    assert "could not score at least" in said
    assert re.search(r"first row \d+: timeout: no value within 0\.5 s", said)  # two are evaluated at a time
    assert "Traceback" not in run.output


@pytest.fixture(scope="module")
def stopped(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which clarity cannot score half of the completions, told to end when that raises an alarm."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "rewards.py").write_text(REWARDS)
    return train(folder / "run", *unscored(folder), program=STOP_ON_UNSCORED)


STOP_ON_UNSCORED = (*CTWA_TRAIN, "--stop-on", "unscored")


def unscored(folder: Path) -> list[str]:
    return [
        *QUICK,
        f"ctwa.objectives.clarity.reward_fn={folder / 'rewards.py'}:sometimes",
        "ctwa.rewards.max_unscored=1",
        "trainer.total_training_steps=3",
        "trainer.test_freq=3",
        "data.val_max_samples=8",
    ]


def events_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]


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
    assert is_complete(stopped.folder / "checkpoints/global_step_1")
    assert [event["kind"] for event in events_of(stopped)] == ["start", "alarm", "stop"]
    summary = json.loads((stopped.folder / "summary.json").read_text())
    assert [episode["alarm"]["kind"] for episode in summary["alarms"]] == ["unscored"]
    said = "stopped by the alarm unscored after step 1, whose checkpoint is saved"
    assert summary["stopped"] == said
    assert stopped.output.count(said) == 2  # as it happened, and in the summary
    assert "alarm: unscored: " in stopped.output
    assert "try the reward function by itself" in stopped.output


def test_a_run_that_an_alarm_ended_goes_on_when_it_is_resumed(
    stopped: Run, train: Callable[..., Run], tmp_path: Path
) -> None:
    """The alarm still holds, and was raised before: it is not raised again, and ends nothing."""
    folder = tmp_path / "run"
    shutil.copytree(stopped.folder, folder)
    settings = unscored(stopped.folder.parent)
    resumed = train(folder, *settings, "ctwa.resume=true", program=STOP_ON_UNSCORED).checked()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    assert resumed.records[0] == stopped.records[0]
    assert all(metrics["objective/clarity/scored_frac"] < 0.95 for metrics in resumed.records)
    assert [event["kind"] for event in events_of(resumed)] == ["start", "alarm", "stop", "resume", "start"]
    assert "unscored was raised before and holds" in resumed.output
    assert json.loads((folder / "summary.json").read_text())["stopped"] is None
