"""What the models wrote, for the report: early and late in a run, and several of them on the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctwa.run.jsonl import iterate_jsonl
from ctwa.run.trace import SampleRecord

_CHARACTERS = 2500  # of a prompt or response on the page
_NUM_OF_A_STEP = 3
_MOST_SHARED = 40  # prompts


@dataclass(frozen=True)
class Sample:
    """One completion."""

    step: int
    split: str
    prompt: str
    response: str
    rewards: dict[str, float | None]


def early_and_late(path: Path) -> tuple[list[Sample], list[Sample]]:
    """Completions of the first and of the last step that has any; empty where there is no file.

    Training completions where both ends have them, else held-out ones.

    Raises:
        CtwaError: a line before the last is broken.
    """
    first: dict[str, list[Sample]] = {}
    last: dict[str, list[Sample]] = {}
    for record in iterate_jsonl(path, SampleRecord) if path.is_file() else ():
        sample = _sample(record)
        for ends in (first, last):
            known = ends.setdefault(sample.split, [])
            if ends is last and known and known[0].step < sample.step:
                known.clear()
            if len(known) < _NUM_OF_A_STEP and (not known or known[0].step == sample.step):
                known.append(sample)
    for split in ("train", "held-out"):
        if split in first and first[split][0].step < last[split][0].step:
            return first[split], last[split]
    return next(iter(first.values()), []), []


def on_the_same_prompts(paths: Sequence[Path]) -> list[list[Sample | None]]:
    """The newest completions of prompts that several runs have completed; a place in each list for every run.

    Which prompts are kept depends on the seed, the split and the step, so runs of one seed have many in common. Those
    of late steps come first.

    Raises:
        CtwaError: a line before the last is broken.
    """
    found: dict[tuple[str, str], list[Sample | None]] = {}
    for place, path in enumerate(paths):
        for record in iterate_jsonl(path, SampleRecord) if path.is_file() else ():
            sample = _sample(record)
            found.setdefault((sample.split, record["prompt"]), [None] * len(paths))[place] = sample
    shared = [each for each in found.values() if sum(sample is not None for sample in each) > 1]
    shared.sort(key=lambda each: -min(sample.step for sample in each if sample is not None))
    return shared[:_MOST_SHARED]


def _sample(record: SampleRecord) -> Sample:
    prompt, response = _short(record["prompt"]), _short(record["response"])
    return Sample(record["step"], record["split"], prompt, response, record["rewards"])


def _short(text: str) -> str:
    half = _CHARACTERS // 2
    return text if len(text) <= _CHARACTERS else f"{text[:half]} […] {text[-half:]}"
