"""``--max-restarts``: a run that fails is resumed, by a process that does nothing but wait for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Self

from ctwa.models.locate import newest_complete
from ctwa.run.folder import RunFolder
from ctwa.run.jsonl import iterate_jsonl

FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds before the first restart, and before any; each waits twice as long as the one before."""


class Child:
    """One process after the other, to which signals are handed on.

    Each is the first of a process group of its own: a signal to the group of its parent, as schedulers send it, is for
    the run alone, and not for the processes of its engine, which it needs to save a checkpoint.

    Attributes:
        asked_to_end: set by a signal.
    """

    def __init__(self) -> None:
        self.asked_to_end = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hand_on) for number in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    _signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def run(self, command: Sequence[str]) -> int:
        """Run a command; its exit status."""
        with subprocess.Popen(command, process_group=0) as self._process:
            return self._process.wait()

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self.asked_to_end.set()
        if self._process is not None:
            self._process.send_signal(number)  # nothing where it has ended


def execute_again(
    command: str, settings: Sequence[str], options: Sequence[str], *, max_restarts: int, say: Callable[[str], None]
) -> int:
    """Run a command, and resume its run where it fails.

    Args:
        command: ``train``, ``prefer`` or ``caid``.
        settings: its settings and files.
        options: its options.
        max_restarts: how often the run is resumed.
        say: tells the user what is waited for.

    Returns:
        The exit status of the last attempt.

    Raises:
        CtwaError: a mistake in the settings.
    """
    from ctwa.engine.compose import compose_config

    run = RunFolder(compose_config(settings, command=command).ctwa.run)
    program = [sys.executable, "-m", "ctwa.cli", command, *options]
    # The folder is named once for all: a name made of the time would be another one.
    others = [each for each in settings if not each.startswith("ctwa.run=")]
    first = [*program, *others, f"ctwa.run={run.path}"]
    again = [*(each for each in first if not each.startswith("ctwa.resume=")), "ctwa.resume=true"]
    with Child() as child:
        return restarted(child, first, again, lambda: last_step(run), max_restarts=max_restarts, say=say)


def restarted(
    child: Child,
    command: Sequence[str],
    again: Sequence[str],
    step: Callable[[], int],
    *,
    max_restarts: int,
    say: Callable[[str], None],
    pause: float = FIRST_PAUSE,
) -> int:
    """Run a command, and another one again and again while it fails; never a third time after the same step.

    Args:
        child: runs them.
        command: the first.
        again: the others.
        step: the last step that was made.
        max_restarts: how often.
        say: tells the user what is waited for.
        pause: seconds before the first restart.

    Returns:
        The exit status of the last attempt.
    """
    status, before = child.run(command), None
    for number in range(1, max_restarts + 1):
        if not has_failed(status) or child.asked_to_end.is_set():
            break
        if (made := step()) == before:
            say(f"the run failed twice after step {made}, so it is not restarted a third time")
            break
        say(f"the run failed after step {made}: restart {number} of {max_restarts} in {pause:g} s")
        if child.asked_to_end.wait(pause):
            break
        status, before, pause = child.run(again), made, min(2 * pause, LONGEST_PAUSE)
    return status


def has_failed(status: int) -> bool:
    """Whether a run is to be resumed: it failed (1), or was killed (by a signal: below 0), perhaps for its memory.

    Every other end was wished for, or is a mistake that would repeat itself.
    """
    return status == 1 or status < 0


def last_step(run: RunFolder) -> int:
    """The last step of a run that is in its trace, or in a checkpoint; 0 without any."""
    newest = newest_complete(run.checkpoints)
    saved = 0 if newest is None else int(newest.name.rsplit("_", 1)[1])
    made = max((record["step"] for record in iterate_jsonl(run.metrics)), default=0) if run.metrics.is_file() else 0
    return max(saved, made)
