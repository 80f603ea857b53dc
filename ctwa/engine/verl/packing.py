"""Rows without padding where main memory is the device: a shared prompt stands once, and prompts have no logits.

verl packs rows for flash-attention, which there is not on a CPU. Here torch's attention goes over a packed micro-batch
row by row. The completions of a prompt share its tokens, which are most of a row where completions are short.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from verl.utils import tensordict_utils as tu
from verl.workers.engine.utils import prepare_micro_batches

from ctwa.engine.verl import PACKED_ATTENTION
from ctwa.errors import CtwaError


@dataclass(frozen=True)
class PackedRows:
    """Rows of a micro-batch, T tokens one after the other, of which S predict a token of a response.

    Rows that begin with the same prompt are a group: the prompt stands once, and their responses behind it. The last
    token of a response predicts nothing, and is left out.

    Attributes:
        tokens_T: int64.
        positions_T: int64, of the tokens in their own rows.
        groups: of each the lengths of its prompt and of its responses as they stand here, in order.
        predictors_S: the places among T whose logits predict a response's token.
        labels_S: the tokens that they predict.
        places_S: where their log-probabilities belong among the values of the nested rows.
        rows_S: the rows that they are of.
    """

    tokens_T: Tensor
    positions_T: Tensor
    groups: Sequence[Sequence[int]]
    predictors_S: Tensor
    labels_S: Tensor
    places_S: Tensor
    rows_S: Tensor

    @classmethod
    def of(cls, input_ids: Tensor, position_ids: Tensor, response_lengths: Sequence[int]) -> PackedRows:
        """Pack rows that are nested, each a prompt of at least one token and a response of at least one behind it."""
        offsets = input_ids.offsets().tolist()  # type: ignore[attr-defined]  # of the jagged layout alone
        values, positions = input_ids.values(), position_ids.values()
        ends = offsets[1:]
        tokens = values.tolist()
        rows_of_prompt: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, (start, end, length) in enumerate(zip(offsets[:-1], ends, response_lengths, strict=True)):
            rows_of_prompt[tuple(tokens[start : end - length])].append(row)
        taken: list[Tensor] = []
        predictors: list[Tensor] = []
        places: list[Tensor] = []
        groups, num_taken = [], 0
        for prompt, rows in rows_of_prompt.items():
            start = offsets[rows[0]]
            taken.append(torch.arange(start, start + len(prompt)))
            num_taken += len(prompt)
            last_of_prompt = torch.tensor([num_taken - 1])
            for row in rows:
                first, end = ends[row] - response_lengths[row], ends[row]
                taken.append(torch.arange(first, end - 1))
                predictors += [last_of_prompt, torch.arange(num_taken, num_taken + end - 1 - first)]
                places.append(torch.arange(first - 1, end - 1))
                num_taken += end - 1 - first
            groups.append([len(prompt), *(response_lengths[row] - 1 for row in rows)])
        order = torch.tensor([row for rows in rows_of_prompt.values() for row in rows])
        lengths = torch.tensor(response_lengths)[order]
        taken_T, places_S = torch.cat(taken), torch.cat(places)
        return cls(
            tokens_T=values[taken_T],
            positions_T=positions[taken_T],
            groups=groups,
            predictors_S=torch.cat(predictors),
            labels_S=values[places_S + 1],
            places_S=places_S,
            rows_S=order.repeat_interleave(lengths),
        )

    @cached_property
    def lengths(self) -> list[int]:
        """Of the pieces that attention takes apart: prompts and responses, in order."""
        return [length for group in self.groups for length in group]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, dropout: float, window: int | None
    ) -> Tensor:
        """Causal attention within each row, (1, heads, T, width) of all; ``window`` is the most tokens one looks at."""
        pieces = iter(zip(*(each.split(self.lengths, dim=2) for each in (query, key, value)), strict=True))
        mixed = []

        def attention(query: Tensor, key: Tensor, value: Tensor) -> None:
            num_queries, num_keys = query.shape[2], key.shape[2]
            is_plain = num_queries == num_keys and (window is None or window >= num_keys)
            mask = None if is_plain else self._mask(num_queries, num_keys, window)
            mixed.append(
                scaled_dot_product_attention(
                    query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_plain, scale=scale
                )
            )

        for group in self.groups:
            prompt_query, prompt_key, prompt_value = next(pieces)
            attention(prompt_query, prompt_key, prompt_value)
            for length in group[1:]:
                response_query, response_key, response_value = next(pieces)
                if length:
                    keys = torch.cat([prompt_key, response_key], dim=2)
                    attention(response_query, keys, torch.cat([prompt_value, response_value], dim=2))
        return torch.cat(mixed, dim=2)

    def _mask(self, num_queries: int, num_keys: int, window: int | None) -> Tensor:
        """Which of the keys a query looks at; the queries are the last tokens of the row."""
        masks = self._masks
        if (num_queries, num_keys, window) not in masks:
            before = num_keys - num_queries
            mask = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(before)
            masks[num_queries, num_keys, window] = mask if window is None else mask.triu(before - window + 1)
        return masks[num_queries, num_keys, window]

    @cached_property
    def _masks(self) -> dict[tuple[int, int, int | None], Tensor]:
        return {}


@dataclass(frozen=True)
class Window:
    """Stands where transformers hands a layer its mask: the most tokens that it looks at. Few layers know it else."""

    size: int


class _Pass:
    """What the pass through a model that is under way is over: packed rows, or None for transformers' own layout."""

    rows: PackedRows | None = None


def begin_pass(rows: PackedRows | None) -> None:
    """Let attention go over these rows until the next pass: a backward pass may compute activations anew."""
    _Pass.rows = rows


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Window | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (1, heads, T, width) to (1, T, heads, width), over the rows of the pass.

    Raises:
        CtwaError: the model has made a mask of its own.
    """
    if _Pass.rows is None:
        assert not isinstance(attention_mask, Window)
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    if isinstance(attention_mask, Tensor):
        raise CtwaError(
            f"{type(module).__name__} has a mask of its own, which packed rows have no place for: write "
            "++actor_rollout_ref.model.override_config.attn_implementation=sdpa"
        )
    window = attention_mask.size if attention_mask is not None else None
    num_shared = query.shape[1] // key.shape[1]
    if num_shared > 1:
        key, value = key.repeat_interleave(num_shared, dim=1), value.repeat_interleave(num_shared, dim=1)
    mixed = _Pass.rows.attend(query, key, value, scale=scaling, dropout=dropout, window=window)
    return mixed.transpose(1, 2).contiguous(), None


def _mask(*arguments: Any, local_size: int | None = None, **options: Any) -> Tensor | Window | None:
    """The mask of transformers' own layout; packed rows make theirs themselves, of what the layer looks at."""
    if _Pass.rows is None:
        return sdpa_mask(*arguments, local_size=local_size, **options)
    return None if local_size is None else Window(local_size)


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, _mask)


def response_lengths(rows: TensorDict) -> list[int]:
    """The tokens of each row's response: of a policy's rows, or of a pair's, whose mask is as long as the row."""
    if "responses" in rows:
        lengths_N: list[int] = rows["responses"].offsets().diff().tolist()
        return lengths_N
    return [int(mask.sum()) for mask in rows["loss_mask"].unbind()]


_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def can_pack(model: nn.Module) -> bool:
    """Whether a model of transformers sees a token's neighbours by attention alone, and can leave logits out."""
    config: Any = model.config
    layers = getattr(config.get_text_config(), "layer_types", None) or ()  # a convolution or a chunk are others
    is_stateless = not getattr(model, "_is_stateful", False) and {*layers} <= _KNOWN_LAYERS
    has_our_attention = bool(getattr(model, "_supports_attention_backend", False))
    return is_stateless and has_our_attention and "logits_to_keep" in signature(model.forward).parameters


def micro_batches(
    data: TensorDict, dp_group: Any = None, **options: Any
) -> tuple[Sequence[TensorDict], list[list[int]] | None]:
    """Stands in for verl's ``prepare_micro_batches``, which balances rows and so scatters those of a prompt.

    A row that is longer than the limit of tokens is a micro-batch of its own. All ranks make equally many.

    Args:
        data: rows; ``max_token_len_per_gpu`` limits the tokens of a micro-batch, those that rows share counted once.
        dp_group: the ranks.
        options: what else verl's function knows.

    Returns:
        The micro-batches, and the places of their rows.
    """
    if not tu.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True):
        found: tuple[Sequence[TensorDict], None] = prepare_micro_batches(data, dp_group, **options)
        return found
    together = tu.get_non_tensor_data(data=data, key="force_group_size", default=1)
    starts = _starts(data, int(data["max_token_len_per_gpu"]), together)
    if dp_group is not None and dist.get_world_size(dp_group) > 1:
        num = torch.tensor(len(starts))
        dist.all_reduce(num, op=dist.ReduceOp.MAX, group=dp_group)
        starts = _more(starts, len(data), int(num), together)
    places = [list(range(start, end)) for start, end in pairwise([*starts, len(data)])]
    return [tu.index_select_tensor_dict(data, rows) for rows in places], places


def _starts(data: TensorDict, limit: int, together: int) -> list[int]:
    """Where micro-batches begin that hold as much as they can."""
    input_ids, responses = data["input_ids"].unbind(), response_lengths(data)
    prompts = [row[: len(row) - length].tolist() for row, length in zip(input_ids, responses, strict=True)]
    starts, held = [0], 0
    for unit in range(0, len(responses), together):
        rows = range(unit, unit + together)
        whole = sum(len(input_ids[row]) for row in rows)
        shared = sum(len(prompts[row]) for row in rows if row > starts[-1] and prompts[row] == prompts[row - 1])
        if held and held + whole - shared > limit:
            starts.append(unit)
            held, shared = 0, sum(len(prompts[row]) for row in rows if row > unit and prompts[row] == prompts[row - 1])
        held += whole - shared
    return starts


def _more(starts: Sequence[int], num_rows: int, num: int, together: int) -> list[int]:
    """As many starts as another rank has: the longest micro-batches are halved."""
    starts = list(starts)
    while len(starts) < num:
        start, end = max(pairwise([*starts, num_rows]), key=lambda each: each[1] - each[0])
        starts = sorted([*starts, start + max(together, (end - start) // 2 // together * together)])
    return starts
