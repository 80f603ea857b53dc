"""What the policy wrote, told apart from what tools told it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import NonTensorStack, TensorDict

from ctwa.engine.verl.turns import Turns, read_turns
from ctwa.errors import CtwaError
from ctwa.testbed.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
END = {TOKENIZER.eos_token_id}
CALLED = ("1 + 2 = 3 so 3 <eos>", [1, 1, 1, 1, 0, 1, 1, 1])


def rows(*completions: tuple[str, list[int]], extras: list[dict[str, Any]] | None = None) -> TensorDict:
    """Completions, each its words and which of them the policy wrote."""
    tokens = [torch.tensor(TOKENIZER.encode(text), dtype=torch.int64) for text, _ in completions]
    fields: dict[str, Any] = {
        "responses": torch.nested.as_nested_tensor(tokens, layout=torch.jagged),
        "response_mask": torch.nested.as_nested_tensor(
            [torch.tensor(mask, dtype=torch.int64) for _, mask in completions], layout=torch.jagged
        ),
    }
    if extras is not None:
        fields["extra_fields"] = NonTensorStack(*extras)
    return TensorDict(fields, batch_size=len(completions))


def test_one_turn_is_all_the_policys() -> None:
    (turns,) = read_turns(rows(("so 3 <eos>", [1, 1, 1])), TOKENIZER, END)

    assert (turns.response, turns.token_ids.tolist()) == ("so 3", TOKENIZER.encode("so 3 <eos>"))
    assert turns.finished
    assert turns.messages is None


def test_the_mask_tells_turns_and_tools_apart() -> None:
    cut = ("1 + 2 = 3", [1, 1, 1, 1, 0])
    called, ends_with_the_tool = read_turns(rows(CALLED, cut), TOKENIZER, END)

    assert called.response == "1 + 2 =\nso 3"
    assert called.token_ids.tolist() == TOKENIZER.encode("1 + 2 = so 3 <eos>")
    assert called.messages == [
        {"role": "assistant", "content": "1 + 2 ="},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "so 3"},
    ]
    assert called.finished
    assert not ends_with_the_tool.finished


def test_the_loops_text_is_taken_where_the_policy_wrote_all_of_it() -> None:
    extras = [{"response": "as the loop has it"}, {"response": "the loop knows no turns"}, {}]
    told = read_turns(rows(("so 3 <eos>", [1, 1, 1]), CALLED, ("so 3", [1, 1]), extras=extras), TOKENIZER, END)

    assert [turns.response for turns in told] == ["as the loop has it", "1 + 2 =\nso 3", "so 3"]


def test_nothing_and_what_the_policy_did_not_write_are_no_text() -> None:
    nothing, of_a_tool = read_turns(rows(("", []), ("so 3", [0, 0])), TOKENIZER, END)

    assert (nothing.response, nothing.token_ids.tolist(), nothing.finished) == ("", [], False)
    assert (of_a_tool.response, of_a_tool.token_ids.tolist(), of_a_tool.finished) == ("", [], False)
    assert of_a_tool.messages == [{"role": "tool", "content": "so 3"}]


def test_a_tools_end_of_sequence_finishes_nothing() -> None:
    (turns,) = read_turns(rows(("so 3 <eos>", [1, 1, 0])), TOKENIZER, END)
    assert not turns.finished


def test_a_loops_own_messages_and_its_tools_rewards_are_handed_on() -> None:
    messages = [
        {"role": "assistant", "content": "1 + 2 =", "tool_calls": [{"id": 1}]},
        {"role": "tool", "content": "3"},
    ]
    extras = [{"messages": messages, "tool_rewards": [0.5, 1]}, {"tool_rewards": []}]

    told, plain = read_turns(rows(CALLED, CALLED, extras=extras), TOKENIZER, END)

    assert (told.messages, told.tool_rewards) == (messages, [0.5, 1.0])
    assert plain.messages is not None
    assert [message["role"] for message in plain.messages] == ["assistant", "tool", "assistant"]
    assert plain.tool_rewards == []


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(CtwaError, match=r"extra_fields\['messages'\] are no messages: give a list of dicts"):
        read_turns(rows(CALLED, extras=[{"messages": ["so 3"]}]), TOKENIZER, END)


def test_several_sequences_are_one_completion() -> None:
    extras = [{}, {"messages": [{"role": "user", "content": "go on"}, {"role": "assistant", "content": "so 3"}]}]
    first, second = read_turns(rows(("1 + 2", [1, 1, 1]), ("so 3 <eos>", [1, 1, 1]), extras=extras), TOKENIZER, END)

    both = Turns.joined([first, second])
    assert both.token_ids.tolist() == TOKENIZER.encode("1 + 2 so 3 <eos>")
    assert (both.response, both.finished, first.finished) == ("1 + 2\nso 3", True, False)
    assert both.messages == [{"role": "assistant", "content": "1 + 2"}, *extras[1]["messages"]]
    assert Turns.joined([first]) is first
