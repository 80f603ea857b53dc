"""A run that fails is resumed, and whoever resumes it is told from where."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ctwa.engine.restarts import how_to_go_on, last_step, restarted
from ctwa.models.locate import step_folder
from ctwa.models.seal import seal
from ctwa.run.folder import RunFolder
from ctwa.run.trace import TraceWriter


class Attempts:
    """Ends with one status after the other; notes which attempt was the first."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = iter(statuses)
        self.firsts: list[bool] = []
        self.said: list[str] = []
        self.asked_to_end = threading.Event()

    def __call__(self, is_first: bool) -> int:
        self.firsts.append(is_first)
        return next(self._statuses)

    def play(self, *steps: int, max_restarts: int = 5) -> int:
        each = iter(steps)
        return restarted(
            self,
            lambda: ("run", next(each)),
            self.asked_to_end,
            max_restarts=max_restarts,
            say=self.said.append,
            pause=0.01,
        )


def test_a_run_that_fails_is_resumed_until_it_ends_well() -> None:
    attempts = Attempts(1, 1, 0)

    assert attempts.play(3, 7) == 0
    assert attempts.firsts == [True, False, False]
    assert attempts.said == [
        "the run failed after step 3: restart 1 of 5 in 0.01 s",
        "the run failed after step 7: restart 2 of 5 in 0.02 s",
    ]


@pytest.mark.parametrize("status", [0, 2, 3, 4, 130])
def test_every_other_end_is_the_end(status: int) -> None:
    attempts = Attempts(status)

    assert attempts.play() == status
    assert attempts.firsts == [True]


def test_two_runs_that_fail_at_the_same_step_are_two_faults() -> None:
    """Of several methods by one command the second run may fail where the first one did."""
    attempts, places = Attempts(1, 1, 0), iter([("linear", 5), ("guard", 5)])

    assert (
        restarted(
            attempts, lambda: next(places), attempts.asked_to_end, max_restarts=2, say=attempts.said.append, pause=0.01
        )
        == 0
    )


def test_a_fault_that_repeats_at_its_step_is_not_tried_a_third_time() -> None:
    attempts = Attempts(1, 1)

    assert attempts.play(3, 3) == 1
    assert attempts.said[-1] == "the run failed twice after step 3, so it is not restarted a third time"


def test_it_is_restarted_no_more_often_than_was_said() -> None:
    attempts = Attempts(1, 1, 1)

    assert attempts.play(1, 2, 3, max_restarts=2) == 1
    assert attempts.firsts == [True, False, False]


def test_a_run_that_was_asked_to_end_and_failed_is_not_resumed() -> None:
    attempts = Attempts(1)
    attempts.asked_to_end.set()

    assert attempts.play() == 1
    assert attempts.said == []


def test_the_last_step_is_that_of_the_trace_or_of_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert last_step(run) == last_step(None) == 0
    with TraceWriter(run.metrics) as trace:
        trace.write(3, {"x": 1.0})
    assert last_step(run) == 3
    assert how_to_go_on(run).startswith("there is no checkpoint yet")
    step_folder(run.checkpoints, 4).mkdir(parents=True)
    (step_folder(run.checkpoints, 4) / "data.pt").touch()
    seal(step_folder(run.checkpoints, 4))
    assert last_step(run) == 4
    assert how_to_go_on(run) == "the newest checkpoint is global_step_4: ctwa.resume=true goes on from there"
