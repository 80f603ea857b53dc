"""What is in a log more than once, in another order, or in no number: taken, left out and said, or refused."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ctwa.errors import CtwaError
from ctwa.imports.forms import read_history
from ctwa.imports.make import import_run, imported_text
from ctwa.imports.rows import Row, history_of
from ctwa.run.jsonl import read_jsonl

NAN = math.nan


def logged(steps: Iterable[int], value: float, key: str = "reward/a", every: int = 1) -> list[Row]:
    return [Row(step, {key: value + step / 64}) for step in steps if step % every == 0]


def values(rows: Iterable[Row], key: str = "reward/a") -> dict[int, float]:
    steps = history_of("a log", rows).steps
    return {step: steps[step][key] for step in sorted(steps) if key in steps[step]}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text(json.dumps(list(rows)))
    return path


def verl_rows(*, count: int = 1) -> list[dict[str, Any]]:
    """As W&B has them of verl: the validation before training has no step of the trainer's."""
    first = {"_step": 0, "val-core/math/a/mean@1": 0.75}
    rows = [{"_step": count * step, "training/global_step": step, "reward/a/mean": 0.5} for step in range(1, 41)]
    rows[39]["val-core/math/a/mean@1"] = 0.25
    return [first, *rows]


def test_the_validation_before_training_is_at_step_0(tmp_path: Path) -> None:
    made = import_run([write_rows(tmp_path / "run.json", verl_rows())], tmp_path / "imported")

    assert made.summary.objectives["a"].change == -0.5
    assert made.history.notes == []


def test_a_row_whose_step_is_not_known_is_left_out_and_said(tmp_path: Path) -> None:
    """Of transformers `_step` counts calls to `log`, and is no step of the training."""
    rows = [{"_step": 1, "system/gpu": 0.5}, *verl_rows(count=2)]
    made = import_run([write_rows(tmp_path / "run.json", rows)], tmp_path / "imported")

    told = "1 row without a number as training/global_step left out"
    assert made.history.notes == [told]
    assert told in imported_text(made)
    assert told in [event["text"] for event in read_jsonl(made.folder.events)]
    assert min(made.history.steps) == 1


def test_of_a_row_with_nan_alone_nothing_is_left_out(tmp_path: Path) -> None:
    """A table has NaN in the empty cells of a row of the system."""
    rows = [{"training/global_step": step, "reward/a": 0.5, "system/gpu": NAN} for step in (1, 2)]
    of_system = {"training/global_step": NAN, "reward/a": NAN, "system/gpu": 0.5}
    history = read_history(write_rows(tmp_path / "run.json", [rows[0], of_system, rows[1]]))

    assert [history.steps[step]["reward/a"] for step in (1, 2)] == [0.5, 0.5]
    assert history.notes == []


@pytest.mark.parametrize("order", [1, -1])
def test_nan_takes_no_number_s_place(order: int) -> None:
    """A table has it in the cells of what a row says nothing of."""
    rows = [Row(1, {"reward/a": 0.5, "eval/a": NAN}), Row(1, {"reward/a": NAN, "eval/a": 0.25})][::order]
    history = history_of("a log", [*rows, Row(2, {"reward/a": 0.5, "loss": NAN})])

    assert history.steps[1] == {"reward/a": 0.5, "eval/a": 0.25}
    assert math.isnan(history.steps[2]["loss"])  # which never was a number


def test_a_table_with_nan_is_what_it_is_with_empty_cells(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = []
    for step in range(1, 6):
        rows += [
            {"_step": 2 * step, "train/global_step": step, "reward/a": step / 8, "eval/reward/a": NAN},
            {"_step": 2 * step + 1, "train/global_step": step, "reward/a": NAN, "eval/reward/a": step / 16},
        ]
    table = pandas.DataFrame(rows)
    table.to_csv(tmp_path / "empty.csv", index=False)
    table.to_csv(tmp_path / "nan.csv", index=False, na_rep="NaN")
    (tmp_path / "nan.json").write_text(json.dumps(table.to_dict(orient="records")))
    (tmp_path / "nan.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_dict(orient="records")))
    found = [read_history(tmp_path / name).steps for name in ("empty.csv", "nan.csv", "nan.json", "nan.jsonl")]

    assert found[0][3] == {"reward/a": 3 / 8, "eval/reward/a": 3 / 16}
    assert found == [found[0]] * 4


@pytest.mark.parametrize("missing", [NAN, None])
def test_a_table_without_an_empty_cell_has_nan_in_their_place(missing: float | None, tmp_path: Path) -> None:
    """A run that was validated at every second step had no result at the others."""
    rows = [
        {"_step": step, "reward/a": 0.5 if step != 3 else NAN, "eval/reward/a": step / 8 if step % 2 == 0 else missing}
        for step in range(1, 6)
    ]
    rows = [{**row, "loss": 0.5 if row["_step"] < 4 else NAN} for row in rows]
    steps = read_history(write_rows(tmp_path / "run.json", rows)).steps

    assert {step: each["eval/reward/a"] for step, each in steps.items() if "eval/reward/a" in each} == {2: 0.25, 4: 0.5}
    assert ("reward/a" in steps[3]) == (missing is None)  # where missing cells are empty, NaN was logged
    assert math.isnan(steps[4]["loss"])  # it diverged
    assert math.isnan(steps[5]["loss"])


class TestAResumedRun:
    def test_what_it_gave_up_is_left_out(self) -> None:
        """It was at 50, and was resumed from 30: a report was over 50 steps, the last 10 of them given up."""
        rows = [*logged(range(1, 51), 0.0), *logged(range(31, 41), 8.0)]
        history = history_of("a log", rows)

        assert values(rows) == values([*logged(range(1, 31), 0.0), *logged(range(31, 41), 8.0)])
        assert history.notes == [
            "steps go back from 50 to 31, from where the run was resumed: the later steps of before are left out"
        ]

    def test_its_validations_are_given_up_with_it(self) -> None:
        train, again = logged(range(1, 51), 0.0), logged(range(31, 41), 8.0)
        held_out = [Row(step, {"val/a": step / 64}) for step in (20, 30, 50)]
        rows = [*train[:20], held_out[0], *train[20:30], held_out[1], *train[30:], held_out[2], *again]

        assert values(rows, "val/a") == {20: 20 / 64, 30: 30 / 64}

    def test_it_may_validate_before_its_first_step(self) -> None:
        rows = [*logged(range(1, 51), 0.0), Row(40, {"val/a": 0.5}), Row(30, {"val/a": 0.25})]
        rows += logged(range(31, 41), 8.0)

        assert values(rows, "val/a") == {30: 0.25}
        assert values(rows) == values([*logged(range(1, 31), 0.0), *logged(range(31, 41), 8.0)])

    def test_it_may_be_resumed_twice_and_log_more_often(self) -> None:
        rows = [*logged(range(1, 51), 0.0, every=10), *logged(range(25, 41), 4.0, every=5), *logged(range(35, 61), 8.0)]

        assert values(rows) == values([*logged((10, 20), 0.0), *logged((25, 30), 4.0), *logged(range(35, 61), 8.0)])
        assert [note.split(",")[0] for note in history_of("a log", rows).notes] == [
            "steps go back from 50 to 25",
            "steps go back from 40 to 35",
        ]

    def test_of_tensorboard_the_order_is_that_of_time(self, tmp_path: Path) -> None:
        for seconds, steps in ((1000, range(1, 11)), (2000, range(6, 9))):
            writer = EventFileWriter(str(tmp_path), filename_suffix=f".{seconds}")
            for step in steps:
                tags = [Summary.Value(tag=f"reward/{name}", simple_value=seconds) for name in "ab"]
                writer.add_event(Event(step=step, wall_time=seconds + step, summary=Summary(value=tags)))
            writer.close()
        history = read_history(tmp_path)

        for name in "ab":
            assert [history.steps[step][f"reward/{name}"] for step in sorted(history.steps)] == [1000] * 5 + [2000] * 3
        assert len(history.notes) == 1


class TestNoResumedRun:
    @pytest.mark.parametrize("seed", range(5))
    def test_rows_in_no_order_are_all_taken(self, seed: int) -> None:
        rows = [*logged(range(1, 51), 0.0), *logged(range(1, 51), 0.5, "val/a", every=10)]
        wanted = history_of("a log", rows).steps
        random.Random(seed).shuffle(rows)
        history = history_of("a log", rows)

        assert (history.steps, history.notes) == (wanted, [])

    def test_nor_are_rows_of_the_newest_first(self) -> None:
        rows = [Row(row.step, {"reward/a": 0.5, f"part/{part}": 0.5}) for row in logged(range(50), 0) for part in "ab"]

        assert history_of("a log", rows[::-1]).steps == history_of("a log", rows).steps
        assert history_of("a log", rows[::-1]).notes == []

    def test_validations_that_come_late_or_again_give_nothing_up(self) -> None:
        train = logged(range(1, 51), 0.0)
        rows = [each for row in train for each in (row, Row(row.step - 1, {"val/a": 0.5} if row.step % 5 == 1 else {}))]
        again = [Row(step, {"val/a": 0.5}) for step in (10, 20, 30)]

        assert values([*rows, *again]) == values(train)
        assert history_of("a log", [*rows, *again]).notes == []

    def test_several_runs_in_one_table_are_refused(self) -> None:
        rows = [*logged(range(1, 51), 0.0), *logged(range(1, 51), 8.0)]
        with pytest.raises(CtwaError, match="go back from 50 to 1, and begin anew there: leave the rows of one run"):
            history_of("a log", rows)
        random.Random(0).shuffle(rows)
        with pytest.raises(CtwaError, match="in no order, and some steps are there more than once"):
            history_of("a log", rows)

    def test_several_runs_step_by_step_are_named(self) -> None:
        rows = [
            each for pair in zip(logged(range(1, 51), 0.0), logged(range(1, 51), 8.0), strict=True) for each in pair
        ]

        assert values(rows) == values(logged(range(1, 51), 8.0))
        assert history_of("a log", rows).notes == [
            "50 numbers logged again at the same step with another value, first reward/a at step 1:"
            " the last of each is taken"
        ]


class TestSpreadsheets:
    """Of marks between thousands and decimal commas, which are numbers where one reading is possible."""

    @pytest.mark.parametrize(
        ("separator", "cells", "numbers"),
        [
            (",", ['"1,000"', "0.5", '"2,345.25"', "3.125"], [1000, 0.5, 2345.25, 3.125]),
            (",", ["1 000", '"0,5"', '"2\u202f345,25"', "1e-3"], [1000, 0.5, 2345.25, 1e-3]),
            (";", ["1.000", "0,5", "2.345,25", "3,125"], [1000, 0.5, 2345.25, 3.125]),
            (";", ["1,000", "0.5", "2,345.25", "3.125"], [1000, 0.5, 2345.25, 3.125]),
            ("\t", ["1,000", "0.5", "1,000,000", "1.125"], [1000, 0.5, 1e6, 1.125]),
            ("\t", ["1.000", "0,5", "-1.000.000", "2,5E-05"], [1000, 0.5, -1e6, 2.5e-5]),
            (";", ["1000", "1.125", "2.125", "3.125"], [1000, 1.125, 2.125, 3.125]),
        ],
    )
    def test_numbers_are_read(self, separator: str, cells: list[str], numbers: list[float], tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_text("\n".join(map(separator.join, [["_step", "a", "b", "c"], cells])), encoding="utf-8")

        assert read_history(path).steps == {numbers[0]: dict(zip("abc", numbers[1:], strict=True))}
        assert read_history(path).notes == []

    def test_what_may_be_two_numbers_is_none_and_is_said(self, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_text("_step;a;b;c;d\n1;1,000;1;45%;word\n2,000;1;1;45%;word\n3;1;x;45%;word", encoding="utf-8")
        history = read_history(path)

        assert history.steps == {1: {"b": 1.0}, 3: {"a": 1.0}}
        assert history.notes == [
            "no numbers, and left out: of a 1 cell ('1,000'), c 2 cells ('45%') and b 1 cell ('x')",
            "1 row without a number as _step left out",
        ]

    def test_a_table_of_nothing_else_is_refused_and_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_text("_step;a\n1;1,125\n2;2,125\n", encoding="utf-8")

        with pytest.raises(CtwaError, match=r"no number at any step \(no numbers, and left out: of a 2 cells"):
            read_history(path)

    def test_a_panel_s_steps_are_read_too(self, tmp_path: Path) -> None:
        path = tmp_path / "panel.csv"
        path.write_text('"Step","run - reward/a"\n0,0.125\n"1,000",0.5\nlast,0.75\n', encoding="utf-8")
        history = read_history(path)

        assert history.steps == {0: {"reward/a": 0.125}, 1000: {"reward/a": 0.5}}
        assert history.notes == ["1 row without a number as Step left out"]
