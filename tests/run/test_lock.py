"""Who writes a file, and who only looks."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from ctwa.run import lock


def test_whoever_only_looks_whether_a_file_is_held_keeps_no_run_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "engine.log"
    path.touch()
    with path.open("rb") as watcher, path.open("ab") as run:
        fcntl.flock(watcher, fcntl.LOCK_EX)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(watcher, fcntl.LOCK_UN))  # its look is over
        assert lock.hold_alone(run)
        assert lock.is_held(path)
        with path.open("ab") as other:
            assert not lock.hold_alone(other)
    assert not lock.is_held(path)
