"""Testbed problems as rows of verl's data format."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctwa.testbed.presets import Preset
from ctwa.testbed.tasks import Problem, draw_distinct

DATA_SOURCE = "testbed"


def train_rows(preset: Preset, seed: int) -> list[dict[str, Any]]:
    """``preset.num_train`` different problems of the training part."""
    problems = draw_distinct(random.Random(f"train:{seed}"), preset.num_train, test=False)
    return to_rows(problems, "train", preset)


def held_out_rows(preset: Preset, seed: int) -> list[dict[str, Any]]:
    """``preset.num_held_out`` different problems of the held-out part, which no training ever sees."""
    problems = draw_distinct(random.Random(f"held-out:{seed}"), preset.num_held_out, test=True)
    return to_rows(problems, "held_out", preset)


def check_rows(preset: Preset) -> list[dict[str, Any]]:
    """The training problems on which the base model's accuracy is checked while it is made; the same for every seed."""
    problems = draw_distinct(random.Random("check"), preset.num_check_problems, test=False)
    return to_rows(problems, "check", preset)


def to_rows(problems: Sequence[Problem], split: str, preset: Preset) -> list[dict[str, Any]]:
    """One row a problem; ``extra_info`` carries the token ``budget`` that the conciseness reward reads."""
    return [
        {
            "data_source": DATA_SOURCE,
            "prompt": [{"role": "user", "content": problem.prompt}],
            "ability": "arithmetic",
            "reward_model": {"style": "rule", "ground_truth": str(problem.answer)},
            "extra_info": {
                "index": index,
                "split": split,
                "num_operations": problem.num_operations,
                "budget": preset.budget(problem),
            },
        }
        for index, problem in enumerate(problems)
    ]


def write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows to ``path``; the folder must exist."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
