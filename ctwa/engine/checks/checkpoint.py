"""What a run is to go on from: seen to be whole, and ours to load, before anything starts."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig

from ctwa.engine.checkpoint import STATE_FILE, find_resumption, num_ranks_of, read_state, shard_file
from ctwa.errors import CtwaError
from ctwa.run.text import listed

TRUST = "ctwa.trust_checkpoint=true"
"""What a user writes who knows who made a checkpoint."""
KNOWN = frozenset(
    {
        # A sharded tensor.
        "torch.distributed.device_mesh.DeviceMesh",
        "torch.distributed.tensor.DTensor",
        "torch.distributed.tensor._dtensor_spec.DTensorSpec",
        "torch.distributed.tensor._dtensor_spec.ShardOrderEntry",
        "torch.distributed.tensor._dtensor_spec.TensorMeta",
        "torch.distributed.tensor.placement_types.Replicate",
        "torch.distributed.tensor.placement_types.Shard",
        "torch.distributed.tensor.placement_types._StridedShard",
        # The state of numpy's generator.
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray._reconstruct",
        "numpy.dtype",
        "numpy.ndarray",
    }
)
"""What verl's checkpoints name beside the things that torch takes for harmless; none of it runs code of a file's."""


KINDS = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
"""What a resumed run loads, and what the files of it are called."""
_CONTENTS = "actor_rollout_ref.actor.checkpoint"


def check_contents(config: DictConfig) -> None:
    """See that what is saved can be gone on from."""
    contents = config.actor_rollout_ref.actor.checkpoint
    saved, loaded = list(contents.save_contents), list(contents.load_contents)
    if "model" not in saved or "model" not in loaded:
        key, value = ("load_contents", loaded) if "model" in saved else ("save_contents", saved)
        raise CtwaError(
            f"{_CONTENTS}.{key}=[{','.join(value)}] has no model, the ranks' own weights, without which no run can be "
            "resumed: write model too"
        )
    if unsaved := [each for each in loaded if each not in saved]:
        left = ",".join(each for each in loaded if each in saved)
        raise CtwaError(
            f"{_CONTENTS}.save_contents=[{','.join(saved)}] leaves out {' and '.join(unsaved)}, which a resumed run "
            f"loads: write {_CONTENTS}.load_contents=[{left}] to resume without, or save it too"
        )


def check_checkpoint(config: DictConfig, checkpoints: Path) -> None:
    """Check what ``ctwa.resume=true`` would go on from.

    Raises:
        CtwaError: none of the checkpoints is whole; the newest whole one lacks what some rank saved, or is FSDP1's and
            of another number of ranks; or loading it could run code.
    """
    for path in sorted(checkpoints.glob("global_step_*")) if checkpoints.is_dir() else ():
        if re.fullmatch(r"global_step_\d+", path.name, re.ASCII) and not path.is_dir():
            raise CtwaError(f"{path} is no folder, and the checkpoint of that step is to be one: take it away")
    found = find_resumption(checkpoints)
    if found.folder is None:
        if found.damaged or len(found.unfinished) > 1:  # a run that dies while it saves for the first time leaves one
            named = found.left_out() or f"{', '.join(folder.name for folder in found.unfinished)} have no complete.json"
            raise CtwaError(
                f"none of the checkpoints in {checkpoints} is whole: {named}; restore their files, or move the "
                "checkpoints away to start over"
            )
        return
    if (found.folder / STATE_FILE).exists():
        read_state(found.folder)  # of this version, and no other file
    _check_ranks(config, found.folder)
    if not config.ctwa.trust_checkpoint:
        _refuse_foreign_code(found.folder)


def _check_ranks(config: DictConfig, checkpoint: Path) -> None:
    """See that what every rank has saved is there, and that those that are to be can load it."""
    policy = checkpoint / "actor"
    if (saved := num_ranks_of(policy)) is None:
        return
    loaded = [each for each in config.actor_rollout_ref.actor.checkpoint.load_contents if each in KINDS]
    missing: dict[str, list[int]] = {
        each: [rank for rank in range(saved) if not shard_file(policy, KINDS[each], saved, rank).is_file()]
        for each in loaded
    }
    if unsaved := [each for each in loaded if len(missing[each]) == saved and each != "model"]:
        left = ",".join(each for each in loaded if each not in unsaved)
        raise CtwaError(
            f"{checkpoint} was saved without {' and '.join(unsaved)} ({_CONTENTS}.save_contents): write "
            f"{_CONTENTS}.load_contents=[{left}] to go on without"
        )
    if ranks := sorted({rank for each in missing.values() for rank in each}):
        raise CtwaError(
            f"{checkpoint} lacks what {listed([f'rank {rank}' for rank in ranks])} of {saved} saved: a run folder "
            "lies on a file system that all nodes share (docs/cluster.md); bring their files here, or go on from "
            "another checkpoint"
        )
    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if saved != num_ranks and config.actor_rollout_ref.actor.strategy != "fsdp2":
        raise CtwaError(
            f"{checkpoint} was saved by {saved} rank{'s' * (saved > 1)}, and the run has trainer.nnodes x "
            f"trainer.n_gpus_per_node = {num_ranks}: only FSDP2's checkpoints can be dealt out anew; write as many as "
            "there were"
        )


def _refuse_foreign_code(checkpoint: Path) -> None:
    """Verl unpickles what it saved, which runs whatever a file names: so each may name only what verl's own do."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for folder in sorted(checkpoint.rglob("*")):
        if folder.is_symlink() and folder.is_dir():
            raise CtwaError(
                f"{folder} leads to another folder, and what is there is not looked into: put the folder itself in its "
                f"place, or write {TRUST} if you know who made it"
            )
    for file in sorted(checkpoint.rglob("*.pt")):
        try:
            foreign = sorted(set(get_unsafe_globals_in_checkpoint(str(file))) - KNOWN)
        except Exception as error:  # whatever a file of any content leads to
            raise CtwaError(
                f"{file} is no file that torch saved ({type(error).__name__}: {error}): restore it, or take "
                f"{checkpoint} away to go on from an earlier one"
            ) from error
        if foreign:
            raise CtwaError(
                f"loading {file} could run code: it names {', '.join(foreign[:3])}, which no checkpoint of ctwa does; "
                f"write {TRUST} if you know who made it"
            )
