"""What is said of objectives and rows that do not find each other, before a run starts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from ctwa.data.files import open_rows
from ctwa.engine.checks.applies import check_applies_to, coverage_lines
from ctwa.engine.checks.config import check_config
from ctwa.engine.data import read_run_data
from ctwa.engine.settings import read_settings
from ctwa.errors import CtwaError

Changed = Callable[[dict[str, Any]], DictConfig]
GSM8K, MATH = {"data_source": "gsm8k"}, {"data_source": "math"}


def files(folder: Path, *, own_form: bool) -> dict[str, Any]:
    """Rows of two sources, the last 4 of 12 to train on ``math``; in a form of the user's own, or verl's."""
    made = {}
    for key, number in (("train_files", 12), ("val_files", 3)):
        rows: list[dict[str, Any]] = []
        for row in range(number):
            source = "gsm8k" if row < 2 * number / 3 else "math"
            if own_form:
                own = {"question": f"{row} + 1 ?", "answer": str(row + 1), "level": row % 2, "data_source": source}
            else:
                own = {
                    "prompt": [{"role": "user", "content": f"{row} + 1 ?"}],
                    "reward_model": {"ground_truth": str(row + 1)},
                    "data_source": source,
                    "extra_info": {"level": row % 2},
                }
            rows.append(own)
        path = folder / f"{key}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made[f"data.{key}"] = [str(path)]
    return made


def applying(**applies_to: dict[str, Any]) -> dict[str, Any]:
    """Objectives of the testbed, and what they apply to."""
    return {f"ctwa.objectives.{name}.applies_to": rows for name, rows in applies_to.items()}


@pytest.mark.parametrize("own_form", [True, False], ids=["own", "verl"])
def test_rows_and_objectives_that_miss_each_other(changed: Changed, tmp_path: Path, own_form: bool) -> None:
    def check(**applies_to: dict[str, Any]) -> None:
        config = changed(files(tmp_path, own_form=own_form) | applying(**applies_to))
        check_applies_to(read_settings(config), read_run_data(config))

    check(accuracy=GSM8K, conciseness=MATH)
    check(accuracy={"level": [0, 1]}, conciseness={"level": 1, **MATH})
    mistakes = {
        "accuracy.applies_to: no row has a value in the column 'data_sorce'; write one of data_source": {
            "data_sorce": "gsm8k"
        },
        "accuracy.applies_to.data_source: no row has 'gms8k'; there are 'gsm8k', 'math'; did you mean 'gsm8k'?": {
            "data_source": ["math", "gms8k"]
        },
        "accuracy.applies_to.level: no row has '1'; there are 0, 1; did you mean 1?": {"level": "1"},
    }
    for message, rows in mistakes.items():
        with pytest.raises(CtwaError, match=re.escape(f"ctwa.objectives.{message}")):
            check(accuracy=rows)
    with pytest.raises(CtwaError, match=r"4 of 12 rows have no objective, .* is row 8: data_source='math'\)"):
        check(accuracy=GSM8K, conciseness=GSM8K, clarity=GSM8K)


def test_columns_are_read_by_themselves_as_in_whole_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "data_source": "ab"[row % 2], "extra_info": {"level": row}} for row in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.parquet", "a.jsonl"):
        found = list(open_rows(tmp_path / name).only(["data_source", "extra_info", "nowhere"]))
        assert found == [{key: row[key] for key in ("data_source", "extra_info")} for row in rows]


def test_an_objective_without_a_row_to_train_on(changed: Changed, tmp_path: Path) -> None:
    own = files(tmp_path, own_form=False)
    with Path(own["data.val_files"][0]).open("a") as file:
        file.write(json.dumps({"prompt": [{"role": "user", "content": "1 ?"}], "data_source": "aime"}) + "\n")
    aime = applying(accuracy={"data_source": "aime"})

    config = changed(own | aime)
    with pytest.raises(
        CtwaError, match=r"objective 'accuracy' applies to no row of data.train_files: .*'aime'.*split=val"
    ):
        check_applies_to(read_settings(config), read_run_data(config))
    config = changed(own | aime | {"ctwa.objectives.accuracy.split": "val"})
    check_applies_to(read_settings(config), read_run_data(config))


def test_an_objective_whose_gate_never_applies_with_it(changed: Changed, tmp_path: Path) -> None:
    gated = {"ctwa.objectives.clarity.gate": {"by": "accuracy", "at_least": 1}}
    config = changed(files(tmp_path, own_form=False) | applying(accuracy=GSM8K, clarity=MATH) | gated)
    with pytest.raises(
        CtwaError, match=r"'clarity' applies to no row .* data_source='math' and what 'accuracy' applies to"
    ):
        check_applies_to(read_settings(config), read_run_data(config))


def test_rows_of_others_need_no_ground_truth(changed: Changed, tmp_path: Path) -> None:
    """Those of ``math`` have none, which accuracy asks for on its own rows alone."""
    for own_form in (True, False):
        own = files(tmp_path, own_form=own_form)
        for paths in own.values():
            rows = [json.loads(line) for line in Path(paths[0]).read_text().splitlines()]
            for row in rows:
                if row["data_source"] == "math":
                    row.pop("answer", None)
                    row.pop("reward_model", None)
            Path(paths[0]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        sizes = {"data.train_batch_size": 8, "trainer.total_training_steps": 1, "ctwa.max_unknown_tokens": 1}
        check_config(changed(own | sizes | applying(accuracy=GSM8K)))
        with pytest.raises(CtwaError, match=r"row 8 \(from 0\): it has no .*'accuracy'"):
            check_config(changed(own | sizes))


def test_a_plan_says_what_applies_where(changed: Changed, tmp_path: Path) -> None:
    others = {
        "ctwa.objectives.conciseness.every": 4,
        "ctwa.objectives.conciseness.none": "not_applicable",
        "ctwa.objectives.clarity.gate": {"by": "accuracy", "at_least": 1},
        "ctwa.objectives.clarity.max_unscored": 1,
    }
    config = changed(files(tmp_path, own_form=False) | applying(accuracy=GSM8K) | others)

    assert coverage_lines(read_settings(config), read_run_data(config)) == [
        "accuracy: where data_source='gsm8k' (8 of 12 rows)",
        "conciseness: not where its function says None; at one training step in 4 and in validations",
        "clarity: where accuracy applies, by its gate (8 of 12 rows); what it cannot score never stops the run",
    ]
