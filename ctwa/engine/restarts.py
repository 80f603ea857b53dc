"""``--max-restarts``: when a run that fails is resumed, and what whoever resumes it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ctwa.models.locate import newest_complete, step_of
from ctwa.run.folder import RunFolder
from ctwa.run.trace import iterate_trace

FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds before the first restart, and before any; each waits twice as long as the one before."""
FAILED = 1
"""Exit status of a run that is to be resumed; others were wished for, or are a mistake that would repeat itself."""


def restarted(
    attempt: Callable[[bool], int],
    place: Callable[[], tuple[object, int]],
    asked_to_end: threading.Event,
    *,
    max_restarts: int,
    say: Callable[[str], None],
    pause: float = FIRST_PAUSE,
) -> int:
    """Run something, and again and again while it fails; never a third time after the same step.

    Args:
        attempt: runs it, and is told whether that is for the first time; its exit status.
        place: which run it is that failed, and the last step that was made there.
        asked_to_end: whether a signal has come, after which nothing is run again.
        max_restarts: how often.
        say: tells the user what is waited for.
        pause: seconds before the first restart.

    Returns:
        The exit status of the last attempt.
    """
    status, before = attempt(True), None
    for number in range(1, max_restarts + 1):
        if status != FAILED or asked_to_end.is_set():
            break
        there = place()
        _, made = there
        if there == before:
            say(f"the run failed twice after step {made}, so it is not restarted a third time")
            break
        say(f"the run failed after step {made}: restart {number} of {max_restarts} in {pause:g} s")
        if asked_to_end.wait(pause):
            break
        status, before, pause = attempt(False), there, min(2 * pause, LONGEST_PAUSE)
    return status


def last_step(run: RunFolder | None) -> int:
    """The last step of a run that is in its trace, or in a checkpoint; 0 without any."""
    if run is None:
        return 0
    newest = newest_complete(run.checkpoints)
    saved = 0 if newest is None else step_of(newest)
    made = max((record["step"] for record in iterate_trace(run.metrics)), default=0) if run.metrics.is_file() else 0
    return max(saved, made)


def how_to_go_on(run: RunFolder) -> str:
    """From where a run that has ended goes on, in words."""
    newest = newest_complete(run.checkpoints)
    if newest is None:
        return "there is no checkpoint yet: start it again with ctwa.resume=true"
    return f"the newest checkpoint is {newest.name}: ctwa.resume=true goes on from there"
