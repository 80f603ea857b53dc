"""Write MATH-500 as verl's training, validation and test parquet files.

    python scripts/prepare_math500.py --hub HuggingFaceH4/MATH-500 --out data/math500
    python scripts/prepare_math500.py --from math500.parquet --out data/math500
    python scripts/prepare_math500.py --from FOLDER --out data/math500

The 500 problems are shuffled with ``random.Random(seed).shuffle`` (seed 42) in the order of the source, and cut into
300 for training, 100 for validation and 100 for the test. Every prompt is the problem followed by the instruction
below. A folder that holds ``train.parquet`` and ``val.parquet`` (and perhaps ``test.parquet``) in verl's format
already keeps its split: its files are checked and copied.
"""

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctwa.errors import CtwaError

INSTRUCTION = r" Let's think step by step and output the final answer within \boxed{}."
DATA_SOURCE = "HuggingFaceH4/MATH-500"
SPLITS = ("train", "val", "test")
VERL_COLUMNS = ("data_source", "prompt", "ability", "reward_model", "extra_info")
KEPT_COLUMNS = ("solution", "subject", "level", "unique_id")

Rows = list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="source", type=Path, metavar="PATH", help="a parquet file, or a folder of them")
    source.add_argument("--hub", metavar="NAME", help=f"a data set on the Hugging Face hub, such as {DATA_SOURCE}")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the three files are written")
    parser.add_argument("--seed", type=int, default=42, help="seed of the shuffle (default: 42)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=3,
        default=(300, 100, 100),
        metavar=("TRAIN", "VAL", "TEST"),
        help="problems in each split (default: 300 100 100)",
    )
    options = parser.parse_args(arguments)
    try:
        splits = _splits(options.source, options.hub, tuple(options.sizes), options.seed)
        _write(splits, options.out)
    except CtwaError as error:
        print(f"prepare_math500: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: " + ", ".join(f"{name}.parquet {len(rows)} problems" for name, rows in splits.items()))
    return 0


def _splits(source: Path | None, hub: str | None, sizes: tuple[int, ...], seed: int) -> dict[str, Rows]:
    if source is None:
        assert hub is not None  # argparse wants exactly one of the two
        return split_problems(_read_hub(hub), sizes, seed, where=hub)
    if not source.exists():
        raise CtwaError(f"{source} does not exist: write a parquet file, or a folder of them, after --from")
    if source.is_dir() and all((source / f"{name}.parquet").is_file() for name in ("train", "val")):
        paths = {name: source / f"{name}.parquet" for name in SPLITS}
        return {name: _checked(_read(path), path) for name, path in paths.items() if path.is_file()}
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise CtwaError(f"{source} holds no .parquet file: write the folder that does after --from")
    return split_problems([row for file in files for row in _read(file)], sizes, seed, where=str(source))


def split_problems(problems: Rows, sizes: Sequence[int], seed: int, *, where: str) -> dict[str, Rows]:
    """Shuffle raw problems (columns ``problem`` and ``answer``), cut them, and write each as a row of verl's format."""
    if len(problems) < sum(sizes) or min(sizes) < 1:
        raise CtwaError(
            f"{where} has {len(problems)} problems and the splits want {' + '.join(map(str, sizes))}: "
            f"write positive --sizes that fit"
        )
    columns = problems[0].keys()
    missing = [name for name in ("problem", "answer") if name not in columns]
    if missing:
        hint = (
            "write the folder that holds its train.parquet and val.parquet"
            if "prompt" in columns
            else ("write a file with the columns of MATH-500")
        )
        raise CtwaError(
            f"{where} has no column {' and no column '.join(missing)} (it has {', '.join(columns)}): {hint}"
        )
    order = list(range(len(problems)))
    random.Random(seed).shuffle(order)
    splits, start = {}, 0
    for name, size in zip(SPLITS, sizes, strict=True):
        chosen = order[start : start + size]
        splits[name] = [_to_row(problems[i], name, index, where) for index, i in enumerate(chosen)]
        start += size
    return splits


def _to_row(problem: dict[str, Any], split: str, index: int, where: str) -> dict[str, Any]:
    for column in ("problem", "answer"):
        if not isinstance(problem[column], str) or not problem[column].strip():
            raise CtwaError(f"{where}: the {column} {problem[column]!r} is not a text: mend or remove that row")
    return {
        **{column: problem[column] for column in KEPT_COLUMNS if column in problem},
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": problem["problem"] + INSTRUCTION}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem["answer"]},
        "extra_info": {"index": index, "split": split},
    }


def _checked(rows: Rows, path: Path) -> Rows:
    """Rows that are in verl's format already; a :class:`CtwaError` names the file and the row that is not."""
    if not rows:
        raise CtwaError(f"{path} has no rows: write a folder whose splits hold problems")
    missing = [name for name in VERL_COLUMNS if name not in rows[0]]
    if missing:
        raise CtwaError(
            f"{path} has no column {' and no column '.join(missing)}: a train.parquet beside a val.parquet must be in "
            f"verl's format, so rename raw MATH-500 files"
        )
    for index, row in enumerate(rows):
        if not _is_conversation(row["prompt"]):
            raise CtwaError(f"{path}, row {index}: prompt must be a list of messages with a role and a content")
        reward_model = row["reward_model"]
        if not isinstance(reward_model, dict) or not reward_model.get("ground_truth"):
            raise CtwaError(f"{path}, row {index}: reward_model must have a ground_truth, the answer as a text")
    return rows


def _is_conversation(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and len(prompt) > 0
        and all(isinstance(message, dict) and message.get("role") and message.get("content") for message in prompt)
    )


def _read(path: Path) -> Rows:
    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CtwaError(f"{path} cannot be read as parquet ({reason}): write a parquet file after --from") from error


def _read_hub(name: str) -> Rows:
    try:
        import datasets  # slow to import, and only this branch needs it
    except ModuleNotFoundError as error:
        raise CtwaError("--hub needs the package datasets: install it, or write --from FILE") from error
    try:
        return datasets.load_dataset(name, split="test").to_list()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CtwaError(f"{name} cannot be fetched from the hub ({reason}): fetch the file and write --from") from error


def _write(splits: dict[str, Rows], out: Path) -> None:
    """Write every split; each file appears complete or not at all."""
    if out.exists() and not out.is_dir():
        raise CtwaError(f"{out} is a file: write a folder after --out")
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        partial = out / f".{name}.parquet.partial"
        pq.write_table(pa.Table.from_pylist(rows), partial)
        os.replace(partial, out / f"{name}.parquet")


if __name__ == "__main__":
    sys.exit(main())
