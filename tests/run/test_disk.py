"""A full disk is told from other failures, and where it is."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctwa.errors import CtwaError
from ctwa.run.disk import DiskFull, let_others_read, why_full
from ctwa.run.jsonl import JsonLinesWriter, read_jsonl, write_atomically


class RemoteError(RuntimeError):
    """As Ray brings an error: the traceback as text, what was raised as `cause`."""

    def __init__(self, cause: Exception):
        super().__init__(f"ray::save() {cause!r}")
        self.cause = cause


def with_context(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("the writer died") from cause
    except RuntimeError as raised:
        return raised


SHORT = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2232000 vs 2231892")


@pytest.mark.parametrize(
    ("error", "is_full", "is_full_without_room"),
    [
        (OSError(errno.ENOSPC, "x"), True, True),
        (OSError(errno.EDQUOT, "x"), True, True),
        (OSError(errno.EACCES, "x"), False, False),
        (RuntimeError("No space left on device (os error 28)"), True, True),
        (RuntimeError("os error 280"), False, False),
        (SHORT, False, True),
        (
            RuntimeError("basic_ios::clear: PytorchStreamWriter failed writing file data/3: file write failed"),
            False,
            True,
        ),
        (RemoteError(OSError(errno.ENOSPC, "x")), True, True),
        (RemoteError(SHORT), False, True),
        (RemoteError(ValueError("x")), False, False),
        (with_context(OSError(errno.ENOSPC, "x")), True, True),
        (with_context(ValueError("x")), False, False),
        (CtwaError("a reward said: No space left on device"), False, False),
        (RuntimeError("out of memory"), False, False),
    ],
    ids=repr,
)
def test_a_full_disk_is_told_from_other_failures(error, is_full, is_full_without_room, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert (why_full(error, tmp_path) is not None) == is_full
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**5))
    assert (why_full(error, tmp_path) is not None) == is_full_without_room


def test_the_folder_is_the_errors_own_or_the_one_written_to_or_one_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9 * (Path(path).name != "full")))
    roomy, full = (tmp_path / name for name in ("roomy", "full"))
    for folder in (roomy, full):
        folder.mkdir()
    named, nameless = OSError(errno.ENOSPC, "x", str(tmp_path / "elsewhere" / "file")), OSError(errno.ENOSPC, "x")
    assert why_full(named, roomy) == f"the disk is full at {tmp_path}/elsewhere (1000 MB free there)"
    assert why_full(nameless, roomy) == f"the disk is full at {roomy} (1000 MB free there)"  # a quota, or no inodes
    assert why_full(nameless, full, sure=False) == f"the disk is full at {full} (0 MB free there)"
    assert why_full(nameless, roomy, sure=False) == f"a disk is full, and not that of {roomy}"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(full))
    assert why_full(nameless, roomy, sure=False) == f"the disk is full at {full} (0 MB free there)"
    assert why_full(SHORT, roomy) == f"the disk is full at {full} (0 MB free there)"


def test_a_record_that_does_not_fit_is_said_and_closing_says_no_more(tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    writer = JsonLinesWriter(tmp_path / "events.jsonl")
    with pytest.raises(
        DiskFull, match=r"^the disk is full at .*: events\.jsonl cannot be written; make room, and go on"
    ):
        writer._append({"schema": 1})
    writer.close()


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_beside(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, b"old")
    (tmp_path / "state.json.tmp").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"state\.json cannot be written"):
        write_atomically(path, b"new")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("state.json", b"old")]


def test_a_record_is_written_whole_where_the_system_takes_it_in_parts(tmp_path):
    class Slow:
        """A file that takes ten bytes at a time."""

        def __init__(self, file):
            self.write = lambda data: file.write(data[:10])
            self.fileno, self.close = file.fileno, file.close

    writer = JsonLinesWriter(tmp_path / "a.jsonl")
    writer._file = Slow(writer._file)
    writer._append({"schema": 2, "text": "x" * 100})
    writer.close()
    assert read_jsonl(tmp_path / "a.jsonl") == [{"schema": 2, "text": "x" * 100}]
    assert os.path.getsize(tmp_path / "a.jsonl") > 100


def test_files_of_one_owner_alone_become_as_readable_as_new_ones(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    closed, program = tmp_path / "below" / "model.safetensors", tmp_path / "run.sh"
    for path, mode in ((closed, 0o600), (program, 0o700)):
        path.touch()
        path.chmod(mode)

    mask = os.umask(0o027)
    try:
        let_others_read(tmp_path)
        assert os.umask(0o027) == 0o027  # left as it was
    finally:
        os.umask(mask)

    assert closed.stat().st_mode & 0o777 == 0o640
    assert program.stat().st_mode & 0o777 == 0o740
