"""Every form of rows becomes verl's, in every kind of file; and what is said where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ctwa.data.files import open_rows
from ctwa.data.forms import find_form, source_name
from ctwa.data.reading import first_rows
from ctwa.data.settings import Columns, RowSettings
from ctwa.errors import CtwaError
from tests.data.rows import FORMS, assistant, in_parts, read, spelled, user


def plain(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{key: message[key] for key in ("role", "content")} for message in messages]


NO_TABLE = {"reward_model", "conversations", "history"}
"""Columns of dicts, or of lists of others, which a table of texts has not."""


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (form, kind)
        for form in FORMS
        for kind in ("jsonl", "json", "parquet", "csv", "tsv", "folder")
        if not (kind in ("csv", "tsv") and NO_TABLE & set(FORMS[form][0][0]))
    ],
)
def test_every_form_in_every_kind_of_file(write: Callable[..., str], form: str, kind: str) -> None:
    rows, expected = FORMS[form]
    made = read(write(rows, kind)).table.to_pylist()

    assert [(plain(row["prompt"]), (row.get("reward_model") or {}).get("ground_truth")) for row in made] == expected
    assert {row["data_source"] for row in made} == {"sums"}
    assert [row["extra_info"]["index"] for row in made] == [0, 1, 2]
    assert set(rows[0]) <= set(made[0])  # what a reward function finds in `row`
    assert first_rows(write(rows, "jsonl"), RowSettings(), spelled, 2)[1]["prompt"] == expected[1][0]


class TestColumns:
    def test_they_can_be_named(self, write: Callable[..., str]) -> None:
        rows = [{"query": f"{n}?", "gold": {"value": n}, "origin": "a book"} for n in range(3)]
        columns = Columns(prompt="query", ground_truth="gold.value", data_source="origin")
        made = read(write(rows), columns=columns).table.to_pylist()[2]

        assert (made["prompt"], made["reward_model"]) == ([user("2?")], {"ground_truth": 2})
        assert (made["data_source"], made["query"], made["gold"]) == ("a book", "2?", {"value": 2})

    def test_a_conversation_in_a_column_of_another_name(self, write: Callable[..., str]) -> None:
        rows = [{"dialogue": [user("1?"), assistant("1!")], "prompt": "a title"}]
        made = read(write(rows), columns=Columns(prompt="dialogue")).table.to_pylist()[0]

        assert (made["prompt"], made["reward_model"]) == ([user("1?")], {"ground_truth": "1!"})

    @pytest.mark.parametrize("missing", [None, ""])
    def test_ground_truths_of_verl_are_kept_where_one_is_missing(
        self, write: Callable[..., str], missing: str | None
    ) -> None:
        truths = ["72", missing, None]
        rows = [{"prompt": [user("1?")], "reward_model": {"ground_truth": each}, "solution": "So."} for each in truths]
        made = read(write(rows)).table.to_pylist()
        assert [row["reward_model"]["ground_truth"] for row in made] == truths

    @pytest.mark.parametrize(
        ("row", "columns", "said"),
        [
            (
                {"query": "a", "target": "b"},
                {},
                "has no column that is known as a prompt (prompt, messages, conversations, question, problem); it has "
                "query, target; write 'data.columns={prompt: query, ground_truth: target}'",
            ),
            ({"Question": "a", "Answer": "b"}, {}, "write 'data.columns={prompt: Question, ground_truth: Answer}'"),
            ({"questions": "a"}, {}, "write 'data.columns={prompt: questions}'"),
            ({"x": "a"}, {}, "write 'data.columns={prompt: COLUMN}'"),
            ({"chosen": "a", "rejected": "b"}, {}, "has preference pairs (chosen, rejected), which are for `ctwa pref"),
            (
                {"question": "a"},
                {"prompt": "qestion"},
                "has no such column; did you mean 'question'?",
            ),
            ({"question": "a"}, {"ground_truth": "zzz"}, "data.columns.ground_truth=zzz, and"),
        ],
        ids=str,
    )
    def test_that_are_not_known(
        self, write: Callable[..., str], row: dict[str, Any], columns: dict[str, str], said: str
    ) -> None:
        with pytest.raises(CtwaError) as error:
            read(write([row]), columns=Columns(**columns))
        assert said in str(error.value)

    @pytest.mark.parametrize(
        ("source", "name"),
        [
            ("gsm8k.jsonl", "gsm8k"),
            ("gsm8k/train.jsonl", "gsm8k"),
            ("hf://openai/gsm8k@abc:main:train", "openai/gsm8k"),
        ],
    )
    def test_where_rows_are_from(self, tmp_path: Path, source: str, name: str) -> None:
        path = tmp_path / source
        if not source.startswith("hf:"):
            path.parent.mkdir(exist_ok=True)
            path.touch()
            source = str(path)
        assert source_name(source) == name


class TestPrompts:
    def test_a_system_prompt_and_a_template(self, write: Callable[..., str]) -> None:
        settings = {"system_prompt": "Be brief.", "prompt_template": r"Solve: {prompt} Write \boxed{}."}
        made = read(write(FORMS["openai"][0]), **settings).table.to_pylist()[1]["prompt"]

        assert made == [
            {"role": "system", "content": "Be brief."},
            *(user("Hi"), assistant("Hello"), user(r"Solve: 1? Write \boxed{}.")),
        ]

    @pytest.mark.parametrize(
        ("row", "settings", "fault"),
        [
            (
                {"messages": [{"role": "system", "content": "S"}, user("1?")]},
                {"system_prompt": "Be brief."},
                "it has a system message of its own, and a system prompt is set; leave one of them out",
            ),
            ({"messages": [assistant("1!")]}, {}, "its messages is an answer without a prompt"),
            ({"question": ""}, {}, "its question is empty; write what the user says"),
            ({"question": None}, {}, "its question is null"),
            ({"question": 7}, {}, "its question is the number 7"),
            ({"conversations": [{"from": "cat", "value": "a"}]}, {}, "its conversations has the role 'cat'"),
            ({"messages": [user("a"), assistant("b"), {"role": "user", "content": None}]}, {}, "has no content"),
            ({"prompt": "a", "reward_model": "7"}, {}, "its reward_model is the text '7'"),
            ({"prompt": "a", "extra_info": "7"}, {}, "its extra_info is the text '7'"),
            ({"prompt": "caf\ud83d"}, {}, "half a surrogate pair"),
            (
                {"messages": [{"role": "system", "content": "S"}, user("1?")], "system": "T"},
                {},
                "it has a system message in its conversation and another in its system; leave one of them out",
            ),
            (
                {"conversations": [{"from": "human", "value": "1?"}], "system": ["S"]},
                {},
                "its system is the list ['S']",
            ),
            (
                {"instruction": "1?", "history": [["0?", "0!"]], "output": "1!"},
                {},
                "its history is the list [['0?', '0!']]; write earlier turns as messages",
            ),
            ({"prompt": [user("1?"), assistant("1!")], "answer": "1!"}, {}, "its prompt ends with a message of the as"),
            ({"messages": [user("1?"), assistant("a"), assistant("b")]}, {}, "its messages ends with a message of the"),
            ({"prompt": [{"role": "system", "content": "S"}], "answer": "1!"}, {}, "has no message of a user; write"),
            (
                {"messages": [user("1?"), {"role": "assistant", "content": [{"type": "image"}]}]},
                {},
                "last answer is the",
            ),
            ({"question": "1?", "answer": "\ud800"}, {}, r"its answer has half a surrogate pair (\ud800, character 0)"),
            ({"question": "1?", "notes": ["a", {"b": "\ud800"}]}, {}, "its notes[1].b has half a surrogate pair"),
            ({"question": "1?", "notes": ["a", "\ud83d", "\ude00"]}, {}, "its notes[1] has half a surrogate pair"),
            (
                {"question": "1?", "ids": [1, 2**63]},
                {},
                "its ids[1] is the number 9223372036854775808, of more than 64",
            ),
            ({"question": "1?", "ids": [-(2**70), 0]}, {}, "its ids[0] is the number -1180591620717411303424, of"),
            ({"question": "1?", "\ud800": 1}, {}, "it has a name that has half a surrogate pair"),
            (
                {"question": "1?", "answer": 2**70},
                {},
                "its answer is the number 1180591620717411303424, of more than 64",
            ),
            (
                {"prompt": [user("a"), {"role": "tool", "content": "b"}], "answer": "c"},
                {"prompt_template": "Solve: {prompt}"},
                "its prompt does not end with a user's text, which the prompt template is about",
            ),
        ],
        ids=str,
    )
    def test_that_cannot_be_used(
        self, write: Callable[..., str], row: dict[str, Any], settings: dict[str, Any], fault: str
    ) -> None:
        with pytest.raises(CtwaError, match=r"sums\.jsonl, row 0 \(from 0\): ") as error:
            read(write([row]), **settings)
        assert fault in str(error.value)

    @pytest.mark.parametrize("template", ["Solve it", "{prompt} {prompt}", "{question}"])
    def test_a_template_without_its_place(self, template: str) -> None:
        with pytest.raises(ValueError, match=r"times \{prompt\}; write it once, e.g. 'Solve: \{prompt\}'"):
            RowSettings(prompt_template=template)

    def test_messages_that_are_written_as_a_text(self, write: Callable[..., str]) -> None:
        texts = ["[{ is how it begins", '[{"role": "admin"}]', '[{"from": "Rome"}, 7]']
        written = [*map(json.dumps, ([user("1?")], user("1?"), [{"from": "human", "value": "1?"}])), *texts]
        made = read(write([{"prompt": each, "answer": "1"} for each in written], "parquet")).table.to_pylist()

        assert [row["prompt"] for row in made] == [[user(each)] for each in ("1?", "1?", "1?", *texts)]

    @pytest.mark.parametrize("column", ["prompt", "messages"])
    @pytest.mark.parametrize("other", [{"type": "image"}, {"type": "image_url", "image_url": {"url": "a"}}], ids=str)
    @pytest.mark.parametrize("num_rows_of_text", [0, 1, 5000])  # more than are looked at, and than a chunk has
    def test_texts_in_parts_beside_images_stay_in_parts(
        self, write: Callable[..., str], column: str, other: dict[str, Any], num_rows_of_text: int
    ) -> None:
        text = [in_parts({"role": "system", "content": "S"}), in_parts(user("1?"))]
        with_image = [text[0], {"role": "user", "content": [other, {"type": "text", "text": "2?"}]}]
        answer = [] if column == "prompt" else [in_parts(assistant("1!"))]
        source = write([{column: [*each, *answer]} for each in [text] * num_rows_of_text + [with_image]])
        made = read(source).table.to_pylist()

        for row, prompt in ((made[0], text if num_rows_of_text else with_image), (made[-1], with_image)):
            found = [[{k: v for k, v in part.items() if v} for part in each["content"]] for each in row["prompt"]]
            assert found == [each["content"] for each in prompt]
            assert not answer or row["reward_model"] == {"ground_truth": "1!"}

    def test_a_text_may_be_left_as_it_stands(self, write: Callable[..., str]) -> None:
        source = write([{"prompt": "1 + 1 =", "answer": "2"}])
        (row,) = first_rows(source, RowSettings(), spelled, chat=False)
        assert row["prompt"] == "1 + 1 ="
        (row,) = first_rows(source, RowSettings(system_prompt="Add."), spelled, chat=False)
        assert row["prompt"] == [{"role": "system", "content": "Add."}, user("1 + 1 =")]

    def test_rows_of_pandas(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"messages": [[user("1?"), assistant("1!")]] * 2, "score": [1.0, float("nan")]})
        frame.to_parquet(tmp_path / "a.parquet")
        made = read(str(tmp_path / "a.parquet")).table.to_pylist()
        assert [row["reward_model"]["ground_truth"] for row in made] == ["1!", "1!"]


def test_the_documented_examples_can_be_read(tmp_path: Path) -> None:
    """The example rows of docs/data.md, each with the ground truth that the page says it has."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    examples = [block.split("```")[0] for block in text.split("```json\n")[1:]]
    assert len(examples) >= 7
    for number, example in enumerate(examples):
        (tmp_path / f"{number}.jsonl").write_text(example)
        form = find_form(open_rows(tmp_path / f"{number}.jsonl"), RowSettings(), spelled)
        rows = first_rows(str(tmp_path / f"{number}.jsonl"), RowSettings(), spelled)
        assert all(row["reward_model"]["ground_truth"] == "12" for row in rows), form
