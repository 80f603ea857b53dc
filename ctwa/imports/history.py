"""What another trainer logged, whatever it logged it to: numbers by step and by its own names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """The numbers of one run.

    Attributes:
        source: what they were read from, in words.
        steps: by step, the metrics by the names that the trainer gave them.
        times: when a step was logged, in s since 1970, where that is known.
        num_steps: how many steps the run was to have; None where nobody wrote it down.
    """

    source: str
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    num_steps: int | None = None

    def add(self, step: int, values: Mapping[str, Any], seconds: Any = None) -> None:
        """Take in what was logged at a step; a step may be logged in several parts. What is no number is left out."""
        numbers = {key: known for key, value in values.items() if (known := as_number(value)) is not None}
        if not numbers:
            return
        self.steps.setdefault(step, {}).update(numbers)
        if (time := as_number(seconds)) is not None and math.isfinite(time):
            self.times[step] = time

    @property
    def keys(self) -> list[str]:
        """The names of all metrics, in the order they come."""
        return list(dict.fromkeys(key for metrics in self.steps.values() for key in metrics))


def merged(histories: Sequence[History]) -> History:
    """Several logs of one run, each with some of its metrics, as one."""
    found = History(" and ".join(dict.fromkeys(history.source for history in histories)))
    for history in histories:
        for step, metrics in history.steps.items():
            found.add(step, metrics, history.times.get(step))
    found.num_steps = max((each.num_steps for each in histories if each.num_steps is not None), default=None)
    return found


def as_step(value: Any) -> int | None:
    """A step that was logged; None for what is no finite number."""
    number = as_number(value)
    return None if number is None or not math.isfinite(number) else int(number)


def as_number(value: Any) -> float | None:
    """A logged number, NaN and infinity included, which some formats write as words; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
