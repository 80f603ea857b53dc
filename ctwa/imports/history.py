"""What another trainer logged, whatever it logged it to: numbers by step and by its own names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctwa.errors import CtwaError

_LAST_STEP = 2**53  # beyond it a number that was read as a float may be another step
_SAME = 1e-4  # two logs of one number differ by less: float32 keeps seven digits, and some loggers round


@dataclass
class History:
    """The numbers of one run.

    Attributes:
        source: what they were read from, in words.
        steps: by step, the metrics by the names that the trainer gave them.
        times: when a step was logged, in s since 1970, where that is known.
        num_steps: how many steps the run was to have; None where nobody wrote it down.
        notes: what was left out, a sentence each.
    """

    source: str
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    num_steps: int | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, step: Any, values: Mapping[str, Any], seconds: Any = None) -> None:
        """Take in what was logged at a step; a step may be logged in several parts. What is no number is left out.

        NaN takes no number's place: a table has it where a part of the step says nothing.

        Raises:
            CtwaError: the step is no whole number from 0.
        """
        numbers = {key: known for key, value in values.items() if (known := as_number(value)) is not None}
        if not numbers:
            return
        whole = as_step(step)
        metrics = self.steps.setdefault(whole, {})
        metrics |= {key: value for key, value in numbers.items() if not math.isnan(value) or key not in metrics}
        if (time := as_number(seconds)) is not None and math.isfinite(time):
            self.times[whole] = time

    @property
    def keys(self) -> list[str]:
        """The names of all metrics, in the order they come."""
        return list(dict.fromkeys(key for metrics in self.steps.values() for key in metrics))


def merged(histories: Sequence[History]) -> History:
    """Several logs of one run, each with some of its metrics, as one.

    Raises:
        CtwaError: two say different things of one metric at one step: they are of two runs.
    """
    found = History(" and ".join(dict.fromkeys(history.source for history in histories)))
    for history in histories:
        for step, metrics in history.steps.items():
            _see_that_they_agree(step, found.steps.get(step, {}), metrics)
            found.add(step, metrics, history.times.get(step))
        found.notes += history.notes
    found.num_steps = max((each.num_steps for each in histories if each.num_steps is not None), default=None)
    return found


def _see_that_they_agree(step: int, known: Mapping[str, float], metrics: Mapping[str, float]) -> None:
    for key in known.keys() & metrics.keys():
        if differ(known[key], metrics[key]):
            raise CtwaError(
                f"the logs differ at step {step}: {key} is {known[key]:g} in one and {metrics[key]:g} in another; give"
                " the logs of one run, and import each run into a folder of its own"
            )


def differ(one: float, other: float) -> bool:
    """Whether two logged numbers cannot be one: by more than rounding."""
    return math.isfinite(one) and math.isfinite(other) and not math.isclose(one, other, rel_tol=_SAME, abs_tol=_SAME)


def as_step(value: Any) -> int:
    """A logged step.

    Raises:
        CtwaError: it is no whole number from 0.
    """
    number = as_number(value)
    if number is None or not 0 <= number <= _LAST_STEP or number != int(number):
        raise CtwaError(
            f"a step is {str(value)[:40]!r}: steps are whole numbers from 0; mend the log, or leave that line out"
        )
    return int(number)


def as_number(value: Any) -> float | None:
    """A logged number, NaN and infinity included, which some formats write as words; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
