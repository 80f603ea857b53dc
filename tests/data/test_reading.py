"""Rows of several files as one table, and prompts that are held out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctwa.data import reading
from ctwa.data.files import open_rows
from ctwa.data.reading import hold_out, read_rows
from ctwa.data.settings import RowSettings
from ctwa.errors import CtwaError
from tests.data.rows import FORMS, Rows, read, spelled


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

    @pytest.mark.parametrize(
        ("first", "then", "said"),
        [
            ([1, 2], ["1", 2], r"its reward_model\.ground_truth\[\] is text, and that of row 0 is a number"),
            ({"a": 1}, {"a": 1.5}, r"its reward_model\.ground_truth\.a is a fraction"),
            ({"a": 1}, {"b": 2}, r"ground_truth is a dict with b in it, and that of row 0 is a dict with a in it"),
            ({"a": 1}, {}, r"ground_truth is a dict with nothing in it, and that of row 0"),
            ([{"a": 1}], [{"a": 1, "b": 2}], r"ground_truth\[\] is a dict with a, b in it"),
        ],
    )
    def test_nothing_inside_a_ground_truth_is_changed(
        self, write: Callable[..., str], first: Any, then: Any, said: str
    ) -> None:
        with pytest.raises(CtwaError, match=said):
            read(write([{"question": f"{n}?", "answer": truth} for n, truth in enumerate((first, then))]))
        kept = read(write([{"question": f"{n}?", "answer": truth} for n, truth in enumerate((first, None, first))]))
        truths = [row["reward_model"]["ground_truth"] for row in kept.table.to_pylist()]
        assert repr(truths) == repr([first, None, first])  # 1 is equal to 1.0

    @pytest.mark.parametrize("inside", [lambda numbers: numbers, lambda numbers: {"box": [numbers]}])
    def test_lists_are_of_numbers(self, write: Callable[..., str], inside: Callable[[list[float]], Any]) -> None:
        truths = [inside([0.5, 1]), inside([1, 2]), inside([10, 20.5, 30])]
        kept = read(write([{"question": f"{n}?", "answer": truth} for n, truth in enumerate(truths)], "jsonl"))
        assert [row["reward_model"]["ground_truth"] for row in kept.table.to_pylist()] == truths

    def test_a_row_that_no_file_keeps_is_left_out(self, write: Callable[..., str]) -> None:
        rows = [{"question": "1?", "answer": "1"}, {"question": "2?", "answer": "\ud800"}, {"question": "3?"}]
        kept = read_rows([open_rows(write(rows))], RowSettings(bad_rows="skip"), spelled)
        assert ([each.index for each in kept.bad], kept.places) == ([1], [(0, 0), (0, 2)])

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
