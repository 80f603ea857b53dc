"""A run that fails is resumed, and whoever resumes it is told from where."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ctwa.engine import keeper
from ctwa.engine.restarts import how_to_go_on, last_step
from ctwa.models.locate import step_folder
from ctwa.models.seal import seal
from ctwa.run.folder import RunFolder
from ctwa.run.trace import TraceWriter


class Attempts:
    """Ends with one status after the other, each in a run's folder and after a step; notes the settings of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ends: tuple[int, str, int]) -> None:
        self._ends = iter(ends)
        self._steps: dict[str, int] = {}
        self.settings: list[list[str]] = []
        self.said: list[str] = []
        self.asked_to_end = threading.Event()
        monkeypatch.setattr(keeper, "Keeper", lambda: self)
        monkeypatch.setattr(keeper, "last_step", lambda run: self._steps[run.path.name])

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, work: Callable[[], None]) -> keeper.Ended:
        work()
        status, folder, self._steps[folder] = next(self._ends)
        return keeper.Ended(status, {"folder": folder, "resume": "all", "end": "with an exit status"})

    def play(self, *, max_restarts: int = 5) -> int:
        return keeper.keep(
            lambda settings: self.settings.append(list(settings)),
            ["method=ctwa"],
            max_restarts=max_restarts,
            say=self.said.append,
            pause=0.01,
        )


RESUMED = ["method=ctwa", "ctwa.run=all", "ctwa.resume=true"]


def test_a_run_that_fails_is_resumed_until_it_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, (1, "run", 3), (1, "run", 7), (0, "run", 9))

    assert attempts.play() == 0
    assert attempts.settings == [["method=ctwa"], RESUMED, RESUMED]
    assert attempts.said == [
        "the run failed after step 3: restart 1 of 5 in 0.01 s",
        "the run failed after step 7: restart 2 of 5 in 0.02 s",
    ]


@pytest.mark.parametrize("status", [0, 2, 3, 4, 130])
def test_every_other_end_is_the_end(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    attempts = Attempts(monkeypatch, (status, "run", 3))

    assert attempts.play() == status
    assert (len(attempts.settings), attempts.said) == (1, [])


def test_two_runs_that_fail_at_the_same_step_are_two_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several methods by one command the second run may fail where the first one did."""
    attempts = Attempts(monkeypatch, (1, "linear", 5), (1, "guard", 5), (0, "guard", 9))

    assert attempts.play(max_restarts=2) == 0


def test_a_fault_that_repeats_at_its_step_is_not_tried_a_third_time(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, (1, "run", 3), (1, "run", 3))

    assert attempts.play() == 1
    assert attempts.said[-1] == "the run failed twice after step 3, so it is not restarted a third time"


def test_it_is_restarted_no_more_often_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, (1, "run", 1), (1, "run", 2), (1, "run", 3))

    assert attempts.play(max_restarts=2) == 1
    assert len(attempts.settings) == 3
    assert len(attempts.said) == 2


def test_a_run_that_was_asked_to_end_and_failed_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, (1, "run", 1))
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
