"""``ctwa pairs``: preference pairs of the completions that `ctwa eval` sampled and scored.

A prompt's completions are paired with each other. A pair has a label for each objective: +1 where the chosen response
has the higher reward, -1 where the lower, 0 where they are equal. Which of the two is called chosen is drawn, so that
"chosen" means nothing by itself: the labels decide.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctwa.errors import CtwaError, did_you_mean
from ctwa.run.jsonl import AnyRecord, Count, read_jsonl, write_atomically


class ScoredSample(AnyRecord):
    """What pairs are made of in a line of an evaluation's samples.jsonl."""

    model: str
    row: Count
    prompt: str | list[dict[str, Any]]
    response: str
    finished: bool
    rewards: dict[str, int | float | None]


@dataclass(frozen=True)
class Pairs:
    """What was made of a file of samples.

    Attributes:
        rows: the pairs, with the columns that `ctwa prefer` reads (format ``pairs``).
        num_prompts: prompts in the file.
    """

    rows: list[dict[str, Any]]
    num_prompts: int

    def counts(self) -> dict[str, int]:
        """By objective, how many pairs have a label that is no tie; under ``conflict`` those with both signs."""
        told = Counter(name for row in self.rows for name, label in row["labels"].items() if label)
        conflicts = sum({-1, 1} <= set(row["labels"].values()) for row in self.rows)
        return {**{name: told[name] for name in self.rows[0]["labels"]}, "conflict": conflicts}


def make_pairs(samples: Path, out: Path, *, model: str | None = None, per_prompt: int = 2, seed: int = 0) -> Pairs:
    """Pair the completions of a `samples.jsonl`, and write them as a parquet file.

    Args:
        samples: the file, or the folder of the evaluation that wrote it.
        out: the parquet file; it is replaced.
        model: whose completions; needed where the file has several models'.
        per_prompt: pairs of a prompt at most, drawn among those that some objective tells apart.
        seed: of the draws.

    Raises:
        CtwaError: there are no samples, several models and none is named, or no pair is left.
    """
    path = samples / "samples.jsonl" if samples.is_dir() else samples
    by_row: dict[int, list[Mapping[str, Any]]] = {}
    for record in _of_model(read_jsonl(path, ScoredSample), model, path):
        by_row.setdefault(record["row"], []).append(record)
    rng = random.Random(f"pairs:{seed}")
    rows = [pair for completions in by_row.values() for pair in _pairs_of(completions, per_prompt, rng)]
    if not rows:
        raise CtwaError(
            f"{path}: no objective tells two completions of a prompt apart; sample more of each "
            "(generation.num_samples), or at a higher temperature"
        )
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getvalue().to_pybytes())
    return Pairs(rows, len(by_row))


def _of_model(records: Sequence[dict[str, Any]], model: str | None, path: Path) -> Iterable[dict[str, Any]]:
    if not any(record.get("rewards") for record in records):
        raise CtwaError(f"{path} has no rewards: give the samples of an evaluation with generation.objectives")
    names = list(dict.fromkeys(record["model"] for record in records))
    if model is None and len(names) > 1:
        raise CtwaError(f"{path} has completions of {', '.join(names)}: name one, e.g. --model {names[0]}")
    if model is not None and model not in names:
        raise CtwaError(f"{path} has no completions of '{model}'{did_you_mean(model, names)}")
    return (record for record in records if record["model"] == (model or names[0]))


def _pairs_of(completions: Sequence[Mapping[str, Any]], most: int, rng: random.Random) -> list[dict[str, Any]]:
    """Different completions that some objective tells apart; which of a pair comes first is drawn.

    One that was cut off at the length limit is left out: in a pair it would end where the model did not end it.
    """
    whole = [each for each in completions if each["finished"] and each["response"].strip()]
    told = [
        (a, b)
        for a, b in combinations(whole, 2)
        if a["response"].strip() != b["response"].strip() and any(labels_of(a["rewards"], b["rewards"]).values())
    ]
    pairs = []
    for pair in rng.sample(told, min(most, len(told))):
        first, second = rng.sample(pair, 2)
        pairs.append(
            {
                "prompt": first["prompt"],
                "chosen": first["response"],
                "rejected": second["response"],
                "labels": labels_of(first["rewards"], second["rewards"]),
            }
        )
    return pairs


def labels_of(first: Mapping[str, float | None], second: Mapping[str, float | None]) -> dict[str, int]:
    """By objective +1, -1 or 0; 0 also where it could not score one of the two, or does not apply to one."""
    labels = {}
    for name in dict.fromkeys((*first, *second)):
        ours, theirs = first.get(name), second.get(name)
        labels[name] = 0 if ours is None or theirs is None else int(ours > theirs) - int(ours < theirs)
    return labels
