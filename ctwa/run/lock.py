"""Whether a process writes a file: it holds a lock on it, which the kernel takes from a process that dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_TRIES, _BETWEEN = 4, 0.01  # how often a lock is asked for, and after how many seconds again


def hold(file: IO[bytes]) -> bool:
    """Tell `is_held` of this process, as long as the file is open; whether no other process holds it.

    Where the file system knows no locks, nobody is told, and nobody is seen to hold it.
    """
    for number in range(_TRIES):
        if number:
            time.sleep(_BETWEEN)  # who only looks whether it is held has it for less than that
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError:  # no locks
            return True
        return True
    return False


def is_held(path: Path) -> bool:
    """Whether a process is seen to `hold` the file; on some network file systems only those of this machine are."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no file, or no locks
        return False
    return False


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in the body with this folder. Where it cannot be locked, nobody waits."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
