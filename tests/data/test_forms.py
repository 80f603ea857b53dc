"""Every form of rows becomes verl's, in every kind of file; and what is said where it cannot."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctwa.data import reading
from ctwa.data.answers import Rule, extract, rule_for
from ctwa.data.files import open_rows
from ctwa.data.forms import find_form, source_name
from ctwa.data.reading import first_rows, hold_out, read_rows, refuse_bad
from ctwa.data.settings import Columns, RowSettings
from ctwa.errors import CtwaError

Rows = list[dict[str, Any]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


FORMS: dict[str, tuple[Rows, list[tuple[list[dict[str, str]], Any]]]] = {
    "verl": (
        [{"prompt": [user(f"{n}?")], "reward_model": {"ground_truth": f"{n}"}} for n in range(3)],
        [([user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "gsm8k": (
        [{"question": f"{n}?", "answer": f"It is {n},\nor so.\n#### {n},000"} for n in range(1, 4)],
        [([user(f"{n}?")], f"{n}000") for n in range(1, 4)],
    ),
    "math": (
        [{"problem": f"{n}?", "solution": rf"So $\boxed{{\frac{{{n}}}{{2}}}}$.", "level": n} for n in range(3)],
        [([user(f"{n}?")], rf"\frac{{{n}}}{{2}}") for n in range(3)],
    ),
    "math-500": (
        [{"problem": f"{n}?", "solution": rf"So \boxed{{{n}}}.", "answer": f"{n}", "unique_id": "a"} for n in range(3)],
        [([user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "trl text": (
        [{"prompt": f"{n}?", "ground_truth": f"{n}"} for n in range(3)],
        [([user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "trl messages": (
        [{"prompt": [{"role": "system", "content": "S"}, user(f"{n}?")], "solution": f"{n}"} for n in range(3)],
        [([{"role": "system", "content": "S"}, user(f"{n}?")], f"{n}") for n in range(3)],
    ),
    "openai": (
        [{"messages": [user("Hi"), assistant("Hello"), user(f"{n}?"), assistant(f"{n}!")]} for n in range(3)],
        [([user("Hi"), assistant("Hello"), user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "sharegpt": (
        [
            {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"{n}!"}], "system": "S"}
            for n in range(3)
        ],
        [([{"role": "system", "content": "S"}, user(f"{n}?")], f"{n}!") for n in range(3)],
    ),
    "alpaca": (
        [{"instruction": f"{n}?", "input": "as a word" * (n % 2), "output": f"{n}!"} for n in range(3)],
        [([user(f"{n}?" + "\n\nas a word" * (n % 2))], f"{n}!") for n in range(3)],
    ),
    "dolly": (
        [{"instruction": f"{n}?", "context": "Think.", "response": f"{n}!", "category": "qa"} for n in range(3)],
        [([user(f"{n}?\n\nThink.")], f"{n}!") for n in range(3)],
    ),
    "no answer": ([{"prompt": f"{n}?"} for n in range(3)], [([user(f"{n}?")], None) for n in range(3)]),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def file(rows: Rows, kind: str = "jsonl") -> str:
        path = tmp_path / f"sums.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif kind == "json":
            path.write_text(json.dumps(rows, indent=1))
        elif kind == "folder":
            datasets.Dataset.from_list(rows).save_to_disk(path)
        elif kind in ("csv", "tsv"):
            with path.open("w", newline="") as out:
                writer = csv.DictWriter(out, rows[0], delimiter="," if kind == "csv" else "\t")
                writer.writeheader()
                writer.writerows(
                    {key: json.dumps(each) if isinstance(each, list) else each for key, each in row.items()}
                    for row in rows
                )
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return file


def spelled(name: str) -> str:
    return f"data.{name}"


def read(source: str, **settings: Any) -> reading.Rows:
    rows = read_rows([open_rows(source)], RowSettings(**settings), spelled)
    refuse_bad(rows.bad, len(rows) + len(rows.bad), spelled)
    return rows


def plain(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{key: message[key] for key in ("role", "content")} for message in messages]


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (form, kind)
        for form in FORMS
        for kind in ("jsonl", "json", "parquet", "csv", "tsv", "folder")
        if not (kind in ("csv", "tsv") and form in ("verl", "sharegpt"))  # a table of texts has no dicts
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


class TestAnswers:
    @pytest.mark.parametrize(
        ("rule", "text", "found"),
        [
            ("as_is", "a #### 7 ", "a #### 7 "),
            ("hashes", "1\n#### 7", "7"),
            ("hashes", "#### 1\n####-1,234.5 \nthe end", "-1234.5"),
            ("hashes", "#### 1,2", "1,2"),
            ("boxed", r"\boxed{1} or \boxed{\text{a}}", r"\text{a}"),
            ("last_number", "It costs $1,234.50.", "1234.50"),
            ("last_number", "10-3 = 7 apples, in 2 bags", "2"),
            ("last_number", "from 5 to -3", "-3"),
            ("last_number", "10-3", "3"),
            ("last_number", "x=.5", ".5"),
            ("last_number", "12,34", "34"),
        ],
    )
    def test_what_a_rule_takes(self, rule: Rule, text: str, found: str) -> None:
        assert extract(text, rule) == (found, None)

    @pytest.mark.parametrize(
        ("rule", "answer", "fault"),
        [
            ("hashes", "seven", "has no #### with something behind it: the text 'seven'"),
            ("hashes", "seven ####\n ", "has no #### with something behind it"),
            ("boxed", r"\boxed{1", r"has no \boxed{...} that is closed"),
            ("last_number", "seven", "has no number"),
            ("last_number", 7, "is the number 7, and the rule 'last_number' reads text"),
            ("boxed", None, "is null, and the rule 'boxed' reads text"),
        ],
    )
    def test_where_there_is_nothing(self, rule: Rule, answer: Any, fault: str) -> None:
        found, said = extract(answer, rule)
        assert found is None
        assert fault in (said or "")

    def test_the_rule_that_an_answer_suggests(self) -> None:
        answers = ["#### 7", "1\n#### 7\n", "#### A heading\nand more", r"so \boxed{7}", r"\boxed{7", "7", 7, None]
        assert [rule_for(answer) for answer in answers] == [
            *("hashes", "hashes", "as_is", "boxed", "as_is", "as_is", "as_is", "as_is")
        ]

    def test_most_answers_decide(self, write: Callable[..., str]) -> None:
        """A first row that is unlike the others would have all of them taken, or refused, by its own rule."""
        answers = ["no idea", *(f"#### {n}" for n in range(5)), r"so \boxed{7}"]
        rows = [{"question": f"{n}?", "answer": answer} for n, answer in enumerate(answers)]

        assert find_form(open_rows(write(rows)), RowSettings(), spelled).rule == "hashes"
        assert find_form(open_rows(write(rows[:2])), RowSettings(), spelled).rule == "as_is"  # as many: the first

    def test_rows_without_one_are_named(self, write: Callable[..., str]) -> None:
        rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(20)]
        for bad in (3, 7, 8):
            rows[bad]["answer"] = "none"
        source = write(rows)

        with pytest.raises(CtwaError) as error:
            read(source)
        assert str(error.value) == (
            f"{source}, row 3 (from 0): its answer has no #### with something behind it: the text 'none'. 2 more of 20 "
            "rows cannot be used (row 7, row 8): mend them, or leave them out with data.bad_rows=skip"
        )
        with pytest.raises(CtwaError, match=r"the text 'none'. Mend it, or leave such rows out with data.bad_rows=sk"):
            first_rows(source, RowSettings(), spelled, 4)
        first = first_rows(source, RowSettings(bad_rows="skip"), spelled, 4)
        assert [row["question"] for row in first] == ["0?", "1?", "2?", "4?"]
        kept = read_rows([open_rows(source)], RowSettings(bad_rows="skip"), spelled)
        assert [index for _, index in kept.places] == [index for index in range(20) if index not in (3, 7, 8)]
        assert [each.index for each in kept.bad] == [3, 7, 8]

        rows[7]["answer"] = rows[8]["answer"] = "#### 7"
        with pytest.raises(CtwaError, match=r"It alone of 20 rows cannot be used: mend it, or leave it"):
            read(write(rows))

    @pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
    def test_one_that_is_asked_for_has_to_be_there(self, write: Callable[..., str], kind: str) -> None:
        rows = [{"question": f"{n}?", "answer": None if n % 2 else f"{n}"} for n in range(4)]
        source = write(rows, kind)

        assert read(source).without_truth == [1, 3]
        kept = read_rows([open_rows(source)], RowSettings(answer="as_is", bad_rows="skip"), spelled)
        assert ([each.index for each in kept.bad], kept.without_truth) == ([1, 3], [])
        with pytest.raises(CtwaError, match="its answer is null; write one, or leave the row out"):
            read(source, answer="as_is")

    def test_what_is_not_a_number_is_none(self, write: Callable[..., str]) -> None:
        source = write([{"question": f"{n}?", "answer": answer} for n, answer in enumerate([1.5, float("nan")])])
        assert read(source).without_truth == [1]


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
                {"prompt": [user("a"), assistant("b")], "answer": "c"},
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
        rows = [{"prompt": json.dumps([user("1?")]), "answer": "1"}, {"prompt": "[{ is how it begins", "answer": "2"}]
        made = read(write(rows, "parquet")).table.to_pylist()

        assert [row["prompt"] for row in made] == [[user("1?")], [user("[{ is how it begins")]]

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


class TestTables:
    @pytest.mark.parametrize(
        ("second", "said"),
        [
            ({"question": "2?", "answer": 2}, "row 1 (from 0): its answer is a number, and that of row 0 is text"),
            ({"question": "2?", "answer": "2", "tags": "a"}, "row 1 (from 0): its tags is text, and that of row 0 is"),
        ],
    )
    def test_a_column_of_two_kinds(self, write: Callable[..., str], second: dict[str, Any], said: str) -> None:
        with pytest.raises(CtwaError) as error:
            read(write([{"question": "1?", "answer": "1", "tags": ["a"]}, second]))
        assert said in str(error.value)

    def test_whole_ground_truths_stay_whole(self, write: Callable[..., str]) -> None:
        rows = [{"question": "1?", "answer": 1}, {"question": "2?", "answer": 2.5}]
        with pytest.raises(CtwaError, match=r"its reward_model\.ground_truth is a fraction, and that of row 0"):
            read(write(rows))

    def test_columns_that_come_late_and_dicts_without_a_key(
        self, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "_CHUNK", 2)
        rows: Rows = [{"question": f"{n}?", "meta": {}} for n in range(3)]
        rows += [{"question": "3?", "answer": "3", "messages": None}, {"question": "4?", "meta": {"level": 1}}]
        found = read(write(rows))
        made = found.table.to_pylist()

        assert [row["meta"] for row in made] == [None, None, None, None, {"level": 1}]
        assert [row["reward_model"]["ground_truth"] for row in made] == [None, None, None, "3", None]
        assert found.without_truth == [0, 1, 2, 4]

    def test_several_files_of_several_forms(self, write: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "gsm8k").mkdir()
        path = tmp_path / "gsm8k" / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in FORMS["gsm8k"][0]))
        rows = read_rows([open_rows(write(FORMS["math"][0])), open_rows(path)], RowSettings(), spelled)

        assert [row["data_source"] for row in rows.table.to_pylist()] == ["sums"] * 3 + ["gsm8k"] * 3
        assert rows.places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


class TestSplit:
    def rows(self, write: Callable[..., str], numbers: list[int]) -> reading.Rows:
        return read(write([{"question": f" {n // 2}?", "answer": f"{n}"} for n in numbers]))

    def test_no_prompt_is_in_both_and_none_is_lost(self, write: Callable[..., str]) -> None:
        rows = self.rows(write, list(range(200)))
        train, held_out = hold_out(rows, 0.1, 0)

        assert (len(train), len(held_out)) == (180, 20)
        assert not set(train.prompts) & set(held_out.prompts)
        assert sorted(train.places + held_out.places) == rows.places
        assert train.table.num_rows == 180

    def test_it_depends_on_the_seed_and_hardly_on_other_rows(self, write: Callable[..., str]) -> None:
        _, held_out = hold_out(self.rows(write, list(range(200))), 0.1, 0)
        _, again = hold_out(self.rows(write, list(reversed(range(200)))), 0.1, 0)
        _, other = hold_out(self.rows(write, list(range(200))), 0.1, 1)
        _, more = hold_out(self.rows(write, list(range(220))), 0.1, 0)

        assert set(again.prompts) == set(held_out.prompts) != set(other.prompts)
        assert len(set(more.prompts) & set(held_out.prompts)) >= 8

    def test_too_few_prompts(self, write: Callable[..., str]) -> None:
        train, held_out = hold_out(self.rows(write, [0, 2]), 0.01, 0)
        assert (len(train), len(held_out)) == (1, 1)
        with pytest.raises(CtwaError, match=r"has 1 prompts, too few to hold any out; give a file to validate on"):
            hold_out(self.rows(write, [0, 1]), 0.5, 0)


class TestCsv:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_texts_with_separators_lines_and_quotes(self, tmp_path: Path, separator: str) -> None:
        text = f'a{separator} "b"\nc'
        content = separator.join(["question", "answer"]) + "\r\n"
        content += separator.join(['"' + text.replace('"', '""') + '"', "007"]) + "\r\n\r\n"
        (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + content.encode())
        (row,) = read(str(tmp_path / "a.csv")).table.to_pylist()

        assert (row["prompt"], row["reward_model"]) == ([user(text)], {"ground_truth": "007"})

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            (b"b,1,2", "it has 3 values where the header has 2; put a text that has ',' or a quote in it in quotes"),
            (b"b", "it has 1 values where the header has 2"),
            (b"caf\xe9,1", "its question is not UTF-8; save the file as UTF-8"),
            (b",1", "its question is null"),
        ],
    )
    def test_lines_that_are_no_rows(self, tmp_path: Path, line: bytes, fault: str) -> None:
        (tmp_path / "a.csv").write_bytes(b"question,answer\na,0\n" + line + b"\n")
        with pytest.raises(CtwaError, match=r"a\.csv, row 1 \(from 0\): ") as error:
            read(str(tmp_path / "a.csv"))
        assert fault in str(error.value)

    def test_spaces_behind_separators_and_empty_records_below(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text('question, answer\n"a, b", "1, 2"\nc, 3\n,\n\n, \n')
        found = read(str(tmp_path / "a.csv")).table.to_pylist()

        assert [row["prompt"] for row in found] == [[user("a, b")], [user("c")]]
        assert [row["reward_model"]["ground_truth"] for row in found] == ["1, 2", "3"]
        assert open_rows(tmp_path / "a.csv").num_rows == 2

    def test_a_text_of_a_megabyte(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(f"question,answer\n{'a' * 1_000_000},1\n")
        assert len(read(str(tmp_path / "a.csv"))) == 1


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
