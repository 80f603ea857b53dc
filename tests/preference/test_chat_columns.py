"""Messages that are JSON in a text, and a system message in a column of its own."""

import csv
import json

import pytest

from ctwa.errors import CtwaError
from tests.preference.rows import assistant, gpt, human, load, safe_rlhf, user

COLUMNS = {
    "a column each": {"prompt": [user("Hi")], "chosen": [assistant("Hello")], "rejected": [assistant("Go")]},
    "a prompt and texts": {"prompt": [user("Hi")], "chosen": "Hello", "rejected": "Go"},
    "whole conversations": {"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("Go")]},
    "in parts": {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": each} for each in "Hi"]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}],
        "rejected": [assistant("Go")],
    },
    "turns": {"conversations": [human("Hi")], "chosen": gpt("Hello"), "rejected": [gpt("Go")]},
}


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_messages_may_be_json_in_a_text(tmp_path, columns, indent, system):
    """As CSV needs it: a text of JSON would be trained on."""
    row = {key: each if isinstance(each, str) else json.dumps(each, indent=indent) for key, each in columns.items()}
    row |= {} if system is None else {"system": system}
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([row.keys(), row.values()])
    (tmp_path / "rows.jsonl").write_text(json.dumps(columns | ({} if system is None else {"system": system})))
    form = "sharegpt" if "conversations" in columns else "pairs"
    before = () if system is None else ({"role": "system", "content": system},)

    for name in ("rows.csv", "rows.jsonl"):
        (pair,) = load(str(tmp_path / name), format=form).pairs
        assert (pair.prompt, pair.chosen, pair.rejected) == ((*before, user("Hi")), "Hello", "Go")


@pytest.mark.parametrize("form", ["pairs", "sharegpt"])
@pytest.mark.parametrize(
    "answer",
    [
        [{"from": "Paris", "to": "Rome"}],
        [{"from": "Paris", "value": 3}],
        [{"role": "admin", "n": 1}],
        [{"role": "admin", "content": "x"}],
        {"role": "admin", "content": "x"},
        [user("Hi")],
        [assistant("Hello"), user("Hi")],
        [assistant("Hello"), 7],
        {"role": "assistant"},
        [["role", "content"]],
        [],
        {},
        7,
    ],
    ids=str,
)
def test_an_answer_may_be_json(write, form, answer):
    """Only what ends with an answer of the assistant is a conversation."""
    text = json.dumps(answer)
    prompt = {"prompt": "Write JSON."} if form == "pairs" else {"conversations": [human("Write JSON.")]}
    (pair,) = load(write([prompt | {"chosen": text, "rejected": f" {text}"}]), format=form).pairs
    assert (pair.chosen, pair.rejected) == (text, f" {text}")


ROW = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}
SYSTEM = {"role": "system", "content": "Be brief."}


class TestWhatElseARowAsks:
    def test_a_system_message_makes_conversations_of_all_rows(self, tmp_path):
        rows = [ROW, ROW | {"system": "Be brief."}, ROW | {"system": ""}]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        pairs = load(str(tmp_path / "rows.jsonl")).pairs
        assert [pair.prompt for pair in pairs] == [(user("Hi"),), (SYSTEM, user("Hi")), (user("Hi"),)]

    def test_of_every_format(self, write):
        source = {"format": "safe-rlhf", "label": "safer_response_id", "columns": {"system": "persona"}}
        (pair,) = load(write([safe_rlhf(persona="Be brief.")]), **source).pairs
        assert pair.prompt == (SYSTEM, user("How do I open a lock?"))

    def test_a_column_of_another_name_may_be_empty(self, write):
        rows = [ROW | {"persona": "Be brief."}, ROW | {"persona": None}]
        pairs = load(write(rows), columns={"system": "persona"}).pairs
        assert [pair.prompt for pair in pairs] == [(SYSTEM, user("Hi")), (user("Hi"),)]

    def test_one_that_is_there_twice_is_one(self, write):
        row = ROW | {"prompt": [SYSTEM, user("Hi")], "system": "Be brief."}
        assert load(write([row])).pairs[0].prompt == (SYSTEM, user("Hi"))

    def test_the_input_of_an_instruction(self, write):
        rows = [{"instruction": "Add.", "input": each, "chosen": "12", "rejected": "13"} for each in ("7 and 5", "")]
        pairs = load(write(rows), columns={"prompt": "instruction"}).pairs
        assert [pair.prompt for pair in pairs] == ["Add.\n\n7 and 5", "Add."]

    @pytest.mark.parametrize(
        ("columns", "options", "text"),
        [
            ({"prompt": [SYSTEM, user("Hi")], "system": "Be long."}, {}, "another in its system; leave one of them"),
            ({"system": 7}, {}, "its system is the number 7"),
            (
                {"system": "Be brief."},
                {"chat": False},
                "in its column 'system', and its source says chat: false; leave that",
            ),
            ({"p": "Be brief."}, {"chat": False, "columns": {"system": "p"}}, "system messages in its column 'p', and"),
            ({"prompt": [user("Hi")]}, {"chat": False}, "has chat messages, and its source says chat: false; leave ch"),
            ({"persona": "Be brief."}, {"columns": {"system": "pesona"}}, "columns.system=pesona, and .* no such colu"),
            ({"prompt": [user("Hi"), assistant("Hm")]}, {}, "its prompt ends with a message of the assistant"),
            ({"prompt": [SYSTEM]}, {}, "its prompt has no message of a user"),
            (
                {"instruction": "Add.", "history": [["Hi", "Hello"]]},
                {"columns": {"prompt": "instruction"}},
                r"its history is the list .*; write earlier turns as messages",
            ),
        ],
    )
    def test_what_cannot_be_used(self, write, columns, options, text):
        with pytest.raises(CtwaError, match=text):
            load(write([ROW | columns]), **options)
