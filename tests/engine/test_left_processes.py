"""Which processes are counted as those that a reward function has let go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ctwa.engine import keeper
from ctwa.engine.left_processes import left_metrics, left_processes
from ctwa.engine.process_tree import Seen, descendants, process_table
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator

KEEPER, RUN, WORKER, RAYLET = 10, 11, 12, 13
TABLE = {
    1: Seen(0, "init", False),
    KEEPER: Seen(1, "ctwa", False),
    RUN: Seen(KEEPER, "ctwa", False),
    WORKER: Seen(RUN, "python", False),
    RAYLET: Seen(RUN, "raylet", False),
    14: Seen(RAYLET, "ray::WorkerDict", False),
    20: Seen(WORKER, "sh", False),
    21: Seen(20, "sleep", False),
    22: Seen(WORKER, "sleep", True),  # has ended
    23: Seen(KEEPER, "sleep", False),  # its worker has ended
    24: Seen(23, "sleep", False),
    30: Seen(1, "sleep", False),  # somebody else's
}


def test_those_of_the_run_itself_are_not_counted() -> None:
    assert left_processes([WORKER], RUN, KEEPER, TABLE) == {"sh": 1, "sleep": 3}
    assert left_processes([WORKER], RUN, None, TABLE) == {"sh": 1, "sleep": 1}
    assert left_processes([], RUN, None, TABLE) == {}


def test_a_table_says_who_started_whom() -> None:
    with subprocess.Popen(["a) name (of\n1 2"], executable="/bin/cat", stdin=-1) as child:
        table = process_table()
        assert table[os.getpid()].parent == os.getppid()
        assert table[child.pid] == Seen(os.getpid(), "cat", False)
        assert child.pid in descendants([os.getpid()])
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_table()[child.pid].is_over


LETS_GO = """
import subprocess
def f(response):
    for own_session in (True, False):
        subprocess.Popen(["sleep", "3600"], start_new_session=own_session)
    subprocess.run(["true"])
    return 1
"""


def test_what_a_reward_function_starts_and_lets_go_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "rewards.py"
    path.write_text(LETS_GO)
    batch = [Completion(str(row), "p", "7", "d", {}, 3, None, True, {}) for row in range(3)]
    with RewardEvaluator({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, num_workers=2) as evaluator:
        assert left_metrics(evaluator.processes) == {"rewards/left_processes": 0}
        evaluator.evaluate(batch, [0, 1, 2])
        left = descendants(evaluator.processes)
        metrics = left_metrics(evaluator.processes)
    for each in left:
        with suppress(ProcessLookupError):  # it was in its worker's group
            os.kill(each, signal.SIGKILL)
    assert metrics == {"rewards/left_processes": 6, "rewards/left_processes/sleep": 6}


KEPT = """
import json, subprocess, sys
from ctwa.engine import keeper
from ctwa.engine.left_processes import left_metrics

def work(settings):
    # Started by a process that ends: its parent is the keeper.
    subprocess.run(["sh", "-c", "sleep 3600 & sleep 3600 &"])
    print(json.dumps(left_metrics([])))

keeper.GRACE = 0.1
sys.exit(keeper.keep(work, [], max_restarts=0, say=print))
"""


def test_those_that_cut_themselves_loose_are_counted_too() -> None:
    kept = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert json.loads(kept.stdout)["rewards/left_processes"] == 2  # be they sleep yet, or sh still


def test_a_keeper_that_was_lost_has_no_children(monkeypatch) -> None:
    """Who takes its place has those of everybody."""
    monkeypatch.setattr(keeper, "_keeper", os.getppid())
    assert keeper.keeper_here() == os.getppid()
    monkeypatch.setattr(keeper, "_keeper", os.getpid())
    assert keeper.keeper_here() is None
