"""A checkpoint that is either whole or not there.

verl writes a checkpoint's files in place and names the newest one in a marker it writes in place too: a crash leaves a
half-written folder or an empty marker. Here a step's folder counts only with a seal (`ctwa.models.seal`), written last
and atomically. Resuming takes the newest folder whose seal holds to the byte; verl's marker is not read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import safe_open

from ctwa.errors import CtwaError
from ctwa.models.checkpoints import prune
from ctwa.models.locate import step_folder, steps
from ctwa.models.seal import SEAL_FILE, damaged_files, seal
from ctwa.run.disk import DiskFull, let_others_read, why_full
from ctwa.run.jsonl import write_atomically

STATE_FILE = "ctwa_state.json"
STATE_VERSION = 1


@contextmanager
def saving(folder: Path, state: Mapping[str, Any], *, keep: int | None, spare: int | None = None) -> Iterator[None]:
    """Save a step: our state, then what the body writes into the step's folder, then the seal.

    Older checkpoints make room first, so that there are never more than the newest ``keep`` (2, where that is 1).

    Args:
        folder: the step's.
        state: what adapts beside the policy.
        keep: checkpoints to keep, this one among them; None or 0 for all.
        spare: a step whose checkpoint stays, old as it may be.

    Raises:
        DiskFull: what was there of the step is removed.
    """
    if keep:
        prune(folder.parent, keep=max(keep - 1, 1), spare=spare)
    try:
        write_state(folder, state)
        yield
        let_others_read(folder)
        seal(folder)
    except Exception as error:
        full = error.where if isinstance(error, DiskFull) else why_full(error, folder)
        if full is None:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise DiskFull(full, f": {folder.name} could not be saved, and what there was of it is removed") from error
    if keep:
        prune(folder.parent, keep=keep, spare=spare)


class Resumption(NamedTuple):
    """What a resumed run finds of its checkpoints.

    Attributes:
        folder: the newest one that is whole; None where there is none.
        damaged: those after it that were finished, and are not any more what was saved: which files.
        unfinished: those that never got a seal, of runs that died while they saved.
    """

    folder: Path | None
    damaged: dict[Path, tuple[str, ...]]
    unfinished: list[Path]

    def left_out(self) -> str:
        """What is not gone on from, and why, as a list in words; empty where that is nothing."""
        return ", ".join(
            f"{folder.name} is not what was saved ({', '.join(files[:3])}{', ...' if len(files) > 3 else ''})"
            for folder, files in self.damaged.items()
        )

    def left_behind(self, verb: Literal["was", "will be"]) -> str:
        """What becomes of those that are not gone on from, as the end of a sentence; empty where there are none."""
        kept, said = "kept as damaged_*", ""
        if self.unfinished:
            names = ", ".join(folder.name for folder in self.unfinished)
            said += f"; {names} was not saved to its end, and {verb} {'removed' if self.folder else kept}"
        if self.damaged:
            said += f"; {self.left_out()}, and {verb} {kept}"
        return said


def find_resumption(checkpoints: Path) -> Resumption:
    """Look for the checkpoint to go on from; every byte of it is read, and nothing changed."""
    folders = [step_folder(checkpoints, step) for step in reversed(steps(checkpoints))]
    # A save begins with our state: what has neither is nothing that a run left.
    unfinished = [folder for folder in folders if _begun(folder) and not (folder / SEAL_FILE).exists()]
    damaged: dict[Path, tuple[str, ...]] = {}
    for folder in folders:
        if not (folder / SEAL_FILE).exists():
            continue
        if not (files := damaged_files(folder)):
            return Resumption(folder, damaged, unfinished)
        damaged[folder] = files
    return Resumption(None, damaged, unfinished)


def _begun(folder: Path) -> bool:
    return any((folder / name).exists() for name in (STATE_FILE, f"{STATE_FILE}.tmp", "actor", "data.pt"))


def clear_the_way(found: Resumption) -> str:
    """Remove what was never finished and set aside what is damaged, so that their steps can be saved anew.

    Where there is nothing to go on from, what was never finished is set aside too: perhaps only its seal was lost.

    Returns:
        What was done, as the end of a sentence; empty where it was nothing.
    """
    for folder in found.unfinished:
        if found.folder is None:
            _aside(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in found.damaged:
        _aside(folder)
    return found.left_behind("was")


def _aside(folder: Path) -> None:
    names = (f"damaged_{folder.name}{suffix}" for suffix in ("", *(f".{number}" for number in range(1, 1000))))
    folder.rename(next(place for name in names if not (place := folder.with_name(name)).exists()))


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Save what adapts beside the policy, and break the folder's seal, should one be left from an earlier try."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SEAL_FILE).unlink(missing_ok=True)
    _write(folder / STATE_FILE, {"version": STATE_VERSION, **state})


def read_state(folder: Path) -> dict[str, Any]:
    """What :func:`write_state` saved.

    Raises:
        CtwaError: there is none, or it is of another version.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise CtwaError(f"{folder} has no {STATE_FILE}: resume from a checkpoint that ctwa made, or start a new run")
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
        version = state.pop("version")
        if not isinstance(state.get("step", 0), int):
            raise TypeError("its step is no whole number")
        if not isinstance(state.get("metrics", {}), dict):
            raise TypeError("its metrics have no names")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CtwaError(
            f"{path} is no state of ctwa ({error!r}): restore it, or take {folder} away to go on from an earlier one"
        ) from error
    if version != STATE_VERSION:
        raise CtwaError(f"{path} is of another version of ctwa: resume with that version, or start a new run")
    return state


def num_ranks_of(policy: Path) -> int | None:
    """How many ranks have saved a policy, in the folder of that name; None where no ranks have.

    Raises:
        CtwaError: it cannot be read.
    """
    if not (file := policy / "fsdp_config.json").is_file():
        return None
    try:
        return int(json.loads(file.read_bytes())["world_size"])
    except (ValueError, TypeError, KeyError) as error:
        raise CtwaError(f"{file} cannot be read ({error!r}): restore it, or take {policy.parent} away") from error


def shard_file(policy: Path, kind: str, num_ranks: int, rank: int) -> Path:
    """Where a rank saves its part: of the ``model``, the ``optim``, or the ``extra_state``."""
    return policy / f"{kind}_world_size_{num_ranks}_rank_{rank}.pt"


def correct_config(model: Path) -> None:
    """Let a saved model's ``config.json`` name the type of its tensors, and no attention.

    verl writes the tensors as they are trained, in fp32, beside a config that says bfloat16: plain ``from_pretrained``
    would then round them to eight bits. The attention that a run computes with may be one that only ctwa knows.
    """
    with safe_open(min(model.glob("*.safetensors")), framework="pt") as tensors:
        dtype = tensors.get_tensor(min(tensors.keys())).dtype
    path = model / "config.json"
    config = json.loads(path.read_text())
    config.pop("torch_dtype", None)  # its name in transformers 4, which reads both
    config.pop("attn_implementation", None)
    _write(path, {**config, "dtype": str(dtype).removeprefix("torch.")})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode())
