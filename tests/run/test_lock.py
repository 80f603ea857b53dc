"""Who writes a file, and who only looks."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from ctwa.errors import CtwaError
from ctwa.run import lock
from ctwa.run.folder import RunFolder, RunInfo


def test_whoever_only_looks_whether_a_file_is_held_keeps_no_run_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "engine.log"
    path.touch()
    with path.open("rb") as watcher, path.open("ab") as run:
        fcntl.flock(watcher, fcntl.LOCK_EX)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(watcher, fcntl.LOCK_UN))  # its look is over
        assert lock.hold(run)
        assert lock.is_held(path)
        with path.open("ab") as other:
            assert not lock.hold(other)
    assert not lock.is_held(path)


def test_of_two_runs_that_begin_at_one_moment_the_second_leaves_the_firsts_folder_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has seen an empty folder, and waits until the first has begun."""
    info = RunInfo(method="linear", objectives={}, num_steps=1)
    flock = fcntl.flock

    def wait(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        RunFolder.create(tmp_path / "run", {"of": "the first"}, info)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", wait)
    with pytest.raises(CtwaError, match="already holds a run: write resume=true to continue it"):
        RunFolder.create(tmp_path / "run", {"of": "the second"}, info)
    assert (tmp_path / "run" / "config.yaml").read_text() == "of: the first\n"
    assert (tmp_path / "run" / "run.json").is_file()
    assert not (tmp_path / "run" / "config.1.yaml").exists()
