"""The live view in a terminal: draws what has changed every two seconds, and gives the terminal back as it was."""

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console, Group
from rich.live import Live

from ctwa.report.watch.screen import draw
from ctwa.report.watch.state import WatchedRun

_INTERVAL = 2.0  # s between two looks at the run
NICENESS = 10  # the run goes first
_VDISABLE = b"\0"  # no key
_KEY_CODE = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.|.)", re.DOTALL)  # of an arrow, for one


def watch(path: Path | str, *, interval: float = _INTERVAL) -> None:
    """Shows a run until q or Ctrl-C; where the output is no terminal, shows it once.

    Raises:
        CtwaError: no run is there, or a file of it is broken.
    """
    run = WatchedRun(path)
    run.poll()
    console = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        for line in draw(run, console.width, 10_000)[:-1]:
            console.print(line, soft_wrap=True)
        return
    os.nice(NICENESS)
    with _Terminal() as terminal, Live(console=console, screen=True, auto_refresh=False) as live:
        shown = None
        while True:
            size = console.size
            lines = draw(run, size.width, size.height)
            if shown != (size, lines):  # over a slow line, an unchanged view costs nothing
                live.update(Group(*lines), refresh=True)
                shown = (size, lines)
            if terminal.wait(interval) == "end":
                return
            run.poll()


class _Terminal:
    """The terminal's keys one by one, its changes of size, and the signals that end a program.

    Ctrl-Z is without effect: a stopped view would leave the shell on its screen.
    """

    def __enter__(self) -> "_Terminal":
        with ExitStack() as stack:
            self._wake, wake = os.pipe()
            stack.callback(os.close, self._wake)
            stack.callback(os.close, wake)
            os.set_blocking(wake, False)
            self._ended = False

            def on_signal(number: int, _: FrameType | None) -> None:
                self._ended = self._ended or number != signal.SIGWINCH
                os.write(wake, b".")

            for number in (signal.SIGWINCH, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                stack.callback(signal.signal, number, signal.signal(number, on_signal))
            self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
            if self._keys is not None:
                stack.enter_context(_single_keys(self._keys))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait(self, seconds: float) -> str:
        """Waits for so long, or until the window's size changes ("") or the user wants to end the view ("end")."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._ended:
            sources = [self._wake] if self._keys is None else [self._wake, self._keys]
            ready, _, _ = select.select(sources, [], [], left)
            if self._keys in ready:
                typed = os.read(self._keys, 1024)
                if not typed or b"q" in _KEY_CODE.sub(b"", typed).lower():
                    return "end"
            if self._wake in ready:
                os.read(self._wake, 1024)
                break
        return "end" if self._ended else ""


@contextmanager
def _single_keys(descriptor: int) -> Iterator[None]:
    """Hands out keys as they are pressed and shows none of them, until the body ends."""
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    attributes = termios.tcgetattr(descriptor)
    attributes[6][termios.VSUSP] = _VDISABLE
    termios.tcsetattr(descriptor, termios.TCSADRAIN, attributes)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
