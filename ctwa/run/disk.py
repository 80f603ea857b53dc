"""Whether a place can be written; and whether a write failed because the disk is full, which few libraries say."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctwa.errors import CtwaError

_FULL = (errno.ENOSPC, errno.EDQUOT)
FAILS = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT)
"""What a disk says that no longer takes or gives what it should, often without a name. It may again, at a restart."""
# Rust's way (safetensors), and that of errors which come from another process as text.
_SAYS_SO = re.compile(r"No space left on device|Disk quota exceeded|os error (28|122)\b")
# torch.save tells only that less was written than it wanted.
_CAME_SHORT = re.compile(r"inline_container|PytorchStreamWriter|file write failed")
_NO_ROOM = 16 << 20  # bytes: what a write that came short leaves free is less than a buffer


class DiskFull(CtwaError):
    """There is no room left.

    Args:
        where: which disk is full: what `why_full` says.
        what: came of it.
    """

    def __init__(self, where: str, what: str = "") -> None:
        super().__init__(f"{where}{what}; make room, and go on with ctwa.resume=true")
        self.where = where


def check_place(path: Path) -> None:
    """See that a file or folder can be made at a path, or written in, without touching the disk.

    Raises:
        CtwaError: it is under a file, or another user's.
    """
    above = next(place for place in (path, *path.absolute().parents) if place.exists())
    if above != path and not above.is_dir():
        raise CtwaError(f"{path} cannot be written, for {above} is a file: give another place")
    if not os.access(above, os.W_OK | (os.X_OK if above.is_dir() else 0)):
        raise CtwaError(f"{path} cannot be written, for {above} is not yours to: give another place")


def sync(path: Path) -> None:
    """Bring a file, or what a folder lists, to the disk. Some file systems know no such thing of folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def why_full(error: BaseException, folder: Path, *, sure: bool = True) -> str | None:
    """The beginning of a sentence that says which disk is full, if that is why the error was raised; else None.

    Args:
        error: what was raised, here or, through Ray, in another process.
        folder: what was being written, where the error does not say.
        sure: whether it was that; else it, or the temporary folder, is named where it has no room.
    """
    for each in causes(error):
        if isinstance(each, CtwaError):
            return None  # it says itself what is wrong
        is_full = (isinstance(each, OSError) and each.errno in _FULL) or _SAYS_SO.search(str(each)) is not None
        if not is_full and not _CAME_SHORT.search(str(each)):
            continue
        if isinstance(each, OSError) and isinstance(each.filename, str):
            return _sentence(Path(each.filename).parent)
        without_room = [each for each in (folder, Path(tempfile.gettempdir())) if _free(each) < _NO_ROOM]
        if without_room and not (is_full and sure):
            return _sentence(without_room[0])
        if is_full:
            return _sentence(folder) if sure else f"a disk is full, and not that of {folder}"
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from; in the place of one that Ray brought, what another process raised."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(remote := getattr(each, "cause", None), BaseException):
            waiting.insert(0, remote)
            continue
        yield each
        waiting += [each.__cause__, each.__context__]


def let_others_read(folder: Path) -> None:
    """Let the user's umask decide who may read the files below a folder; safetensors lets their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | 0o666 & ~mask)


@contextmanager
def naming_the_disk(path: Path) -> Iterator[None]:
    """Write to a path; a full disk is said in a sentence.

    Raises:
        DiskFull: as it says.
    """
    try:
        yield
    except OSError as error:
        full = why_full(error, path.parent)
        if full is None:
            raise
        raise DiskFull(full, f": {path.name} cannot be written") from error


def _sentence(folder: Path) -> str:
    return f"the disk is full at {folder} ({_free(folder) / 1e6:.0f} MB free there)"


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
