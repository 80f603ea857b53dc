"""Tables of texts: what stands in a CSV file, and lines that are no rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctwa.data.files import open_rows
from ctwa.errors import CtwaError
from tests.data.rows import read, user


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

    @pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_first_line_of_a_spreadsheet(self, tmp_path: Path, separator: str, end: str) -> None:
        lines = [f"sep={separator}", separator.join(["question", "answer"]), separator.join(["a", "1"])]
        (tmp_path / "a.csv").write_bytes("".join(line + end for line in lines).encode())
        (row,) = read(str(tmp_path / "a.csv")).table.to_pylist()

        assert (row["prompt"], row["reward_model"]) == ([user("a")], {"ground_truth": "1"})

    def test_a_text_of_a_megabyte(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(f"question,answer\n{'a' * 1_000_000},1\n")
        assert len(read(str(tmp_path / "a.csv"))) == 1
