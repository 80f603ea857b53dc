"""A run whose processes are stopped and killed says so within seconds, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from ctwa.models.seal import damaged_files

pytestmark = pytest.mark.e2e


def read_until(running: Popen[str], said: str) -> None:
    """Wait for a run to say something."""
    assert running.stdout is not None
    lines = []
    for line in running.stdout:
        lines.append(line)
        if said in line:
            return
    pytest.fail(f"the run ended without {said!r}: {''.join(lines)}")


def processes_of(running: Popen[str]) -> list[psutil.Process]:
    """All of the run's session that are not over."""
    found = []
    for each in psutil.process_iter():
        try:
            if os.getsid(each.pid) == running.pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def process_of(running: Popen[str], actor: str) -> psutil.Process:
    """The process of one of the run's actors."""
    return next(each for each in processes_of(running) if "".join(each.cmdline()).startswith(f"ray::{actor}"))


def test_what_is_stopped_is_named_and_what_is_killed_ends_the_run(
    watched_process: Callable[..., Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    running = watched_process(
        folder, "trainer.total_training_steps=500", "trainer.save_freq=1", "ctwa.watchdog.every=1"
    )
    read_until(running, "1/500")
    server = process_of(running, "TransformersServer")
    server.send_signal(signal.SIGSTOP)
    read_until(running, f"(process {server.pid}) is stopped (SIGSTOP): `kill -CONT {server.pid}` lets it go on")
    server.send_signal(signal.SIGCONT)
    read_until(running, "/500 ")

    # Nobody who waits for the queue has a time limit.
    queue = process_of(running, "TransferQueueController")
    queue.send_signal(signal.SIGKILL)
    output, _ = running.communicate(timeout=120)

    assert running.returncode == 1, output
    said = f"TransferQueueController (process {queue.pid}) has died: it was killed, or crashed, or found no memory"
    assert f"error: {said}" in output.replace("\n", " ")
    last = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()][-1]
    assert (last["kind"], said in last["text"]) == ("error", True)
    assert processes_of(running) == []
    newest = max(folder.glob("checkpoints/global_step_*"), key=lambda path: int(path.name.rsplit("_", 1)[1]))
    assert damaged_files(newest) in ((), ("complete.json",))  # whole, or the one that was being written
