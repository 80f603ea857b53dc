"""Micro-batches of one half of a mini-batch's prompts each, the same half on every rank at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine.fsdp import transformer_impl

from ctwa.engine.replaced import replaced
from ctwa.engine.verl.columns import ROW_COLUMN, advantage_columns_of

HALF = "half"
"""Where a micro-batch says which half its rows are of."""


def half_of_rows(data: TensorDict, half_N: Tensor) -> Tensor:
    """The half of each row, int8, -1 for one without a part: rows that fill a batch up are no completions of the step.

    Args:
        data: some rows of the step.
        half_N: of the step's completions.
    """
    rows = data[ROW_COLUMN].cpu()
    return torch.where(rows >= 0, half_N[rows.clamp(min=0)], -1)


def rows_in_halves(data: TensorDict, half_N: Tensor, group: Any) -> list[int]:
    """How many completions of a mini-batch are in each half, over all ranks.

    Args:
        data: this rank's rows of it.
        half_N: the half of each completion of the step.
        group: the data-parallel ranks.
    """
    half_R = half_of_rows(data, half_N)
    return _over_ranks([int((half_R == half).sum()) for half in (0, 1)], dist.ReduceOp.SUM, group)


def by_half(half_N: Tensor) -> AbstractContextManager[None]:
    """Let verl's engine cut micro-batches as it does, but first those of one half and then those of the other.

    Gradients are added up over the ranks micro-batch by micro-batch, so that all ranks have equally many of a half. One
    that has fewer rows of it than another takes its own shortest row along again, without a loss.

    Args:
        half_N: the half of each completion of the step; rows that are in none go with the first.
    """
    whole: Callable[..., tuple[Sequence[TensorDict], Any]] = transformer_impl.prepare_micro_batches

    def halves(data: TensorDict, dp_group: Any = None, **options: Any) -> tuple[Sequence[TensorDict], None]:
        is_second_R = half_of_rows(data, half_N) == 1
        rows = [(is_second_R == half).nonzero().flatten().tolist() for half in (False, True)]
        most = _over_ranks([len(each) for each in rows], dist.ReduceOp.MAX, dp_group)
        shortest = int(data["input_ids"].offsets().diff().argmin())
        micro_batches: list[TensorDict] = []
        for half, (own, num) in enumerate(zip(rows, most, strict=True)):
            if not num:
                continue
            part = tu.index_select_tensor_dict(data, own + [shortest] * (num - len(own)))
            found, _ = whole(_without_loss(part, len(own)), dp_group=dp_group, **options)
            for micro_batch in found:
                tu.assign_non_tensor(micro_batch, **{HALF: half})
            micro_batches += found
        # The places of their rows are asked for only where a pass gives log-probabilities back, and this one does not.
        return micro_batches, None

    return replaced(transformer_impl, "prepare_micro_batches", halves)


def half_of(micro_batch: TensorDict) -> int:
    """Which half a micro-batch is of; 0 where nothing is halved."""
    return int(tu.get_non_tensor_data(data=micro_batch, key=HALF, default=0))


def _without_loss(rows: TensorDict, first: int) -> TensorDict:
    """The same rows, of which those from a place on have neither a loss nor a place in the step."""
    if first == len(rows):
        return rows
    for name in ("loss_mask", "response_mask", *advantage_columns_of(rows.keys())):
        column = rows[name]
        values = column.values().clone()
        values[column.offsets()[first] :] = 0
        rows[name] = torch.nested.nested_tensor_from_jagged(values, column.offsets())
    places = rows[ROW_COLUMN].clone()
    places[first:] = -1
    rows[ROW_COLUMN] = places
    return rows


def _over_ranks(numbers: list[int], operation: Any, group: Any) -> list[int]:
    if not dist.is_initialized():
        return numbers
    found = torch.tensor(numbers, device=get_device_id())
    dist.all_reduce(found, op=operation, group=group)
    return [int(number) for number in found]
