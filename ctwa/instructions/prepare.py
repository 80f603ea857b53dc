"""Make the prompts of `task=instructions`: parquet files in verl's format, once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ctwa.errors import CtwaError
from ctwa.instructions.prompts import DATA_SOURCE, Prompt, draw_prompts, to_rows
from ctwa.run.documents import read_document
from ctwa.run.jsonl import write_atomically

FORMAT = 1
RECORD = "instructions.json"


@dataclass(frozen=True)
class Settings:
    """What shapes the files.

    Attributes:
        seed: of the prompts.
        num_train, num_held_out: prompts; no topic is in both parts.
        num_validation: the first so many held-out prompts are a file of their own too, so that every run validates on
            the same ones, whatever its seed.
    """

    seed: int = 0
    num_train: int = 2000
    num_held_out: int = 300
    num_validation: int = 100


def prepare(out_dir: Path, settings: Settings) -> bool:
    """Write ``train``, ``held_out`` and ``validation.parquet``; False where the same ones are there already.

    Raises:
        CtwaError: the folder holds something else.
    """
    wanted = {"format": FORMAT, "task": DATA_SOURCE, **asdict(settings)}
    record = out_dir / RECORD
    if record.is_file():
        found = read_document(record, "write another folder, or delete this one to make it anew")
        if found != wanted:
            key = next(key for key in found | wanted if found.get(key) != wanted.get(key))
            raise CtwaError(
                f"{out_dir} holds prompts made with other settings ({key} is {found.get(key)!r} there and "
                f"{wanted.get(key)!r} here): write another folder, or delete this one to make it anew"
            )
        return False
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.glob("*.parquet"))):
        raise CtwaError(f"{out_dir} has files of another task: write a folder that is new or empty")
    out_dir.mkdir(parents=True, exist_ok=True)
    held_out = draw_prompts(settings.num_held_out, settings.seed, held_out=True)
    _write(draw_prompts(settings.num_train, settings.seed, held_out=False), "train", out_dir / "train.parquet")
    _write(held_out, "held_out", out_dir / "held_out.parquet")
    _write(held_out[: settings.num_validation], "held_out", out_dir / "validation.parquet")
    write_atomically(record, (json.dumps(wanted, indent=2) + "\n").encode())  # last: it says that the rest is whole
    return True


def _write(prompts: list[Prompt], split: str, path: Path) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(to_rows(prompts, split)), buffer)
    write_atomically(path, buffer.getvalue().to_pybytes())
