"""The rows of a step: prompts that have names, completions that have places, and mini-batches dealt out to ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from ctwa.engine.verl.columns import PROMPT_COLUMNS, SEED_COLUMN
from ctwa.errors import CtwaError
from ctwa.policy_loss import PolicyLoss

Tell = Callable[[Any, str, str], tuple[Any, dict[str, float]]]


class Prompts:
    """Gives each prompt a name and a seed that depend on its place alone, and remembers its row for the rewards.

    Args:
        seed: the run's.
        tell: writes weights into a prompt's messages, by split and seed, where prompts are told any; returns the
            messages and the weights.
    """

    def __init__(self, seed: int, tell: Tell | None = None) -> None:
        self._seed, self._tell = seed, tell
        #: the data set's row of each prompt named since the last `clear`
        self.rows: dict[str, dict[str, Any]] = {}
        #: what each of them was told to weigh its completions with
        self.weights: dict[str, dict[str, float]] = {}

    def name(self, batch_dict: Mapping[str, Any], split: str, step: int, seed_name: str) -> dict[str, Any]:
        """What the engine needs of a batch of prompts: some columns, and their names (verl's ``uid``) and seeds."""
        first = len(self.rows)
        places = range(first, first + len(batch_dict["raw_prompt"]))
        names = [f"{split}{step:06d}-{place:05d}" for place in places]
        # A dict of columns -> a dict a row; verl reads the prompt's messages under the name raw_prompt.
        columns = {("prompt" if key == "raw_prompt" else key): values for key, values in batch_dict.items()}
        columns.pop("dummy_tensor", None)  # no column of the data: verl's, and torch's, which reward workers do without
        for index, name in enumerate(names):
            self.rows[name] = {key: values[index] for key, values in columns.items()}
        seeds = [f"{self._seed}/{seed_name}/{place}" for place in places]
        needed = {name: batch_dict[name] for name in PROMPT_COLUMNS if name in batch_dict}
        if self._tell is not None:  # the policy alone: the rewards are about the prompt of the data
            told = [self._tell(prompt, split, seed) for prompt, seed in zip(needed["raw_prompt"], seeds, strict=True)]
            needed["raw_prompt"] = np.fromiter((prompt for prompt, _ in told), dtype=object, count=len(told))
            self.weights |= zip(names, (weights for _, weights in told), strict=True)
        return {**needed, "uid": np.array(names, dtype=object), SEED_COLUMN: np.array(seeds, dtype=object)}

    def clear(self) -> None:
        """Forget the rows; the next prompt's place is the first."""
        self.rows.clear()
        self.weights.clear()


def prompt_name(key: str) -> str:
    """The prompt of a row: verl's keys are ``{prompt}_{session}_{output}``."""
    return key.rsplit("_", 2)[0]


def place_of(key: str) -> tuple[int, int, int]:
    """Where a row belongs in the order of its batch: the places of its prompt, its session and its output."""
    name, session, output = key.rsplit("_", 2)
    return int(name.rpartition("-")[2]), int(session), int(output)


def mini_batches(num_rows_N: Sequence[int], *, num_completions: int, num_ranks: int) -> tuple[int, list[int]]:
    """A step's rows, mini-batch by mini-batch: a mini-batch is whole prompts in the step's order.

    All mini-batches have as many rows, though a completion may be several: those behind the step's rows fill them up.

    Args:
        num_rows_N: of each completion.
        num_completions: of a mini-batch.
        num_ranks: that share one evenly.

    Returns:
        How many rows a mini-batch has, and which, in their order.
    """
    nums = [sum(num_rows_N[start : start + num_completions]) for start in range(0, len(num_rows_N), num_completions)]
    size = max(num_completions, *nums)
    size += -size % num_ranks
    order: list[int] = []
    row, filler = 0, sum(nums)
    for num in nums:
        order += [*range(row, row + num), *range(filler, filler + size - num)]
        row, filler = row + num, filler + size - num
    return size, order


def deal_rows(seq_lens_N: Sequence[int], *, rows_per_minibatch: int, num_ranks: int) -> list[list[int]]:
    """The rows of each rank, so that every mini-batch is the same prompts whatever the number of ranks.

    verl balances the whole batch by length, which scatters prompts over mini-batches differently for each world size.
    Here a mini-batch is the rows that stand together (``mini_batches``), balanced by length within itself.
    """
    workloads_N = calculate_workload(torch.tensor(seq_lens_N, dtype=torch.int64))
    rows_of_rank: list[list[int]] = [[] for _ in range(num_ranks)]
    for start in range(0, len(seq_lens_N), rows_per_minibatch):
        stop = min(start + rows_per_minibatch, len(seq_lens_N))
        parts = get_seqlen_balanced_partitions(workloads_N[start:stop], num_ranks, equal_size=True)
        for rank, part in enumerate(parts):
            rows_of_rank[rank].extend(sorted(start + row for row in part))
    return rows_of_rank


def check_sequences(keys: Iterable[str], loss: PolicyLoss | None, name: str) -> None:
    """See that the loss does not ask where a sequence ends, where a completion is several.

    Args:
        keys: of the rows.
        loss: the policy's; None for one whose gradient is not known.
        name: of the loss, in words.

    Raises:
        CtwaError: it does, and would take each sequence for a completion of its own.
    """
    if loss is not None and loss.by_token:
        return
    if several := next((key for key in keys if place_of(key)[2] > 0), None):
        raise CtwaError(
            f"the agent loop gave several sequences for one completion ({several}), and the loss ({name}) would take "
            "each for a completion: write policy_loss=vanilla and actor_rollout_ref.actor.loss_agg_mode=token-mean, or "
            "let the loop give one sequence with all turns"
        )


def num_missing(num_there: int, num_asked: int, *, limit: float) -> int:
    """How many of the completions that were asked for are lost: their rollout failed.

    Raises:
        CtwaError: more than the limit, a share of those asked for.
    """
    missing = num_asked - num_there
    if missing > limit * num_asked or not num_there:
        raise CtwaError(
            f"{missing} of {num_asked} completions were lost, more than ctwa.rollout.max_missing={limit:g} allows: "
            "their rollout's error is in the engine's log; mend it and go on with ctwa.resume=true"
        )
    return missing


@dataclass(frozen=True)
class RowValues:
    """A value at each response token of some rows, as workers send them.

    One tensor holds all of them: pickled by itself, a view of a row takes the storage of every other row along.

    Attributes:
        rows_R: int64, their places in the step.
        lengths_R: int64, their response tokens.
        values: (sum of the lengths,), one row after the other.
    """

    rows_R: Tensor
    lengths_R: Tensor
    values: Tensor

    @classmethod
    def of(cls, values_of_row: Mapping[int, Tensor]) -> RowValues:
        """The values of each row, (length,), by its place; those without a place fill a batch up, and are left out."""
        kept = {row: values_T for row, values_T in values_of_row.items() if row >= 0}
        lengths = [len(values_T) for values_T in kept.values()]
        values = torch.cat(list(kept.values())) if kept else torch.zeros(0)
        return cls(torch.tensor(list(kept), dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64), values)


def in_order(by_worker: Iterable[RowValues], lengths_N: Tensor) -> Tensor:
    """What each worker recorded of its rows, one row after the other by their places in the step.

    Args:
        by_worker: what they recorded.
        lengths_N: int64, the response tokens of each row.

    Raises:
        RuntimeError: a row that nobody recorded.
    """
    ends_N = lengths_N.cumsum(0)
    values = torch.zeros(int(ends_N[-1]))
    is_missing_N = torch.ones(len(lengths_N), dtype=torch.bool)
    for recorded in by_worker:
        begins_R = (ends_N - lengths_N)[recorded.rows_R]  # in the step
        own_R = recorded.lengths_R.cumsum(0) - recorded.lengths_R  # among the worker's
        places = (begins_R - own_R).repeat_interleave(recorded.lengths_R) + torch.arange(len(recorded.values))
        values[places] = recorded.values
        is_missing_N[recorded.rows_R] = False
    if is_missing_N.any():
        raise RuntimeError(f"no worker recorded the rows {is_missing_N.nonzero().flatten().tolist()} of the step")
    return values
