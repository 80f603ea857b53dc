"""What the model wrote early and late in a run, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctwa.run.jsonl import decode_line

_WINDOW = 512 * 1024  # bytes read from each end: a long run's file is not read as a whole
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

    Training completions where both ends have them, else held-out ones. Lines that are broken are left out.
    """
    if not path.is_file():
        return [], []
    with path.open("rb") as file:
        head = file.read(_WINDOW)
        size = file.seek(0, 2)
        file.seek(max(size - _WINDOW, 0))
        tail = file.read()
    early = _samples(head[: head.rfind(b"\n") + 1])
    late = _samples(tail if size <= _WINDOW else tail[tail.find(b"\n") + 1 :])
    for split in ("train", "held-out"):
        first = [each for each in early if each.split == split]
        last = [each for each in late if each.split == split]
        if first and last and first[0].step < last[-1].step:
            return (
                [each for each in first if each.step == first[0].step][:num],
                [each for each in last if each.step == last[-1].step][:num],
            )
    return early[:num], []


def _samples(data: bytes) -> list[Sample]:
    found = []
    for line in data.split(b"\n"):
        try:
            record = decode_line(line)
        except ValueError:  # broken, or cut by the window
            continue
        if isinstance(record, dict) and {"step", "split", "prompt", "response", "rewards"} <= record.keys():
            found.append(_sample(record))
    return found


def _sample(record: dict[str, Any]) -> Sample:
    return Sample(
        int(record["step"]),
        str(record["split"]),
        _short(str(record["prompt"])),
        _short(str(record["response"])),
        dict(record["rewards"]),
    )


def _short(text: str) -> str:
    half = _CHARACTERS // 2
    return text if len(text) <= _CHARACTERS else f"{text[:half]} […] {text[-half:]}"
