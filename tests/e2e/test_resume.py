"""A run that was killed goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

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


def read(path: Path) -> str:
    return path.read_text()


def last_event(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "events.jsonl").read_text().splitlines()[-1])


def test_a_run_that_is_told_to_end_and_then_killed_while_it_saves_resumes_to_the_same_bits(
    watched_process: Callable[..., Popen[str]], train: Callable[..., Run], six_steps: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    half_written = folder / "checkpoints/global_step_6"
    settings = ("trainer.total_training_steps=6", "trainer.save_freq=3", "trainer.test_freq=6")

    running = watched_process(folder, *settings)
    wait_until(running, lambda: (folder / "metrics.jsonl").exists() and '"step": 1,' in read(folder / "metrics.jsonl"))
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=120)
    end_session(running.pid)
    stopped = last_event(folder)
    assert (running.returncode, stopped["kind"]) == (4, "stop"), output
    assert 1 <= stopped["step"] < 6
    assert is_complete(folder / f"checkpoints/global_step_{stopped['step']}")
    assert "SIGTERM: saving after this step; press Ctrl-C to end at once" in output
    assert output.count("whose checkpoint is saved: ctwa.resume=true goes on from there") == 2  # and in the summary
    assert json.loads((folder / "summary.json").read_text())["stopped"] == stopped["text"]

    running = watched_process(folder, *settings, "ctwa.resume=true")
    wait_until(running, (half_written / "ctwa_state.json").exists)
    running.send_signal(signal.SIGKILL)
    running.wait()
    end_session(running.pid)
    assert not is_complete(half_written)
    assert is_complete(folder / "checkpoints/global_step_3")

    resumed = train(folder, *settings, "ctwa.resume=true").checked()

    assert "continuing from global_step_3; removed global_step_6, which was not" in read(folder / "events.jsonl")
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == list(range(7))
    for step in range(7):
        assert comparable(resumed.records[step]) == comparable(six_steps.records[step]), f"step {step}"
    assert_same_weights(resumed, six_steps, 6)
    states = [read_state(run.folder / "checkpoints/global_step_6") for run in (resumed, six_steps)]
    assert states[0]["scalarizer"] == states[1]["scalarizer"]
    assert comparable(states[0]["metrics"]) == comparable(states[1]["metrics"])
