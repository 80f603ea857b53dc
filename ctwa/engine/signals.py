"""The signals that ask a run to end, and what becomes of them.

While steps are made, SIGTERM, SIGUSR1 and the first Ctrl-C are noted: the trainer looks after every step, saves a
checkpoint and ends. Where there is nothing to save (the start, CAID's sampling) they end the run at once, as a second
Ctrl-C does anywhere, and as happens where the step does not end in time.

"At once" is a KeyboardInterrupt in the main thread: of the exceptions that a handler can raise, it is the one that Ray
lets out of its waiting.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1"}


class Interruption(NamedTuple):
    """A signal has ended the run."""

    by: str
    step: int  # the last one made


def _say_nothing(text: str) -> None:
    del text


class EndRequest:
    """Whether a signal has asked this process to end its run, and how long it may wait with that.

    Attributes:
        by: what asked for it: "SIGTERM", "SIGUSR1" or "Ctrl-C".
        insisted: whether Ctrl-C was pressed (again) after that.
        overdue: whether the step that was waited for has not ended within ``within`` seconds.
        fault: what is wrong with the run, where that and no signal ends it.
        within: how long is waited.
        say: tells the user what was understood, from within a signal handler.
    """

    def __init__(self) -> None:
        self._process: int | None = None  # while it listens
        self._reset()

    def _reset(self) -> None:
        self.by: str | None = None
        self.insisted = False
        self.overdue = False
        self.fault: str | None = None
        self.within = 600.0
        self.say: Callable[[str], None] = _say_nothing
        self._waits = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the body runs; none outside of the main thread, where Python allows no handler."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (*_NAMES, signal.SIGALRM)}
        self._reset()
        self._process = os.getpid()
        self.take_signals()
        signal.signal(signal.SIGALRM, self._is_overdue)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._process = None
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_signals(self) -> None:
        """Put the handlers in their places, again after Ray has replaced that of SIGTERM; only while `listening`."""
        if self._process is not None:
            for number in _NAMES:
                signal.signal(number, self._asked)

    def step_begins(self) -> None:
        """From now on a signal waits for the trainer, which is to ask after every step, and to save."""
        if self.by is not None and not self._waits:
            raise KeyboardInterrupt  # the one that was raised was lost: in a destructor, say
        self._waits = True

    def run_begins(self) -> None:
        """Another run of this process begins, which has nothing to save yet: a signal ends it at once."""
        self._waits = False

    def all_is_saved(self) -> None:
        """From now on a signal ends the run at once, and so does one that has come since the trainer last asked."""
        self._waits = False
        if self.by is not None:
            raise KeyboardInterrupt

    def fail(self, fault: str) -> None:
        """End the run at once for what is wrong with it; called from another thread than the main one."""
        if self._process is not None:
            self.fault = fault
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)  # type: ignore[arg-type]

    def explains(self, error: BaseException | None) -> bool:
        """Whether the error is the run's end by a signal, or came of cutting something short then."""
        while error is not None:
            if isinstance(error, KeyboardInterrupt):
                return True
            # While it starts, Ray has a handler of its own that exits with the signal's number.
            if self._process is not None and isinstance(error, SystemExit) and error.code == signal.SIGTERM:
                self.by = self.by or "SIGTERM"
                return True
            error = error.__context__
        return False

    def _asked(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A process forked off, a data loader's say. The terminal sends Ctrl-C to all: the run needs them still.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.by is None:
            self.by = _NAMES[signal.Signals(number)]
            signal.setitimer(signal.ITIMER_REAL, self.within)
            if self._waits:
                again = " again" if number == signal.SIGINT else ""
                self.say(f"{self.by}: saving after this step; press Ctrl-C{again} to end at once")
                return
            self.say(f"{self.by}: ending")
        elif number == signal.SIGINT:
            self.insisted = True
        else:
            return  # schedulers repeat themselves
        raise KeyboardInterrupt

    def _is_overdue(self, *_: object) -> None:
        self.overdue = self.fault is None
        raise KeyboardInterrupt


end_request = EndRequest()
"""Of this process: it has one set of signal handlers."""
