"""A reward function that fails: what the user reads, and what the run makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Run

pytestmark = pytest.mark.e2e

REWARDS = """
def raises(response):
    raise KeyError("no such thing")

def hangs(response):
    while True:
        pass

def nan(response):
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


@pytest.mark.parametrize(
    ("function", "reason", "what"),
    [
        ("raises", "exception", "KeyError: 'no such thing'"),
        ("hangs", "timeout", "0.5 s"),
        ("nan", "not_finite", "nan"),
        ("text", "wrong_type", "str"),
        ("many", "wrong_type", "list"),
    ],
)
def test_a_reward_function_that_always_fails_stops_the_run(
    function: str, reason: str, what: str, rewards: Path, train: Callable[..., Run], tmp_path: Path
) -> None:
    run = train(
        tmp_path / "run",
        *QUICK,
        f"ctwa.objectives.clarity.reward_fn={rewards}:{function}",
        "+ctwa.objectives.clarity.timeout=0.5",
    )
    assert run.returncode == 1
    message = run.output[run.output.index("error:") :]
    for part in ("clarity", reason, what):
        assert part in message, run.output
    assert re.search(r"row \d+", message)  # the first that came to its end: two are evaluated at a time
    assert "Traceback" not in run.output


def test_entries_that_could_not_be_scored_are_counted_and_left_out(
    rewards: Path, train: Callable[..., Run], tmp_path: Path
) -> None:
    run = train(
        tmp_path / "run",
        *QUICK,
        f"ctwa.objectives.clarity.reward_fn={rewards}:sometimes",
        "ctwa.rewards.max_unscored=1",
    ).checked()
    (metrics,) = run.records
    assert 0 < metrics["objective/clarity/scored_frac"] < 1
    assert metrics["objective/clarity/mean"] == 1
    assert metrics["objective/accuracy/scored_frac"] == 1
    # What was scored is constant: no covariance with anything.
    assert metrics["ctwa/covariance/clarity"] == pytest.approx(0, abs=1e-12)
