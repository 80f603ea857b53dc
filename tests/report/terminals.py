"""A program in a terminal of its own: a pseudo-terminal that it controls, and the screen that its output draws."""

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence

import pyte

# Takes the pseudo-terminal as its controlling one: its keys make signals, its changes of size too.
_START = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
_PATIENCE = 60.0  # s


class Terminal:
    """Starts a Python program in a terminal; closed by `with`, which ends the program."""

    def __init__(self, arguments: Sequence[str], *, columns: int = 80, lines: int = 24):
        self._leader, self._terminal = os.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        #: everything the program wrote
        self.output = b""
        self._set_size(columns, lines)
        self.settings = termios.tcgetattr(self._terminal)
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, sys.executable, *arguments],
            stdin=self._terminal,
            stdout=self._terminal,
            stderr=self._terminal,
            start_new_session=True,
            env=environment,
        )

    def shows(self, *texts: str) -> "Terminal":
        """Waits until all the texts are on the screen."""
        self._wait(lambda: all(text in self.text for text in texts), f"{texts} on the screen")
        return self

    def hides(self, text: str) -> "Terminal":
        """Waits until a text is not on the screen."""
        self._wait(lambda: text not in self.text, f"{text!r} to leave the screen")
        return self

    def ends(self) -> int:
        """Waits until the program has ended; returns its exit code."""
        self._wait(lambda: self.process.poll() is not None, "the end of the program")
        self._read(0.0)
        return self.process.returncode

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(self._screen.display)

    @property
    def settings_now(self) -> list:
        """How the terminal is set: its echo, its signals and so on."""
        return termios.tcgetattr(self._terminal)

    def type(self, keys: str) -> None:
        """Presses keys."""
        os.write(self._leader, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Gives the window another size."""
        self._screen.resize(lines, columns)
        self._screen.erase_in_display(2)
        self._set_size(columns, lines)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        until, ended = time.monotonic() + _PATIENCE, False
        while not reached():
            if time.monotonic() > until or (ended and not reached()):
                raise AssertionError(f"waited in vain for {what}:\n{self.text}")
            ended = self.process.poll() is not None  # before the last of its output is read
            self._read(0.05)

    def _read(self, seconds: float) -> None:
        while select.select([self._leader], [], [], seconds)[0]:
            data = os.read(self._leader, 65536)
            self.output += data
            self._stream.feed(data)
            seconds = 0.0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)
        os.close(self._terminal)
