"""The process that waits for a run: what it hands on, says and clears up, however the run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ctwa.engine.keeper import Ended, obituary, resuming

KEPT = """
import os, signal, subprocess, sys, time
from pathlib import Path
from ctwa.engine import keeper
from ctwa.engine.keeper import keep, tell
keeper.GRACE = 0.5
run = Path(sys.argv[1])
helper = [sys.executable, "-c", "input()"]  # one that goes on until it is killed

def note(text):
    with (run / "noted").open("a") as file:
        file.write(f"{text}\\n")

def work(settings):
    tell(folder=str(run))
    note(settings)
    BODY

sys.exit(keep(work, ["method=linear", "ctwa.run=${now:}"], max_restarts=MAX, say=note, pause=0.01))
"""


def start(run: Path, body: str, *, max_restarts: int = 0) -> subprocess.Popen[bytes]:
    """A kept program, in a session of its own."""
    run.mkdir()
    program = KEPT.replace("BODY", body).replace("MAX", str(max_restarts))
    return subprocess.Popen([sys.executable, "-c", program, str(run)], start_new_session=True)


def noted(run: Path) -> list[str]:
    file = run / "noted"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(run: Path, kept: subprocess.Popen[bytes], word: str) -> None:
    while word not in noted(run):
        assert kept.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("sys.exit(3)", 3)])
def test_the_status_is_that_of_the_work(tmp_path: Path, body: str, status: int) -> None:
    assert start(tmp_path / "run", body, max_restarts=1).wait(timeout=60) == status
    assert noted(tmp_path / "run") == ["['method=linear', 'ctwa.run=${now:}']"]


def test_one_that_dies_without_a_word_is_told_of_and_goes_on_where_it_was(tmp_path: Path) -> None:
    run = tmp_path / "run"
    body = """
    if "ctwa.resume=true" not in settings:
        tell(fault="Ray's raylet (process 7) has died")
        os._exit(1)"""

    assert start(run, body, max_restarts=1).wait(timeout=60) == 0
    _, said, pause, again = noted(run)
    assert said == (
        "failed before its first step was made: Ray's raylet (process 7) has died; with it the run's process was ended "
        "from within (exit status 1); there is no checkpoint yet: start it again with ctwa.resume=true"
    )
    assert pause.startswith("the run failed after step 0: restart 1 of 1")
    assert again == f"['method=linear', 'ctwa.run={run}', 'ctwa.resume=true']"
    event = json.loads((run / "events.jsonl").read_text())
    assert (event["kind"], event["text"]) == ("error", said)


def test_what_a_killed_run_leaves_is_ended_with_it(tmp_path: Path) -> None:
    """Wherever it went to, and whatever it does not listen to."""
    run = tmp_path / "run"
    body = """
    left = subprocess.Popen(helper, start_new_session=True, stdin=subprocess.PIPE)
    os.kill(left.pid, signal.SIGSTOP)
    note(left.pid)
    os.kill(os.getpid(), signal.SIGKILL)"""
    kept = start(run, body)

    assert kept.wait(timeout=60) == 1
    _, left, said = noted(run)
    assert not psutil.pid_exists(int(left))
    assert "the run's process was killed (SIGKILL): by somebody, or because the machine's memory was full" in said


END = """
    left = subprocess.Popen(helper, stdin=subprocess.PIPE)
    def end(number, frame):
        note(left.poll())
        left.kill()
        sys.exit(4)
    signal.signal(signal.SIGTERM, end)
    note("ready")
    while True:
        signal.pause()"""


def test_a_signal_to_all_of_the_group_reaches_the_run_alone(tmp_path: Path) -> None:
    """As `timeout` and schedulers send it: the processes of its engine live while it saves."""
    run = tmp_path / "run"
    kept = start(run, END, max_restarts=3)
    wait_for(run, kept, "ready")
    os.killpg(kept.pid, signal.SIGTERM)

    assert kept.wait(timeout=60) == 4
    assert noted(run)[-1] == "None"  # it lived still


def test_a_run_whose_keeper_is_killed_is_told_to_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    kept = start(run, END)
    wait_for(run, kept, "ready")
    [work] = psutil.Process(kept.pid).children()
    kept.kill()
    kept.wait()

    psutil.wait_procs([work], timeout=60)
    assert noted(run)[-1] == "None"


def test_ctrl_z_stops_the_run_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    kept = start(run, END)
    wait_for(run, kept, "ready")
    both = [psutil.Process(kept.pid), *psutil.Process(kept.pid).children()]
    for number, stopped in ((signal.SIGTSTP, True), (signal.SIGCONT, False)):
        kept.send_signal(number)
        while any((each.status() == psutil.STATUS_STOPPED) != stopped for each in both):
            time.sleep(0.01)
    kept.terminate()

    assert kept.wait(timeout=60) == 4


def test_what_is_said_of_a_run_that_ended_before_it_had_a_folder() -> None:
    assert obituary(Ended(-11, {}), None) == (
        "the run's process crashed, or was ended from outside (SIGSEGV), before the run began"
    )
    assert obituary(Ended(-40, {}), None) == (  # a real-time signal, for which Python has no name
        "the run's process crashed, or was ended from outside (signal 40), before the run began"
    )
    assert obituary(Ended(1, {"fault": "Ray's GCS has died"}), None) == (
        "Ray's GCS has died; with it the run's process was ended from within (exit status 1), before the run began"
    )


def test_one_that_waits_where_nothing_reaches_it_is_ended_for_what_is_wrong_with_it(tmp_path: Path) -> None:
    """In Ray, whose GCS is gone."""
    run = tmp_path / "run"
    body = """
    from ctwa.engine import ray_session
    ray_session.GRACE = 0.1
    ray_session._fail("Ray's GCS (process 7) has died")
    time.sleep(600)"""

    assert start(run, body).wait(timeout=120) == 1
    assert "Ray's GCS (process 7) has died; with it the run's process was ended from within" in noted(run)[-1]


def test_a_run_goes_on_in_the_folder_that_it_began_in(tmp_path: Path) -> None:
    settings = ["method=linear", "ctwa.run=runs/${now:%H}", "ctwa.resume=false", "mine.yaml"]
    assert resuming(settings, str(tmp_path)) == [
        "method=linear",
        "mine.yaml",
        f"ctwa.run={tmp_path}",
        "ctwa.resume=true",
    ]
