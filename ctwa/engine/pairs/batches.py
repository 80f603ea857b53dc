"""Pairs as the workers take them: verl's rows without padding, the two responses of a pair one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

from ctwa.preference.tokenization import PairTokens, label_matrices

ROWS_PER_PAIR = 2


@dataclass(frozen=True)
class PairBatch:
    """P pairs of one step, from one data set or several, set by set.

    Attributes:
        pairs: their tokens.
        reference_P2: float64: the reference's log-probabilities of the chosen and the rejected response; None for a
            loss that compares with none.
        columns: what else the loss wants of a pair, by name: (P,) or (P, ...) tensors.
        sizes: how many of the pairs come from each data set.
    """

    pairs: Sequence[PairTokens]
    sizes: Sequence[int]
    reference_P2: Tensor | None = None
    columns: Mapping[str, Tensor] | None = None

    def lengths(self) -> tuple[Tensor, Tensor]:
        """(P,): the tokens of the chosen and of the rejected responses."""
        return (
            torch.tensor([len(pair.chosen) for pair in self.pairs]),
            torch.tensor([len(pair.rejected) for pair in self.pairs]),
        )


def to_rows(batch: PairBatch, names: Sequence[str], *, num_ranks: int, pad_token_id: int) -> TensorDict:
    """The rows of a batch, those of rank 0 first: every rank has equally many pairs of every data set.

    Args:
        batch: P pairs; those of each data set divide over the ranks.
        names: the objectives, in alphabetical order.
        num_ranks: the data-parallel ranks.
        pad_token_id: of the tokenizer.

    Returns:
        2 P rows; ``pair`` says which pair of the batch a row belongs to.
    """
    order = torch.tensor(_deal(batch, num_ranks))
    pairs = [batch.pairs[index] for index in order.tolist()]
    responses = [(pair.prompt, response) for pair in pairs for response in (pair.chosen, pair.rejected)]
    lengths_N = torch.tensor([len(prompt) + len(response) for prompt, response in responses])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_N.cumsum(0)])
    tokens = torch.tensor(list(chain.from_iterable(chain.from_iterable(responses))))
    positions = torch.arange(len(tokens)) - offsets[:-1].repeat_interleave(lengths_N)
    prompts_N = torch.tensor([len(prompt) for prompt, _ in responses])
    mask = positions >= prompts_N.repeat_interleave(lengths_N)
    labels_PM, labelled_PM = label_matrices(batch.pairs, names)
    columns: dict[str, Tensor] = {
        "pair": torch.arange(len(batch.pairs)),
        "labels": labels_PM,
        "labelled": labelled_PM,
        **(batch.columns or {}),
    }
    fields = {name: values[order].repeat_interleave(ROWS_PER_PAIR, dim=0) for name, values in columns.items()}
    if batch.reference_P2 is not None:
        fields["reference"] = batch.reference_P2[order].flatten()
    for name, values in {"input_ids": tokens, "position_ids": positions, "loss_mask": mask.to(torch.int64)}.items():
        fields[name] = torch.nested.nested_tensor_from_jagged(values, offsets)
    return tu.get_tensordict(
        fields,
        {
            "temperature": 1.0,
            "pad_token_id": pad_token_id,
            "force_group_size": ROWS_PER_PAIR,
            "num_labelled": tuple(labelled_PM.sum(0).tolist()),
            "update_lr_scheduler": True,
        },
    )


def _deal(batch: PairBatch, num_ranks: int) -> list[int]:
    """The order of the pairs: rank by rank, and within a rank set by set; balanced by length."""
    of_rank: list[list[int]] = [[] for _ in range(num_ranks)]
    start = 0
    for size in batch.sizes:
        indices = range(start, start + size)
        tokens = [2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in (batch.pairs[i] for i in indices)]
        for rank, part in enumerate(get_seqlen_balanced_partitions(tokens, num_ranks, equal_size=True)):
            of_rank[rank].extend(sorted(start + place for place in part))
        start += size
    return list(chain.from_iterable(of_rank))
