"""A run whose processes are stopped and killed, and whose rewards run wild, says so and leaves nothing behind."""

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

WILD_REWARD = Path(__file__).with_name("wild_reward.py")
WILD = ("exit", "segfault", "raise", "nan", "fork", "print", "memory")


def read_until(running: Popen[str], said: str) -> str:
    """What a run says until it has said something; waits for it."""
    assert running.stdout is not None
    lines = []
    for line in running.stdout:
        lines.append(line)
        if said in line:
            return "".join(lines)
    pytest.fail(f"the run ended without {said!r}: {''.join(lines)}")


def processes_with(wild: Path) -> list[psutil.Process]:
    """All of a run that are not over, wherever they went to: by their environment."""
    found = []
    for each in psutil.process_iter():
        try:
            is_one = each.pid != os.getpid() and each.environ().get("CTWA_WILD") == str(wild)
            if is_one and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except (psutil.Error, OSError):
            continue
    return found


def process_of(wild: Path, actor: str) -> psutil.Process:
    """The process of one of the run's actors."""
    return next(each for each in processes_with(wild) if "".join(each.cmdline()).startswith(f"ray::{actor}"))


def test_what_is_stopped_is_named_what_runs_wild_is_masked_and_what_is_killed_ends_the_run(
    watched_process: Callable[..., Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, wild = tmp_path / "run", tmp_path / "wild"
    monkeypatch.setenv("CTWA_WILD", str(wild))
    running = watched_process(
        folder,
        "trainer.total_training_steps=500",
        "trainer.save_freq=1",
        "ctwa.watchdog.every=1",
        f"+ctwa.objectives.wild={{reward_fn:'{WILD_REWARD}:wild',weight:0.1,target:0.1,max_unscored:1}}",
        "ctwa.rewards.max_memory=1",
        "ctwa.alarms.left_processes=10",
    )
    read_until(running, "1/500")
    server = process_of(wild, "TransformersServer")
    server.send_signal(signal.SIGSTOP)
    read_until(running, f"(process {server.pid}) is stopped (SIGSTOP): `kill -CONT {server.pid}` lets it go on")
    server.send_signal(signal.SIGCONT)
    read_until(running, "/500 ")
    for how in WILD:
        wild.write_text(how)
        while wild.exists():
            read_until(running, "/500 ")
    read_until(running, "/500 ")  # the last of them has been scored, or not

    monitor = next(each for each in processes_with(wild) if "log_monitor.py" in " ".join(each.cmdline()))
    monitor.send_signal(signal.SIGKILL)
    read_until(running, f"Ray's log monitor (process {monitor.pid}) has died: it was killed")
    read_until(running, "/500 ")

    # Nobody who waits for the queue has a time limit.
    queue = process_of(wild, "TransferQueueController")
    queue.send_signal(signal.SIGKILL)
    output, _ = running.communicate(timeout=120)

    assert running.returncode == 1, output
    said = f"TransferQueueController (process {queue.pid}) has died: it was killed, or crashed, or found no memory"
    assert f"error: {said}" in output.replace("\n", " ")
    *events, last = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    [alarm] = [each["text"] for each in events if each["text"].startswith("left-processes: ")]
    assert "20 processes live that reward functions have started and let go (most of them: 20 sleep)" in alarm
    assert (last["kind"], said in last["text"]) == ("error", True)
    assert processes_with(wild) == []  # those among them that a reward function started and let go
    newest = max(folder.glob("checkpoints/global_step_*"), key=lambda path: int(path.name.rsplit("_", 1)[1]))
    assert damaged_files(newest) in ((), ("complete.json",))  # whole, or the one that was being written
