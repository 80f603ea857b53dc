"""A checkpoint of another number of ranks: each rank takes its part of what all of those have saved.

verl's ranks save a file each, and load the one that bears their number. What is split over them is put together here,
one tensor at a time from files that are mapped into memory, and split anew: every number is the one that was saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.placement_types import Placement
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

from ctwa.engine.checkpoint import num_ranks_of, shard_file
from ctwa.gradients.store import local_part

PREVIOUS = "previous"
"""The kind of the file in which a rank saves what a probe has kept."""
_STATE_OF_NUMPY: list[Any] = [
    np.dtype,
    np.ndarray,
    type(np.dtype(np.uint32)),
    np.empty(0).__reduce__()[0],  # what makes an array of one that was pickled
]
"""What the state of numpy's generator is made of; all else that is saved, torch takes for harmless by itself."""


class AnyRanks(FSDPCheckpointManager):
    """verl's, which loads what another number of ranks has saved as well."""

    def load_checkpoint(self, local_path: str | None, *arguments: Any, **options: Any) -> None:
        """Load as verl does, where as many ranks have saved; else put the parts together and take this rank's."""
        folder = None if local_path is None else Path(local_path)
        num_saved = None if folder is None else num_ranks_of(folder)
        if folder is None or num_saved in (None, self.world_size):
            super().load_checkpoint(local_path, *arguments, **options)
            return
        if self.should_load_model:
            self._load_model(read_shards(folder, "model", num_saved))
        if self.should_load_optimizer:
            self._load_optimizer(read_shards(folder, "optim", num_saved))
        if self.should_load_extra:
            self._load_extra(folder, num_saved)
        torch.distributed.barrier()

    def _load_model(self, shards: Sequence[Mapping[str, Any]]) -> None:
        like = self.model.state_dict()
        part = {name: part_of_this_rank([shard[name] for shard in shards], like[name]) for name in shards[0]}
        self.model.load_state_dict(part, strict=not self.is_lora_only_state_dict(shards[0]))

    def _load_optimizer(self, shards: Sequence[Mapping[str, Any]]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state = {
            index: {
                key: part_of_this_rank([shard["state"][index][key] for shard in shards], parameters[index])
                for key in values
            }
            for index, values in shards[0]["state"].items()
        }
        self.optimizer.load_state_dict({"state": state, "param_groups": shards[0]["param_groups"]})

    def _load_extra(self, folder: Path, num_saved: int) -> None:
        """The scheduler, which is the same on all ranks; and the generators' state of a rank that there was."""
        extra = _load(shard_file(folder, "extra_state", num_saved, min(self.rank, num_saved - 1)))
        if self.rank < num_saved and "rng" in extra:
            self.load_rng_state(extra["rng"])
        if self.lr_scheduler is not None and extra["lr_scheduler"] is not None:
            self.lr_scheduler.load_state_dict(extra["lr_scheduler"])


def read_shards(folder: Path, kind: str, num_ranks: int) -> list[Any]:
    """What each of so many ranks has saved of a kind; the tensors stay on the disk until they are looked at."""
    return [_load(shard_file(folder, kind, num_ranks, rank)) for rank in range(num_ranks)]


def previous_weights(folder: Path, num_saved: int, trained: Mapping[str, Tensor]) -> list[Tensor]:
    """This rank's part of the weights that a probe has kept: plain tensors, which were split as the model's own are."""
    layouts = read_shards(folder, "model", num_saved)[0]
    kept = read_shards(folder, PREVIOUS, num_saved)
    return [
        local_part(dealt_out(joined([copies[index] for copies in kept], layouts[name]), like)).cpu()
        for index, (name, like) in enumerate(trained.items())
    ]


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals(_STATE_OF_NUMPY):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def part_of_this_rank(parts: Sequence[Any], like: Tensor) -> Any:
    """What this rank holds of something that other ranks held parts of.

    Args:
        parts: by rank; what is no sharded tensor is the same on all.
        like: split as the part is to be.
    """
    if not isinstance(parts[0], DTensor):
        return parts[0]
    return dealt_out(joined([part.to_local() for part in parts], parts[0]), like)


def joined(locals_R: Sequence[Tensor], layout: DTensor) -> Tensor:
    """A whole tensor, of what each rank held of it.

    Args:
        locals_R: by rank.
        layout: any of the parts, which know how they were split.
    """

    def join(ranks: Tensor, placements: Sequence[Placement]) -> Tensor:
        if not placements:
            return locals_R[int(ranks)]
        placement, *others = placements
        if placement.is_shard():
            return torch.cat([join(each, others) for each in ranks], dim=placement.dim)  # type: ignore[attr-defined]
        return join(ranks[0], others)  # a copy on each

    whole = join(layout.device_mesh.mesh, layout.placements)
    assert whole.shape == layout.shape
    return whole


def dealt_out(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, split as another one is; nothing of the rest stays in memory."""
    if not isinstance(like, DTensor):
        return whole.clone()
    # Every rank has the whole, so that none has to send it.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).clone()
