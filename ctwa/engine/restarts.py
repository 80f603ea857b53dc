"""How far a run has come that has ended, and from where it goes on."""

from __future__ import annotations

from ctwa.models.locate import newest_complete, step_of
from ctwa.run.folder import RunFolder
from ctwa.run.trace import iterate_trace


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
