"""Completions that other trainers kept: TRL's parquet files (``log_completions=True``) and verl's JSON Lines
(``trainer.rollout_data_dir``, ``trainer.validation_data_dir``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError
from ctwa.imports.history import as_number
from ctwa.run.jsonl import decode_line
from ctwa.run.text import said


@dataclass(frozen=True)
class Completions:
    """What a step wrote: N prompts, N responses and by objective N rewards, None where one was not scored."""

    step: int
    split: str  # "train" or "held-out"
    prompts: list[str]
    responses: list[str]
    rewards: dict[str, list[float | None]]


def read_completions(folder: Path, objectives: Sequence[str]) -> Iterator[Completions]:
    """The completions in a folder, in the order of their steps; rewards are columns with an objective's name.

    Raises:
        CtwaError: no file there is TRL's or verl's.
    """
    files = [path for path in folder.rglob("completions_*.parquet") if _step(path) is not None] or [
        path for path in folder.rglob("*.jsonl") if path.stem.isdecimal()
    ]
    if not files:
        raise CtwaError(
            f"{folder} has no completions: give the folder `completions` of a TRL run with log_completions=True, or"
            " verl's trainer.rollout_data_dir"
        )
    for path in sorted(files, key=lambda path: (_step(path) or 0, str(path))):
        if path.suffix == ".parquet":
            rows, prompt, response = _parquet(path), "prompt", "completion"
        else:
            rows, prompt, response = _lines(path), "input", "output"
        if not rows:
            continue
        for number, row in enumerate(rows):
            if missing := [column for column in (prompt, response) if column not in row]:
                raise CtwaError(
                    f"{path} has no column {missing[0]} in row {number} (from 0): give completions as TRL or verl "
                    "write them"
                )
        rewards = {name: [as_number(row.get(name)) for row in rows] for name in objectives if name in rows[0]}
        split = "held-out" if path.parent.name.startswith(("eval", "val")) else "train"
        step = _step(path) or 0
        yield Completions(
            step, split, [said(row[prompt]) for row in rows], [said(row[response]) for row in rows], rewards
        )


def _step(path: Path) -> int | None:
    """The step that a file's name ends with; None where it ends with none."""
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else None


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise CtwaError(f"{path} is no whole Parquet file ({error}): leave it out") from error
    return rows


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [
            row
            for line in path.read_bytes().splitlines()
            if line.strip() and isinstance(row := decode_line(line), dict)
        ]
    except ValueError as error:
        raise CtwaError(f"{path} is not JSON Lines ({error}): mend it, or leave it out") from error
