"""A run that fails is resumed, and a signal ends it all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctwa.engine import restarts
from ctwa.engine.restarts import Child, execute_again, last_step, restarted
from ctwa.models.locate import step_folder
from ctwa.models.seal import seal
from ctwa.run.folder import RunFolder
from ctwa.run.trace import TraceWriter

EXIT = "import sys; sys.exit({})"
KILLED = "import os; os.kill(os.getpid(), {})"


def commands(*statuses: int) -> Iterator[list[str]]:
    """Programs that end with these, one after the other."""
    ends = (EXIT.format(status) if status >= 0 else KILLED.format(-status) for status in statuses)
    return ([sys.executable, "-c", end] for end in ends)


class Played(Child):
    """Runs the next of some programs, whatever it is told to run; notes what it was told."""

    def __init__(self, *statuses: int) -> None:
        super().__init__()
        self._commands = commands(*statuses)
        self.told: list[str] = []

    def run(self, command: Any) -> int:
        self.told.append(command[0])
        return super().run(next(self._commands))


def play(child: Child, steps: list[int], said: list[str], *, max_restarts: int = 5) -> int:
    each = iter(steps)
    return restarted(
        child, ["first"], ["again"], lambda: next(each), max_restarts=max_restarts, say=said.append, pause=0.01
    )


def test_a_run_that_fails_is_resumed_until_it_ends_well() -> None:
    child, said = Played(1, 1, 0), list[str]()

    assert play(child, [3, 7], said) == 0
    assert child.told == ["first", "again", "again"]
    assert said == [
        "the run failed after step 3: restart 1 of 5 in 0.01 s",
        "the run failed after step 7: restart 2 of 5 in 0.02 s",
    ]


def test_a_run_that_is_killed_is_resumed_too() -> None:
    child = Played(-signal.SIGKILL, 0)
    assert play(child, [3], []) == 0
    assert child.told == ["first", "again"]


@pytest.mark.parametrize("status", [0, 2, 3, 4, 130])
def test_every_other_end_is_the_end(status: int) -> None:
    child = Played(status)

    assert play(child, [], []) == status
    assert child.told == ["first"]


def test_a_fault_that_repeats_at_its_step_is_not_tried_a_third_time() -> None:
    child, said = Played(1, 1), list[str]()

    assert play(child, [3, 3], said) == 1
    assert said[-1] == "the run failed twice after step 3, so it is not restarted a third time"


def test_it_is_restarted_no_more_often_than_was_said() -> None:
    child = Played(1, 1, 1)

    assert play(child, [1, 2, 3], [], max_restarts=2) == 1
    assert child.told == ["first", "again", "again"]


def test_a_signal_is_handed_on_to_the_run_alone_and_what_it_ends_is_not_restarted(tmp_path: Path) -> None:
    """As `timeout` and schedulers send it: to a process and to its group."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    run = f"""
import os, signal, subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)  # one that the run needs to end well
def end(number, frame):
    open({str(theirs)!r}, "w").write(str(helper.poll()))
    helper.kill()
    sys.exit(1)  # as a run that could not save
signal.signal(signal.SIGTERM, end)
open({str(mine)!r}, "w").close()
signal.pause()
"""
    program = f"""
import sys
from ctwa.engine.restarts import Child, restarted
with Child() as child:
    command = [sys.executable, "-c", {run!r}]
    sys.exit(restarted(child, command, command, int, max_restarts=3, say=print))
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    while not mine.exists():
        assert supervisor.poll() is None
        time.sleep(0.01)
    os.killpg(supervisor.pid, signal.SIGTERM)

    assert supervisor.wait(timeout=60) == 1
    assert theirs.read_text() == "None"  # it lived still


def test_the_last_step_is_that_of_the_trace_or_of_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert last_step(run) == 0
    with TraceWriter(run.metrics) as trace:
        trace.write(3, {"x": 1.0})
    assert last_step(run) == 3
    step_folder(run.checkpoints, 4).mkdir(parents=True)
    (step_folder(run.checkpoints, 4) / "data.pt").touch()
    seal(step_folder(run.checkpoints, 4))
    assert last_step(run) == 4


def test_a_restart_resumes_the_folder_that_the_run_began_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []

    def note(child: Child, first: list[str], again: list[str], *_: object, **__: object) -> int:
        told.extend([first, again])
        return 0

    monkeypatch.setattr(restarts, "restarted", note)
    settings = ["method=linear", f"ctwa.run={tmp_path}/run", "ctwa.resume=false", f"ctwa.task_dir={tmp_path}"]
    execute_again("train", settings, ["--stop-on", "drop"], max_restarts=1, say=print)

    program = [sys.executable, "-m", "ctwa.cli", "train", "--stop-on", "drop", "method=linear"]
    assert told == [
        [*program, "ctwa.resume=false", f"ctwa.task_dir={tmp_path}", f"ctwa.run={tmp_path}/run"],
        [*program, f"ctwa.task_dir={tmp_path}", f"ctwa.run={tmp_path}/run", "ctwa.resume=true"],
    ]
