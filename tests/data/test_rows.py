"""What is said about a data file or a row that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctwa.data import formats
from ctwa.data.files import open_rows
from ctwa.data.formats import Row
from ctwa.data.rows import Kinds, row_fault
from ctwa.errors import CtwaError

ROW = {"prompt": [{"role": "user", "content": "What is 1 + 1?"}], "reward_model": {"ground_truth": "2"}}


def fault_of(needs_ground_truth: bool = True, **columns: Any) -> str | None:
    return row_fault(Row(0, ROW | columns), needs_ground_truth=["accuracy"] if needs_ground_truth else [])


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"extra_info": None, "data_source": None, "level": 3},
        {"extra_info": {"index": 1}},
        {"prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "a"}]},
        {"prompt": [{"role": "assistant", "content": ""}, {"role": "user", "content": "a", "name": None}]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"reward_model": {"ground_truth": ["1", "2"]}},
        {"reward_model": {"ground_truth": 0}},
        {"reward_model": {"ground_truth": ""}},
    ],
    ids=str,
)
def test_a_row_that_can_be_used(columns: dict[str, Any]) -> None:
    assert fault_of(**columns) is None


MESSAGES = 'write a list of messages: [{"role": "user", "content": "..."}]'


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("What?", f"its prompt is the text 'What?'; {MESSAGES}"),
        ('[{"role": "user", "content": "a"}]', "its prompt is the text '[{"),
        (None, f"its prompt is null; {MESSAGES}"),
        ([], f"its prompt is an empty list; {MESSAGES}"),
        ({"role": "user", "content": "a"}, "its prompt is the dict {'role': 'user', 'content': 'a'}; write a list"),
        (7, "its prompt is the number 7;"),
        (float("nan"), "its prompt is the number nan;"),
        (b"a", "its prompt is the bytes b'a';"),
        (["a"], "message 0 of its prompt is the text 'a'; write {"),
        ([None], "message 0 of its prompt is null; write {"),
        ([{"role": "user"}], "message 0 of its prompt has no content (it has 'role'); write {"),
        ([{"content": "a"}], "message 0 of its prompt has no role (it has 'content'); write {"),
        ([{"role": "user", "content": None}], "message 0 of its prompt has no content (it has 'role')"),
        ([{"role": None, "content": "a"}], "message 0 of its prompt has no role (it has 'content')"),
        ([{"from": "human", "value": "a"}], "has no role and no content (it has 'from', 'value'); write {"),
        ([{}], "has no role and no content (it has nothing)"),
        ([{"role": "user", "content": ""}], "message 0 of its prompt is a user's and empty; write what the user says"),
        ([{"role": "user", "content": " \n"}], "message 0 of its prompt is a user's and empty"),
        ([{"role": "user", "content": 7}], "message 0 of its prompt has a content that is the number 7; write a text"),
        ([{"role": "user", "content": []}], "message 0 of its prompt has a content that is the list []; write a text"),
        ([{"role": "user", "content": "\ud83d"}], r"its prompt has half a surrogate pair (\ud83d, character 0)"),
        (
            [{"role": "user", "content": [{"type": "text", "text": " "}]}],
            "message 0 of its prompt is a user's and empty",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "\ud83d"}, {"type": "image"}]}],
            "half a surrogate pair",
        ),
        ([{"role": "system", "content": "a"}], "its prompt has no message of a user; write what the user says"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "its prompt ends with a message of the assistant, an answer; leave it out",
        ),
        ([{"role": "human", "content": "a"}], "message 0 of its prompt has the role 'human'; write 'user'"),
        ([{"role": "GPT", "content": "a"}], "has the role 'GPT'; write 'assistant'"),
        ([{"role": "User", "content": "a"}], "has the role 'User'; write 'user'"),
        ([{"role": "usr", "content": "a"}], "has the role 'usr'; write 'user'"),
        ([{"role": "", "content": "a"}], "has the role ''; write one of system, developer, user, assistant, tool"),
        ([{"role": 3, "content": "a"}], "has the role 3; write one of"),
        (
            [{"role": "user", "content": "a"}, {"role": "x!", "content": "b"}],
            "message 1 of its prompt has the role 'x!'",
        ),
    ],
    ids=str,
)
def test_a_prompt_that_is_none(prompt: Any, fault: str) -> None:
    assert (fault_of(prompt=prompt) or "").find(fault) >= 0, fault_of(prompt=prompt)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"reward_model": None}, "it has no reward_model, which the objectives ('accuracy') ask for; write"),
        ({"reward_model": {}}, "it has no ground truth in its reward_model, which the objectives ('accuracy')"),
        ({"reward_model": {"ground_truth": None}}, "it has no ground truth in its reward_model"),
        ({"reward_model": {"ground_truth": float("nan")}}, "it has no ground truth in its reward_model"),
    ],
    ids=str,
)
def test_a_ground_truth_that_is_missing_is_one_where_an_objective_needs_it(columns: dict[str, Any], fault: str) -> None:
    assert fault in (fault_of(**columns) or "")
    assert fault_of(needs_ground_truth=False, **columns) is None


def test_other_columns() -> None:
    assert "its reward_model is the text '2'; write" in (fault_of(needs_ground_truth=False, reward_model="2") or "")
    assert "its extra_info is the text 'a'; write a dict" in (fault_of(extra_info="a") or "")
    without = Row(0, {"question": "?", "answer": "!"})
    assert (row_fault(without) or "").startswith(
        "it has no column 'prompt' (it has question, answer); write rows like {"
    )
    assert row_fault(Row(0, ROW | {"prompt": "a"}), text_prompts=True) is None


def test_what_a_column_holds_is_of_one_kind() -> None:
    def second(first: Any, then: Any) -> str | None:
        kinds = Kinds()
        assert kinds.fault("row 0", Row(0, {"reward_model": {"ground_truth": first}, "n": 1, "x": None})) is None
        return kinds.fault("row 1", Row(1, {"reward_model": {"ground_truth": then}, "n": 1.5, "y": "a"}))

    assert second("1", "2") is None
    assert second(None, "2") is None
    assert "its reward_model.ground_truth is a number, and that of row 0 is text" in (second("1", 2) or "")
    assert "its reward_model.ground_truth is a fraction, and that of row 0 is a number" in (second(1, 2.5) or "")
    assert "its reward_model.ground_truth[] is text" in (second([1], ["1"]) or "")


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, content: bytes | str | list[Any]) -> Path:
        path = tmp_path / name
        if isinstance(content, list) and path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(content), path, row_group_size=50)
        elif isinstance(content, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return file


NUMBERED = [ROW | {"number": number} for number in range(500)]


class TestReading:
    @pytest.mark.parametrize(
        "file",
        [
            ("a.parquet", NUMBERED),
            ("a.jsonl", NUMBERED),
            ("a.json", json.dumps(NUMBERED, indent=1)),
            ("a.jsonl", "\r\n\r\n".join(map(json.dumps, NUMBERED))),
            ("a.jsonl", "\ufeff" + "\n".join(map(json.dumps, NUMBERED))),
        ],
        ids=["parquet", "lines", "list", "dos", "bom"],
    )
    def test_the_first_row_and_random_ones(self, write: Write, file: tuple[str, Any]) -> None:
        rows = open_rows(write(*file))
        numbers = [row.values["number"] for row in rows.sample(100)]

        assert rows.num_rows == 500
        assert numbers[0] == 0
        assert len(set(numbers)) == 101
        assert numbers == sorted(numbers) == [row.index for row in rows.sample(100)]
        assert numbers[-1] > 450
        assert [row.values["number"] for row in rows.head(3)] == [0, 1, 2]
        assert len(rows.sample(1000)) == 500

    def test_of_a_large_file_a_part_is_read(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "MAX_BYTES", 6000)  # two or three groups of the ten
        groups = {row.index // 50 for row in open_rows(write("a.parquet", NUMBERED)).sample(1000)}

        assert 0 in groups
        assert 2 <= len(groups) < 6

    def test_a_file_without_rows(self, write: Write, tmp_path: Path) -> None:
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "none.parquet")
        for path in (tmp_path / "none.parquet", write("none.jsonl", "\n"), write("none.json", "[]")):
            assert open_rows(path).num_rows == 0
            assert open_rows(path).sample(9) == open_rows(path).head(9) == []

    @pytest.mark.parametrize(
        "kind", [pa.timestamp("us", "Europe/Nowhere"), pa.timestamp("us"), pa.date64(), pa.duration("s")], ids=str
    )
    def test_a_value_that_python_has_not_is_told_by_its_row(self, kind: pa.DataType, tmp_path: Path) -> None:
        longest = pa.array([0, 2**59, 0], pa.int64()).cast(kind)
        pq.write_table(pa.table({"when": longest}), tmp_path / "a.parquet")
        file = open_rows(tmp_path / "a.parquet")

        for rows in (file.head(3), file.sample(9)):
            assert "its when is no value of Python's" in (row_fault(rows[1]) or "")
            assert [row.index for row in rows] == [0, 1, 2]

    def test_text_that_is_not_utf_8_is_told_by_its_row(self, tmp_path: Path, write: Write) -> None:
        texts = pa.array([b"a", b"\xff\xfe", b"c"]).cast(pa.binary()).view(pa.string())
        pq.write_table(pa.table({"number": [0, 1, 2], "text": texts}), tmp_path / "a.parquet")
        faults = [row_fault(row) for row in open_rows(tmp_path / "a.parquet").sample(9)]
        lines = open_rows(write("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n')).sample(9)

        assert "its text is not UTF-8" in (faults[1] or "")
        assert lines[1].index == 1
        assert "it is not JSON ('utf-8' codec can't decode" in (row_fault(lines[1]) or "")

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            ("{", "it is not JSON (Expecting property name"),
            ("prompt,answer", "it is not JSON (Expecting value"),
            (
                '{"prompt": 1, "prompt": 2}',
                "it is not JSON (the key 'prompt' is there twice; line 2 of the file); write",
            ),
            ("7", "it is the number 7; write an object with the columns"),
            ('"a"', "it is the text 'a'; write an object"),
            ("[" * 20_000, "it is not JSON (maximum recursion depth"),
        ],
    )
    def test_lines_that_are_no_rows(self, write: Write, line: str, fault: str) -> None:
        path = write("a.jsonl", json.dumps(ROW) + "\n" + line + "\n")

        assert fault in (row_fault(open_rows(path).sample(9)[1]) or "")

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            (
                "a.txt",
                "prompt\na\n",
                "a.txt has the suffix '.txt'; give a file that ends with .parquet, .jsonl, .json, .csv",
            ),
            ("a.csv", "", "a.csv is empty; give a file with a header and rows"),
            ("a.csv", "prompt,prompt\n", "a.csv has the column 'prompt' twice"),
            ("a.csv", 'prompt\n"a\n', "a.csv cannot be read as CSV (unexpected end of data); close its quotes"),
            ("a.csv", "prompt\na\n".encode("utf-16"), "a.csv is written in UTF-16; save it as UTF-8"),
            ("a.csv", "prompt\na\n".encode("utf-16-le"), "a.csv is written in UTF-16, or is no text; save it as UTF-8"),
            ("a.jsonl", '{"prompt": "a"}'.encode("utf-16-be"), "a.jsonl is written in UTF-16, or is no text"),
            (
                "a.json",
                '{\n "version": 1,\n "data": []\n}',
                "a.json is one object, with the keys version, data; write a list",
            ),
            ("a", "prompt\na\n", "a has the suffix ''"),
            ("a.jsonl.gz", b"\x1f\x8b", "a.jsonl.gz is compressed; unpack it first (gunzip -k "),
            (
                "a.parquet",
                '{"prompt": []}',
                "a.parquet is not a parquet file; name it .jsonl if it has a JSON object a line, .csv if it has commas",
            ),
            ("a.jsonl", b"PAR1....", "a.jsonl is a parquet file; name it .parquet"),
            ("a.parquet", b"", "a.parquet is damaged or cut off (Parquet file size is 0 bytes)"),
            (
                "a.parquet",
                b"PAR1" + bytes(99),
                "a.parquet is damaged or cut off (Parquet magic bytes not found in footer",
            ),
            ("a.json", "[{]", "a.json is not JSON (Expecting property name"),
        ],
    )
    def test_files_of_another_kind(self, write: Write, name: str, content: Any, said: str) -> None:
        with pytest.raises(CtwaError) as error:
            open_rows(write(name, content))
        assert said in str(error.value)

    def test_pages_that_are_damaged(self, write: Write) -> None:
        path = write("a.parquet", NUMBERED)
        content = bytearray(path.read_bytes())
        start = len(content) // 3
        content[start : start + 400] = b"\xff" * 400
        path.write_bytes(content)

        with pytest.raises(CtwaError, match=r"cannot be read from row \d+ on: it is damaged .*; write it again"):
            open_rows(path).sample(100)

    def test_a_file_that_may_not_be_read(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write("a.parquet", NUMBERED)

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(
            CtwaError, match=r"a.parquet cannot be read \(Permission denied\); mend that, or give another"
        ):
            open_rows(path)


class TestFolders:
    def said(self, folder: Path | str) -> str:
        with pytest.raises(CtwaError) as error:
            open_rows(folder)
        return str(error.value)

    def test_of_save_to_disk(self, tmp_path: Path) -> None:
        datasets.Dataset.from_list(NUMBERED).save_to_disk(tmp_path / "one")
        file = open_rows(tmp_path / "one")

        assert (file.num_rows, file.kind) == (500, "a folder of datasets.save_to_disk")
        assert [row.values for row in file.rows()] == NUMBERED
        assert len(file.sample(100)) == 101
        (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"nothing")
        assert "one cannot be read (" in self.said(tmp_path / "one")

    def test_of_save_to_disk_with_splits(self, tmp_path: Path) -> None:
        one = datasets.Dataset.from_list(NUMBERED)
        datasets.DatasetDict({"train": one, "test": one.select(range(3))}).save_to_disk(tmp_path / "both")
        both = f"{tmp_path}/both"

        assert open_rows(f"{both}:test").num_rows == 3
        assert self.said(both).endswith(f"both names no split; write {both}:test or {both}:train")
        assert self.said(f"{both}:tset").endswith(f"has no split 'tset'; write {both}:test or {both}:train")
        datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "single")
        assert open_rows(tmp_path / "single").num_rows == 500

    def test_with_files(self, tmp_path: Path) -> None:
        assert self.said(tmp_path).endswith("is a folder; give a .parquet, .jsonl, .json, .csv or .tsv file")
        (tmp_path / "config.json").write_text("")
        (tmp_path / "b.jsonl").write_text("")
        (tmp_path / "a.parquet").write_text("")
        assert self.said(tmp_path).endswith(f"is a folder; name its files: [{tmp_path}/a.parquet,{tmp_path}/b.jsonl]")

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        assert "none.parquet does not exist; give a .parquet, .jsonl" in self.said(tmp_path / "none.parquet")
        assert self.said(tmp_path / "*.csv").endswith(
            "*.csv is a pattern, and no file is like it; give a .parquet, .jsonl, .json, .csv or .tsv file"
        )
        (tmp_path / "train.parquet").touch()
        assert self.said(tmp_path / "trian.parquet").endswith(f"; did you mean {tmp_path}/train.parquet?")
        (tmp_path / "train-2.parquet").touch()
        assert self.said(tmp_path / "tr*.parquet").endswith(
            "tr*.parquet is a pattern; name the files that are like it: "
            f"[{tmp_path}/train-2.parquet,{tmp_path}/train.parquet]"
        )
        twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["prompt", "prompt"])
        pq.write_table(twice, tmp_path / "twice.parquet")
        assert "twice.parquet has the column 'prompt' twice; write it once" in self.said(tmp_path / "twice.parquet")
        os.mkfifo(tmp_path / "pipe.jsonl")
        assert "pipe.jsonl is no file, but a pipe or device; give" in self.said(tmp_path / "pipe.jsonl")
