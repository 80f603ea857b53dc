"""What reward functions print: handed on to the log, but not without bound."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

MOST, WINDOW = 1_000_000, 60.0
"""Bytes that are handed on within so many seconds; a loop that prints would fill a disk in minutes."""
_LEFT_OUT = "[ctwa: the reward functions print more than {:g} MB a minute: the rest of this minute is left out]\n"
_STDERR = 2


class Output:
    """A pipe that all workers of a pool print into, and a thread that hands on what they print.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read, written = os.pipe()
        #: what the workers are to print into
        self.file = os.fdopen(written, "wb", buffering=0)
        self._thread = threading.Thread(target=self._hand_on, daemon=True, name="ctwa-reward-output")
        self._thread.start()

    def close(self) -> None:
        """Hand on what is left, when the workers have ended; what something they have left prints is lost."""
        self.file.close()
        self._thread.join(timeout=1)

    def _hand_on(self) -> None:
        began, left = self._clock(), MOST
        with os.fdopen(self._read, "rb", buffering=0) as pipe:
            while printed := pipe.read(1 << 16):
                if self._clock() - began > WINDOW:
                    began, left = self._clock(), MOST
                _write(printed[:left])
                if 0 < left < len(printed):
                    _write(b"\n" + _LEFT_OUT.format(MOST / 1e6).encode())
                left = max(left - len(printed), 0)


def _write(printed: bytes) -> None:
    with contextlib.suppress(OSError):  # the log's disk may be full, which the run itself will tell
        while printed:
            printed = printed[os.write(_STDERR, printed) :]
