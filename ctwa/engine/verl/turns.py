"""What a rollout gave for a completion: what the policy wrote, apart from what tools told it in between."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from tensordict import TensorDict

from ctwa.errors import CtwaError

MESSAGES, TOOL_REWARDS = "messages", "tool_rewards"
"""The ``extra_fields`` of verl's agent loops that tell the messages as the loop knows them, and the tools' rewards."""


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

    token_ids: list[int]
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
            token_ids=list(chain.from_iterable(part.token_ids for part in parts)),
            response="\n".join(part.response for part in parts if part.response),
            finished=parts[-1].finished,
            messages=list(chain.from_iterable(messages)),
            tool_rewards=list(chain.from_iterable(part.tool_rewards for part in parts)),
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
    responses = [response.tolist() for response in rows["responses"].unbind()]
    masks = [mask.tolist() for mask in rows["response_mask"].unbind()]
    extras = list(rows["extra_fields"]) if "extra_fields" in rows else [{}] * len(responses)
    pieces = [_pieces(response, mask) for response, mask in zip(responses, masks, strict=True)]
    texts = iter(tokenizer.batch_decode([ids for row in pieces for _, ids in row], skip_special_tokens=True))
    found = []
    for row, extra in zip(pieces, extras, strict=True):
        told = [(is_policys, next(texts)) for is_policys, _ in row]
        messages = _messages_of_loop(extra)
        if messages is None and not all(is_policys for is_policys, _ in told):
            messages = [{"role": "assistant" if own else "tool", "content": text} for own, text in told]
        last_is_policys, last = row[-1] if row else (False, [])
        found.append(
            Turns(
                token_ids=[token for is_policys, ids in row if is_policys for token in ids],
                response="\n".join(text for is_policys, text in told if is_policys),
                finished=last_is_policys and last[-1] in end_tokens,
                messages=messages,
                tool_rewards=[float(reward) for reward in extra.get(TOOL_REWARDS) or ()],
            )
        )
    return found


def _pieces(response: list[int], mask: list[int]) -> list[tuple[bool, list[int]]]:
    """The tokens cut where the mask changes, each piece with whether it is the policy's."""
    by_writer = groupby(zip(mask, response, strict=True), key=lambda each: bool(each[0]))
    return [(is_policys, [token for _, token in piece]) for is_policys, piece in by_writer]


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
