"""The process that waits for a run: the command itself, of which the run is a child.

What must outlive the run is here, for the run may end without a word: killed for its memory, crashed, or ended by Ray,
which exits where its raylet has died. The keeper hands signals on, says what the run could not say, and ends what the
run has left. It imports nothing heavy and starts no thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import NamedTuple, Self

from ctwa.engine.process_tree import descendants
from ctwa.engine.restarts import how_to_go_on, last_step
from ctwa.errors import CtwaError, signal_name
from ctwa.run.folder import RunFolder

FAILED = 1
"""Exit status of a run that is to be resumed; others were wished for, or are a mistake that would repeat itself."""
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds before the first restart, and before any; each waits twice as long as the one before."""
GRACE = 10.0
"""Seconds that the processes of a run have to end by themselves, when it has ended."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGTSTP)
_SUBREAPER, _PARENT_DEATH = 36, 1  # of Linux' prctl
_channel: int | None = None  # in the run: leads to its keeper
_keeper: int | None = None  # in the run: its keeper's process id


class Ended(NamedTuple):
    """How a run ended.

    Attributes:
        status: of its process; below 0 a signal's.
        told: what it has told of itself: see `tell`.
    """

    status: int
    told: Mapping[str, str]


class Keeper:
    """Runs one process after the other, to which signals are handed on.

    Each is the first of a process group of its own: a signal to the group of the keeper, as schedulers send it, is for
    the run alone, and not for the processes of its engine, which it needs to save a checkpoint. Where the keeper is
    killed the run is told to end.

    Attributes:
        asked_to_end: set by a signal.
    """

    def __init__(self) -> None:
        self.asked_to_end = threading.Event()
        self._run: int | None = None  # its process id

    def __enter__(self) -> Self:
        _prctl(_SUBREAPER, 1)  # what the run leaves becomes the keeper's
        self._before = {number: signal.signal(number, self._hand_on) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, work: Callable[[], None]) -> Ended:
        """Do some work in a process of its own; how that ended, when all that it has started has ended too.

        In the new process this never returns: it ends with the work.
        """
        theirs, ours = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        keeper = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # one that comes now is handed on when there is a run
        self._run = os.fork()
        if self._run == 0:
            os.close(theirs)
            self._become_run(keeper, ours)
            try:
                work()
                sys.exit()
            finally:
                tell(end="with an exit status or an exception")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(ours)
        status = self._wait()
        end_all_children(GRACE)
        with os.fdopen(theirs, "rb") as channel:
            os.set_blocking(theirs, False)  # should something have the other end still
            lines = (channel.read() or b"").splitlines()
        told: dict[str, str] = {}
        for line in lines:
            told |= json.loads(line)
        return Ended(status, told)

    def _become_run(self, keeper: int, channel: int) -> None:
        global _channel, _keeper
        _channel, _keeper = channel, keeper
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # who asked the terminal would be stopped: it is the keeper's
        self.__exit__()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _prctl(_PARENT_DEATH, signal.SIGTERM)
        if os.getppid() != keeper:
            os._exit(1)

    def _wait(self) -> int:
        """Until the run has ended; its status. What it has left meanwhile to be waited for is, too."""
        while True:
            process, status = os.waitpid(-1, 0)
            if process == self._run:
                self._run = None
                return os.waitstatus_to_exitcode(status)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGTSTP:  # Ctrl-Z: all stop, and go on with the keeper
            self._send(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._send(signal.SIGCONT)
            return
        self.asked_to_end.set()
        self._send(number)

    def _send(self, number: int) -> None:
        if self._run is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended this moment
                os.kill(self._run, number)


def tell(**words: str) -> None:
    """Tell the keeper of this run, if it has one, what it is to know should the run end without a word.

    It asks for the ``folder``, for what ``ctwa.run`` is to be where the command is resumed (else the folder; as
    ``resume``), for a ``fault`` that may end the run at any moment, and for the ``end``, where the run tells the user
    itself what became of it.
    """
    if _channel is not None:
        with contextlib.suppress(BrokenPipeError):  # the keeper is gone
            os.write(_channel, json.dumps(words).encode() + b"\n")


def end_by(fault: str) -> None:
    """End this run's process, whose main thread waits where nothing reaches it: its keeper says why.

    Nothing is done where it has none.
    """
    if _channel is not None:
        tell(fault=fault)
        os._exit(1)


def keeper_here() -> int | None:
    """The process id of this run's keeper; None where it has none, or has lost it."""
    return _keeper if os.getppid() == _keeper else None


def keep(
    work: Callable[[Sequence[str]], None],
    settings: Sequence[str],
    *,
    max_restarts: int,
    say: Callable[[str], None],
    pause: float = FIRST_PAUSE,
) -> int:
    """Run a command in a process of its own, and again where it fails; never a third time after the same step.

    Args:
        work: the command.
        settings: its settings and files.
        max_restarts: how often the run is resumed.
        say: tells the user what became of the run, and what is waited for.
        pause: seconds before the first restart.

    Returns:
        The exit status: of the last attempt; 1 where that was killed.
    """
    run: RunFolder | None = None
    before: tuple[object, int] | None = None  # which run it was that failed, and the last step that was made there
    with Keeper() as keeper:
        number = 0
        while True:
            ended = keeper.run(partial(work, settings))
            if "folder" in ended.told:
                run = RunFolder(ended.told["folder"])
                settings = resuming(settings, ended.told.get("resume", ended.told["folder"]))
            status = _status(ended, run, say)
            if status != FAILED or number == max_restarts or keeper.asked_to_end.is_set():
                return status
            there = (run and run.path, made := last_step(run))
            if there == before:
                say(f"the run failed twice after step {made}, so it is not restarted a third time")
                return status
            number += 1
            say(f"the run failed after step {made}: restart {number} of {max_restarts} in {pause:g} s")
            if keeper.asked_to_end.wait(pause):
                return status
            before, pause = there, min(2 * pause, LONGEST_PAUSE)


def _status(ended: Ended, run: RunFolder | None, say: Callable[[str], None]) -> int:
    """The exit status of an attempt; what became of one that could not say so is said, and noted in its folder."""
    if "end" in ended.told and ended.status >= 0:
        return ended.status
    text = obituary(ended, run)
    say(text)
    if run is not None:
        _note(text, run)
    return FAILED


def resuming(settings: Sequence[str], folder: str) -> list[str]:
    """The settings of a run that is to go on in its folder, whose name may have been made of the time."""
    others = [each for each in settings if not each.startswith(("ctwa.run=", "ctwa.resume="))]
    return [*others, f"ctwa.run={folder}", "ctwa.resume=true"]


def obituary(ended: Ended, folder: RunFolder | None) -> str:
    """What is known of a run that ended without a word."""
    why = ended.told.get("fault")
    if ended.status < 0:
        name = signal_name(-ended.status)
        how = f"was killed ({name}): by somebody, or because the machine's memory was full"
        if name != "SIGKILL":
            how = f"crashed, or was ended from outside ({name})"
    else:
        how = f"was ended from within{'' if why else ', without a word'} (exit status {ended.status})"
    because = f"{why}; with it the run's process {how}" if why else f"the run's process {how}"
    if folder is None:
        return f"{because}, before the run began"
    step = last_step(folder)
    where = f"after step {step}" if step else "before its first step was made"
    return f"failed {where}: {because}; {how_to_go_on(folder)}"


def _note(text: str, folder: RunFolder) -> None:
    from ctwa.run.trace import EventWriter

    # The disk may be full, or the folder gone: the terminal has it.
    with contextlib.suppress(OSError, CtwaError), EventWriter(folder.events) as events:
        events.write("error", text, step=last_step(folder))


def end_all_children(grace: float) -> None:
    """Wait until no child of this process is left; kill those that take too long, and what they have started."""
    until = time.monotonic() + grace
    while _reaped() and time.monotonic() < until:
        time.sleep(0.02)
    until = time.monotonic() + grace
    while _reaped() and time.monotonic() < until:
        for process in descendants([os.getpid()]):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def _reaped() -> bool:
    """Take leave of the children that have ended; whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
