"""A run that was killed goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from ctwa.engine.checkpoint import is_complete, read_state
from tests.e2e.conftest import Run, end_session
from tests.e2e.test_training import assert_same_weights, comparable

pytestmark = pytest.mark.e2e


def wait_until(running: Popen[str], condition: Callable[[], bool], *, seconds: float = 300) -> None:
    """Look often: what is waited for lasts a tenth of a second."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None, "the run ended before it came to the point"
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_to_the_same_bits(
    watched_process: Callable[..., Popen[str]], train: Callable[..., Run], six_steps: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    half_written = folder / "checkpoints/global_step_6"
    settings = ("trainer.total_training_steps=6", "trainer.save_freq=3", "trainer.test_freq=6")

    running = watched_process(folder, *settings)
    wait_until(running, (half_written / "ctwa_state.json").exists)
    running.send_signal(signal.SIGKILL)
    running.wait()
    end_session(running.pid)
    assert not is_complete(half_written)
    assert is_complete(folder / "checkpoints/global_step_3")
    # And verl's own marker lost: what a crash at that moment leaves of it.
    (folder / "checkpoints/latest_checkpointed_iteration.txt").write_text("")

    resumed = train(folder, *settings, "ctwa.resume=true").checked()

    assert "global_step_3" in (folder / "events.jsonl").read_text()
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == list(range(7))
    for step in range(7):
        assert comparable(resumed.records[step]) == comparable(six_steps.records[step]), f"step {step}"
    assert_same_weights(resumed, six_steps, 6)
    states = [read_state(run.folder / "checkpoints/global_step_6") for run in (resumed, six_steps)]
    assert states[0]["scalarizer"] == states[1]["scalarizer"]
    assert comparable(states[0]["metrics"]) == comparable(states[1]["metrics"])
