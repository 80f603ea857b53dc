"""What a rollout gave for a completion: what the policy wrote, apart from what tools told it in between."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from tensordict import TensorDict

from ctwa.errors import CtwaError

MESSAGES, TOOL_REWARDS, RESPONSE = "messages", "tool_rewards", "response"
"""The ``extra_fields`` of agent loops: the messages as the loop knows them, the tools' rewards, and the text of a
response of one turn, which the loops decode while others are still being written."""


@dataclass(frozen=True)
class Turns:
    """A completion, or one of the sequences of a completion that has several.

    Attributes:
        token_ids: those of its tokens that the policy wrote, which are those that are trained on.
        response: their text; of several turns a line each.
        finished: the policy wrote the last of it, and an end of sequence.
        messages: that follow the prompt; None where the policy wrote all of it, and the loop says no more.
        tool_rewards: what the tools gave for their calls, in order.
    """

    token_ids: array[int]
    response: str
    finished: bool
    messages: list[dict[str, Any]] | None
    tool_rewards: list[float]

    @classmethod
    def joined(cls, parts: Sequence[Turns]) -> Turns:
        """One completion of several sequences, the messages of each behind those of the one before."""
        if len(parts) == 1:
            return parts[0]
        messages = [part.messages or [{"role": "assistant", "content": part.response}] for part in parts]
        return cls(
            token_ids=sum((part.token_ids for part in parts), start=array("q")),
            response="\n".join(part.response for part in parts if part.response),
            finished=parts[-1].finished,
            messages=[message for each in messages for message in each],
            tool_rewards=[reward for part in parts for reward in part.tool_rewards],
        )


def read_turns(rows: TensorDict, tokenizer: Any, end_tokens: Collection[int | None]) -> list[Turns]:
    """Tell the turns of some rows apart.

    Messages are the loop's own where it hands them on. Else what the policy wrote and what it did not are told apart by
    the mask: a message each, the latter a tool's, with the words that the chat template puts around them.

    Args:
        rows: ``responses`` and ``response_mask``, nested; of agent loops their ``extra_fields``, a dict a row.
        tokenizer: that decodes.
        end_tokens: that end a completion.

    Raises:
        CtwaError: a loop's messages are none.
    """
    tokens, is_policys = rows["responses"].values().numpy(), rows["response_mask"].values().numpy() != 0
    bounds = list(pairwise(rows["responses"].offsets().tolist()))
    extras = list(rows["extra_fields"]) if "extra_fields" in rows else [{}] * len(bounds)
    pieces = [_pieces(tokens[begin:end], is_policys[begin:end]) for begin, end in bounds]
    texts = _texts(pieces, extras, tokenizer)
    found = []
    for row, told, extra in zip(pieces, texts, extras, strict=True):
        messages = _messages_of_loop(extra)
        if messages is None and not all(is_policys for is_policys, _ in row):
            messages = [
                {"role": "assistant" if own else "tool", "content": text}
                for (own, _), text in zip(row, told, strict=True)
            ]
        own = [ids for is_policys, ids in row if is_policys]
        last_is_policys, last = row[-1] if row else (False, tokens[:0])
        found.append(
            Turns(
                token_ids=array("q", np.concatenate(own).astype(np.int64).tobytes() if own else b""),
                response="\n".join(text for (is_policys, _), text in zip(row, told, strict=True) if is_policys),
                finished=last_is_policys and int(last[-1]) in end_tokens,
                messages=messages,
                tool_rewards=[float(reward) for reward in extra.get(TOOL_REWARDS) or ()],
            )
        )
    return found


Piece = tuple[bool, "np.ndarray[Any, Any]"]
"""Tokens that stand together, and whether they are the policy's."""


def _pieces(response_T: np.ndarray[Any, Any], is_policys_T: np.ndarray[Any, Any]) -> list[Piece]:
    """The tokens cut where the mask changes."""
    if not len(response_T):
        return []
    cuts = np.flatnonzero(is_policys_T[1:] != is_policys_T[:-1]) + 1
    begins = [0, *cuts.tolist()]
    return [(bool(is_policys_T[begin]), ids) for begin, ids in zip(begins, np.split(response_T, cuts), strict=True)]


def _texts(pieces: Sequence[Sequence[Piece]], extras: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[list[str]]:
    """The text of each row's pieces: as its loop has decoded it, where it is one piece of the policy's."""
    told = [
        extra.get(RESPONSE) if len(row) == 1 and row[0][0] else None for row, extra in zip(pieces, extras, strict=True)
    ]
    unknown = [row for row, text in zip(pieces, told, strict=True) if text is None]
    decoded = iter(
        tokenizer.batch_decode([ids.tolist() for row in unknown for _, ids in row], skip_special_tokens=True)
    )
    return [[next(decoded) for _ in row] if text is None else [text] for row, text in zip(pieces, told, strict=True)]


def _messages_of_loop(extra: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    messages = extra.get(MESSAGES)
    if messages is None:
        return None
    if not all(isinstance(message, Mapping) and "role" in message for message in messages):
        raise CtwaError(
            f"the agent loop's extra_fields['{MESSAGES}'] are no messages: give a list of dicts with role and content, "
            "or leave it out"
        )
    return [dict(message) for message in messages]
