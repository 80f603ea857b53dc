"""Pairs of sampled completions, labelled by what their rewards say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ctwa.errors import CtwaError
from ctwa.evaluation.pairs import make_pairs
from ctwa.preference.schemas import read_pair

PROMPT = [{"role": "user", "content": "Tell me about bees."}]
REWARDS: dict[str, tuple[float | None, float | None]] = {
    "good and long": (1.0, 0.1),
    "bad and short": (0.0, 0.9),
    "bad and long": (0.0, 0.1),
    "not scored": (None, 0.9),
    "good and long\n": (1.0, 0.0),
}


def record(row: int, response: str, model: str = "base", *, finished: bool = True) -> dict[str, Any]:
    good, short = REWARDS[response]
    rewards = {"good": good, "short": short}
    return {
        "schema": 2, "model": model, "row": row, "prompt": PROMPT, "response": response, "finished": finished,
        "rewards": rewards,
    }  # fmt: skip


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def test_labels_say_which_response_has_the_higher_reward(tmp_path: Path) -> None:
    samples = write(tmp_path / "samples.jsonl", *(record(0, response) for response in list(REWARDS)[:4]))
    made = make_pairs(tmp_path, tmp_path / "new" / "pairs.parquet", per_prompt=10)

    rows = pq.read_table(tmp_path / "new" / "pairs.parquet").to_pylist()
    assert rows == made.rows
    assert samples.exists()
    found = {}
    for row in rows:
        content = read_pair(row, {"good": "labels.good", "short": "labels.short"})
        assert content.prompt == tuple(PROMPT)
        if content.chosen > content.rejected:  # in one order, whichever was drawn
            found[content.chosen, content.rejected] = tuple(content.labels.values())
        else:
            found[content.rejected, content.chosen] = tuple(-label for label in content.labels.values())
    assert found == {
        ("good and long", "bad and short"): (1, -1),
        ("good and long", "bad and long"): (1, 0),
        ("bad and short", "bad and long"): (0, 1),
        ("not scored", "good and long"): (0, 1),
        ("not scored", "bad and long"): (0, 1),
    }
    assert made.counts() == {"good": 2, "short": 4, "conflict": 1}


def test_a_seed_draws_the_same_pairs_and_both_orders_come(tmp_path: Path) -> None:
    write(tmp_path / "samples.jsonl", *(record(row, response) for row in range(40) for response in REWARDS))
    made = [make_pairs(tmp_path, tmp_path / "pairs.parquet", per_prompt=1, seed=seed).rows for seed in (0, 0, 1)]

    assert made[0] == made[1] != made[2]
    assert len(made[0]) == 40
    assert {-1, 1} <= {row["labels"]["short"] for row in made[0]}


def test_what_was_cut_off_or_is_equal_makes_no_pair(tmp_path: Path) -> None:
    write(
        tmp_path / "samples.jsonl",
        record(0, "good and long"),
        record(0, "good and long"),
        record(0, "good and long\n"),
        record(0, "bad and short", finished=False),
    )
    with pytest.raises(CtwaError, match="tells two completions of a prompt apart"):
        make_pairs(tmp_path, tmp_path / "pairs.parquet")
    assert not (tmp_path / "pairs.parquet").exists()


def test_of_several_models_one_is_named(tmp_path: Path) -> None:
    both = [record(0, response, model) for model in ("base", "tuned") for response in REWARDS]
    write(tmp_path / "samples.jsonl", *both)

    with pytest.raises(CtwaError, match="completions of base, tuned: name one"):
        make_pairs(tmp_path, tmp_path / "pairs.parquet")
    with pytest.raises(CtwaError, match=r"no completions of 'tunde'.*tuned"):
        make_pairs(tmp_path, tmp_path / "pairs.parquet", model="tunde")
    assert make_pairs(tmp_path, tmp_path / "pairs.parquet", model="tuned").num_prompts == 1


def test_samples_without_rewards_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "samples.jsonl", {**record(0, "good and long"), "rewards": {}})

    with pytest.raises(CtwaError, match="has no rewards"):
        make_pairs(tmp_path, tmp_path / "pairs.parquet")
