"""What a run checks before Ray starts is checked by its dry run, and by `ctwa plan` as far as settings tell it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import ctwa.engine
from ctwa.capacity.seconds import Rates
from ctwa.engine.caid_job import CaidJob
from ctwa.engine.compose import compose_config
from ctwa.engine.gpu_plan import make_plan
from ctwa.engine.job import Job, set_environment, train
from ctwa.engine.prefer_job import PreferJob
from ctwa.engine.train_job import TrainJob
from ctwa.testbed.preferences import make_preferences

KINDS: dict[str, type[Job]] = {"train": TrainJob, "prefer": PreferJob, "caid": CaidJob}
OWN = {
    "train": ["method=mgda", "ctwa.diagnostics.probe=held_out"],
    "prefer": ["data.train_batch_size=8"],
    "caid": ["ctwa.caid.thresholds={accuracy:0.1}", "data.val_max_samples=4", "data.train_batch_size=8"],
}
WHOLE = {"check_config", "check_preference_config"}  # which make others, and check nothing themselves
OF_FILES = {"check_disk", "check_folders", "check_what_is_named"}
OF_MACHINE = {"check_machine", "check_with_verl"}  # the import of verl alone takes longer than a plan
OF_ROWS = {"data", "part", "rows", "tokenize", "tokenizer", "contracts", "prompts"}
"""The arguments of a check that looks at what a plan does not read."""
_is_check = cache(re.compile(r"_?(check|refuse|fit)_").match)  # asked at every call of any function


class Check(NamedTuple):
    """A check that was made.

    Attributes:
        name: of the function.
        arguments: their names.
        within: the checks in which it was made.
    """

    name: str
    arguments: frozenset[str]
    within: frozenset[str]


def checks_of(work: Callable[[], object]) -> set[Check]:
    """The functions of ctwa.engine that check something, as far as some work calls them."""
    engine, made, open_ = str(Path(ctwa.engine.__file__).parent), set[Check](), list[str]()

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not _is_check(code.co_name) or engine not in code.co_filename:
            return
        if event == "return":
            open_.pop()
            return
        made.add(Check(code.co_name, frozenset(code.co_varnames[: code.co_argcount]), frozenset(open_)))
        open_.append(code.co_name)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made


def by_settings(checks: set[Check]) -> set[str]:
    """Those that neither files nor rows nor the machine are needed for."""
    elsewhere = OF_FILES | OF_MACHINE
    found = {each for each in checks if not ({each.name} | each.within) & elsewhere and not each.arguments & OF_ROWS}
    return {each.name for each in found} - WHOLE


def arguments_of(command: str, task_dir: Path, run: Path) -> list[str]:
    if command == "prefer" and not (task_dir / "pairs").exists():
        make_preferences("D", task_dir / "pairs", num_train=40, num_validation=10, num_test=4)
    model = f"actor_rollout_ref.model.path={task_dir / 'model'}"
    return [f"ctwa.run={run}", f"ctwa.task_dir={task_dir}", model, *OWN[command]]


def job_of(command: str, arguments: list[str]) -> Job:
    config = compose_config(arguments, command=command)
    set_environment(config)
    return KINDS[command](config)


@pytest.mark.parametrize("command", KINDS)
def test_a_plan_makes_every_check_that_needs_the_settings_alone(command: str, task_dir: Path, tmp_path: Path) -> None:
    arguments = arguments_of(command, task_dir, tmp_path / "run")
    job_of(command, arguments)  # imports are slow while somebody looks on
    of_run = checks_of(lambda: job_of(command, arguments))
    of_plan = checks_of(lambda: make_plan(arguments, "1xH100", command=command, rates=Rates()))

    names = {each.name for each in of_run}
    assert names >= {"check_folders", "check_machine"}
    assert by_settings(of_run) - {each.name for each in of_plan} == set()
    assert by_settings(of_run) >= {"check_model", "check_token_budgets"}


class RayStarts(BaseException):
    """The moment before it does."""


@pytest.mark.parametrize("command", KINDS)
def test_a_dry_run_makes_every_check_that_is_made_before_ray_starts(
    command: str, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starts(**_: object) -> None:
        raise RayStarts

    monkeypatch.setattr("ray.init", starts)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    jobs: list[Job] = []
    of_dry_run = checks_of(lambda: jobs.append(job_of(command, arguments_of(command, task_dir, tmp_path / "run"))))

    def start() -> None:
        with pytest.raises(RayStarts):
            train(jobs[0], jobs[0].make_folder())

    of_start = checks_of(start)
    asked_of_ray = {"_check_open"}  # the same question, if Ray is another's to that one
    assert {each.name for each in of_start} - {each.name for each in of_dry_run} <= asked_of_ray
    assert "check_auth_mode" in {each.name for each in of_start}
