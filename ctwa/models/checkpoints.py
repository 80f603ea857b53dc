"""The checkpoints of a run, for whoever looks after them: which are there, what they take, which may go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctwa.models.locate import BEST, is_step_folder, step_folder, step_of, steps
from ctwa.models.seal import SEAL_FILE, damaged_files, is_complete

State = Literal["whole", "complete", "damaged", "unfinished"]


@dataclass(frozen=True)
class Checkpoint:
    """A step's folder.

    Attributes:
        step: after which it was saved.
        folder: where it is.
        size: bytes that it takes.
        state: `whole`: every byte is what was saved; `complete`: every file has its size, and no more is known;
            `damaged`: not any more what was saved; `unfinished`: never saved to its end.
        damaged: the files that are gone, or not what was saved.
        is_best: whether early stopping kept it.
    """

    step: int
    folder: Path
    size: int
    state: State
    damaged: tuple[str, ...] = ()
    is_best: bool = False


def list_checkpoints(checkpoints: Path, *, verify: bool = False) -> list[Checkpoint]:
    """The steps' folders in their order.

    Args:
        checkpoints: the folder of all of them.
        verify: read every byte.
    """
    best = best_step(checkpoints)
    return [_look(step, step_folder(checkpoints, step), verify, best) for step in steps(checkpoints)]


def _look(step: int, folder: Path, verify: bool, best: int | None) -> Checkpoint:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    state: State
    damaged: tuple[str, ...] = ()
    if not (folder / SEAL_FILE).exists():
        state = "unfinished"
    elif verify or not is_complete(folder):
        damaged = damaged_files(folder)
        state = "damaged" if damaged else "whole"
    else:
        state = "complete"
    return Checkpoint(step, folder, size, state, damaged, is_best=step == best)


def best_step(checkpoints: Path) -> int | None:
    """The step that early stopping kept; None without any."""
    best = checkpoints / BEST
    folder = Path(os.readlink(best)) if best.is_symlink() else best
    return step_of(folder) if is_step_folder(folder) else None


def prune(
    checkpoints: Path, *, keep: int, spare: int | None = None, counts: Callable[[Path], bool] = is_complete
) -> list[str]:
    """Remove what is older than the newest complete checkpoints, whichever process has made it.

    Args:
        checkpoints: the folder of all of them.
        keep: how many of the complete ones stay; at least 1.
        spare: a step that stays, old as it may be.
        counts: whether a folder is one of those that stay.

    Returns:
        The names of the folders that were removed; one that cannot be is not among them.
    """
    complete = [step for step in steps(checkpoints) if counts(step_folder(checkpoints, step))]
    old = [step for step in steps(checkpoints) if step < min(complete[-keep:], default=0) and step != spare]
    folders = [step_folder(checkpoints, step) for step in old]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder.name for folder in folders if not folder.exists()]
