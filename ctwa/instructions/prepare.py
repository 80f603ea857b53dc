"""Make the prompts of `task=instructions`: two parquet files in verl's format, once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ctwa.errors import CtwaError
from ctwa.instructions.prompts import DATA_SOURCE, Prompt, draw_prompts, to_rows
from ctwa.run.jsonl import write_atomically

FORMAT = 1
RECORD = "instructions.json"


@dataclass(frozen=True)
class Settings:
    """What shapes the files.

    Attributes:
        seed: of the prompts.
        num_train, num_held_out: prompts; no topic is in both parts.
    """

    seed: int = 0
    num_train: int = 2000
    num_held_out: int = 300


def prepare(out_dir: Path, settings: Settings) -> bool:
    """Write ``train.parquet`` and ``held_out.parquet``; False where the same ones are there already.

    Raises:
        CtwaError: the folder holds something else.
    """
    wanted = {"format": FORMAT, "task": DATA_SOURCE, **asdict(settings)}
    record = out_dir / RECORD
    if record.is_file():
        found = json.loads(record.read_text())
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
    for split, num, held_out in (("train", settings.num_train, False), ("held_out", settings.num_held_out, True)):
        _write(draw_prompts(num, settings.seed, held_out=held_out), split, out_dir / f"{split}.parquet")
    write_atomically(record, (json.dumps(wanted, indent=2) + "\n").encode())  # last: it says that the rest is whole
    return True


def _write(prompts: list[Prompt], split: str, path: Path) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(to_rows(prompts, split)), buffer)
    write_atomically(path, buffer.getvalue().to_pybytes())
