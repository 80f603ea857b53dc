"""Where Ray's workers import from (an end-to-end run has a folder of a package's name in its current directory)."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest
from ray._private import worker

from ctwa.engine.checks.worker_path import WorkerPath


def test_it_is_the_folder_of_the_program_where_that_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    monkeypatch.chdir(tmp_path)
    assert WorkerPath()._py_driver_sys_path == []
    monkeypatch.syspath_prepend(os.path.realpath(tmp_path))
    assert WorkerPath()._py_driver_sys_path == [os.path.realpath(tmp_path)]


def test_ray_asks_before_it_adds_the_current_directory() -> None:
    source = inspect.getsource(worker.connect)
    condition, _, then = source.partition("current_directory = os.path.abspath(os.path.curdir)")

    assert then
    assert condition.rstrip().endswith("not job_config._runtime_env_has_working_dir():")
    assert WorkerPath()._runtime_env_has_working_dir()
