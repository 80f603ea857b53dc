"""The rows of a step: prompts that have names, completions that have places, and mini-batches dealt out to ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from ctwa.engine.seeds import SEED_FIELD
from ctwa.errors import CtwaError


class Prompts:
    """Gives each prompt a name and a seed that depend on its place alone, and remembers its row for the rewards.

    Args:
        seed: the run's.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        #: the data set's row of each prompt named since the last `clear`
        self.rows: dict[str, dict[str, Any]] = {}

    def name(self, batch_dict: Mapping[str, Any], split: str, step: int, seed_name: str) -> dict[str, Any]:
        """The columns of a batch of prompts, with those of their names (verl's ``uid``) and seeds."""
        first = len(self.rows)
        places = range(first, first + len(batch_dict["raw_prompt"]))
        names = [f"{split}{step:06d}-{place:05d}" for place in places]
        # A dict of columns -> a dict a row; verl reads the prompt's messages under the name raw_prompt.
        columns = {("prompt" if key == "raw_prompt" else key): values for key, values in batch_dict.items()}
        for index, name in enumerate(names):
            self.rows[name] = {key: values[index] for key, values in columns.items()}
        seeds = [f"{self._seed}/{seed_name}/{place}" for place in places]
        return {**batch_dict, "uid": np.array(names, dtype=object), SEED_FIELD: np.array(seeds, dtype=object)}

    def clear(self) -> None:
        """Forget the rows; the next prompt's place is the first."""
        self.rows.clear()


def prompt_name(key: str) -> str:
    """The prompt of a row: verl's keys are ``{prompt}_{session}_{output}``."""
    return key.rsplit("_", 2)[0]


def place_of(key: str) -> tuple[str, int, int]:
    """Where a row belongs in the step's order."""
    name, session, output = key.rsplit("_", 2)
    return name, int(session), int(output)


def deal_rows(seq_lens_N: Sequence[int], *, rows_per_minibatch: int, num_ranks: int) -> list[list[int]]:
    """The rows of each rank, so that every mini-batch is the same prompts whatever the number of ranks.

    verl balances the whole batch by length, which scatters prompts over mini-batches differently for each world size.
    Here a mini-batch is whole prompts in the step's order, balanced by length within itself.
    """
    workloads_N = calculate_workload(torch.tensor(seq_lens_N, dtype=torch.int64))
    rows_of_rank: list[list[int]] = [[] for _ in range(num_ranks)]
    for start in range(0, len(seq_lens_N), rows_per_minibatch):
        stop = min(start + rows_per_minibatch, len(seq_lens_N))
        parts = get_seqlen_balanced_partitions(workloads_N[start:stop], num_ranks, equal_size=True)
        for rank, part in enumerate(parts):
            rows_of_rank[rank].extend(sorted(start + row for row in part))
    return rows_of_rank


def num_missing(keys: Sequence[str], num_asked: int, *, limit: float) -> int:
    """How many of the completions that were asked for are lost: their rollout failed.

    Raises:
        CtwaError: more than the limit, a share of those asked for; or a prompt's rollout gave several outputs, which
            this trainer would take for completions of their own.
    """
    if several := next((key for key in keys if place_of(key)[2] > 0), None):
        raise CtwaError(
            f"the agent loop gave several outputs for one completion ({several}), which would each count as one: use a "
            "loop with one turn and one output, actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent"
        )
    missing = num_asked - len(keys)
    if missing > limit * num_asked or not keys:
        raise CtwaError(
            f"{missing} of {num_asked} completions were lost, more than ctwa.rollout.max_missing={limit:g} allows: "
            "their rollout's error is in the engine's log; mend it and go on with ctwa.resume=true"
        )
    return missing
