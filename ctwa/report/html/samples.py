"""What the model wrote early and late in a run, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctwa.run.jsonl import iterate_jsonl

_CHARACTERS = 2500  # of a prompt or response on the page


@dataclass(frozen=True)
class Sample:
    """One completion."""

    step: int
    split: str
    prompt: str
    response: str
    rewards: dict[str, float | None]


def early_and_late(path: Path, num: int = 3) -> tuple[list[Sample], list[Sample]]:
    """Completions of the first and of the last step that has any; empty where there is no file.

    Training completions where both ends have them, else held-out ones.

    Raises:
        CtwaError: a line before the last is broken.
    """
    first: dict[str, list[Sample]] = {}
    last: dict[str, list[Sample]] = {}
    for record in iterate_jsonl(path) if path.is_file() else ():
        sample = _sample(record)
        for ends in (first, last):
            known = ends.setdefault(sample.split, [])
            if ends is last and known and known[0].step < sample.step:
                known.clear()
            if len(known) < num and (not known or known[0].step == sample.step):
                known.append(sample)
    for split in ("train", "held-out"):
        if split in first and first[split][0].step < last[split][0].step:
            return first[split], last[split]
    return next(iter(first.values()), []), []


def _sample(record: dict[str, Any]) -> Sample:
    prompt, response = _short(record["prompt"]), _short(record["response"])
    return Sample(record["step"], record["split"], prompt, response, record["rewards"])


def _short(text: str) -> str:
    half = _CHARACTERS // 2
    return text if len(text) <= _CHARACTERS else f"{text[:half]} […] {text[-half:]}"
