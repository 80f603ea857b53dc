"""The live view in a terminal, by rich: drawn every two seconds until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from ctwa.report.watch.screen import draw
from ctwa.report.watch.state import WatchedRun

_INTERVAL = 2.0  # s between two looks at the run
NICENESS = 10  # the run goes first


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
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        shown = None
        while True:
            size = console.size
            lines = draw(run, size.width, size.height)
            if shown != (size, lines):  # over a slow line, an unchanged view costs nothing
                live.update(Group(*lines), refresh=True)
                shown = (size, lines)
            ready, _, _ = select.select(keys, [], [], interval)
            if ready and os.read(keys[0], 64) in (b"q", b"Q", b""):
                return
            run.poll()


@contextmanager
def _keys() -> Iterator[list[int]]:
    """Where keys come from one by one, unseen. However the body ends, the terminal is then as it was.

    Ctrl-C and the signals that end a program end the body. Ctrl-Z is without effect: a stopped view would leave the
    shell on its screen.
    """
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    keys = [sys.stdin.fileno()] if sys.stdin.isatty() else []
    settings = [termios.tcgetattr(key) for key in keys]
    try:
        for key in keys:
            tty.setcbreak(key)
        yield keys
    except _End:
        pass
    finally:
        for key, setting in zip(keys, settings, strict=True):
            termios.tcsetattr(key, termios.TCSAFLUSH, setting)
        for number, handler in before.items():
            signal.signal(number, handler)


class _End(BaseException):
    """A signal ends the view."""


def _end(*_: object) -> None:
    raise _End
