"""A run of one's own is told from somebody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ctwa.run.folder import RunFolder, RunInfo

INFO = RunInfo(method="linear", objectives={}, num_steps=1)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"a": 1}, INFO)


def test_a_run_is_its_users_wherever_its_folder_is_moved(run: RunFolder, tmp_path: Path) -> None:
    assert run.is_ours()
    shutil.move(run.path, tmp_path / "moved")
    assert RunFolder(tmp_path / "moved").is_ours()


def test_so_is_one_that_is_resumed_with_other_settings(run: RunFolder) -> None:
    assert RunFolder.create(run.path, {"a": 2}, INFO, resume=True).is_ours()


def test_one_with_another_configuration_or_without_a_mark_is_not(run: RunFolder) -> None:
    config, mark = run.config.read_bytes(), run.origin.read_bytes()
    run.config.write_bytes(config + b"b: 2\n")
    assert not run.is_ours()
    run.config.write_bytes(config)
    for other in (b"", b"\xff", mark[:-1], b"0" * len(mark)):
        run.origin.write_bytes(other)
        assert not run.is_ours()
    run.origin.unlink()
    assert not run.is_ours()
    assert not RunFolder(run.path / "nowhere").is_ours()


def test_one_of_another_user_is_not(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    assert not run.is_ours()


def test_the_key_is_for_its_user_alone(run: RunFolder, state: Path) -> None:
    assert (state / "ctwa" / "key").stat().st_mode & 0o077 == 0
    assert (state / "ctwa").stat().st_mode & 0o077 == 0


def test_a_home_that_cannot_be_written_costs_the_mark_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    assert not RunFolder.create(tmp_path / "other", {"a": 1}, INFO).is_ours()
