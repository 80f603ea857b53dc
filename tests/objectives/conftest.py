from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctwa.objectives.completion import Completion


@pytest.fixture
def reward_file(tmp_path: Path) -> Callable[..., str]:
    """Write a reward function file; gives its path."""

    def write(source: str, name: str = "rewards.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
        return str(path)

    return write


@pytest.fixture
def data(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Write rows as a parquet file; gives its path."""

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "data.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write


@pytest.fixture
def completions() -> Callable[..., list[Completion]]:
    """Completions 'response 0', 'response 1', ... with fields to change."""

    def make(num_completions: int, **fields: Any) -> list[Completion]:
        defaults: dict[str, Any] = {
            "prompt": "What is 3 + 4?",
            "ground_truth": "7",
            "data_source": "test",
            "extra_info": {"index": 0},
            "reference_tokens": None,
            "finished": True,
            "row": {"level": 2},
        }
        return [
            Completion(**{"response": f"response {i}", "response_tokens": 10 + i, **defaults, **fields})
            for i in range(num_completions)
        ]

    return make
