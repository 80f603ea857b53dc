"""Whether a process writes a file: it holds a lock on it, which the kernel takes from a process that dies."""

from __future__ import annotations

import contextlib
import fcntl
import time
from pathlib import Path
from typing import IO

_LOOKS, _BETWEEN = 4, 0.01  # how often a lock is asked for, and after how many seconds again


def hold(file: IO[bytes]) -> None:
    """Tell `is_held` of this process, as long as the file is open. Where the file system knows no locks, nothing is."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)


def hold_alone(file: IO[bytes]) -> bool:
    """The same where no other process holds it; whether that is so. Of two that begin at one moment one is told no."""
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN)  # who only looks, as `ctwa watch` does every second, has it for less than that
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
            return not hold_alone(file)
    except OSError:  # no file
        return False
