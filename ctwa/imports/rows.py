"""The rows of a log, in the order in which they were written, as the numbers of one run by step."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ctwa.errors import CtwaError
from ctwa.imports.history import History, as_number, as_step, differ
from ctwa.run.text import counted, listed

_LIKE_A_NUMBER = re.compile(r"[+-]?[\d.,'\s]*\d[\d.,'\s]*%?")
_LONG = 40  # no number has so many characters
_MOST_COLUMNS = 5  # that a sentence names


class Row(NamedTuple):
    """What was logged at once: at which step, what, and when, in s since 1970, where that is known."""

    step: Any
    values: Mapping[str, Any]
    seconds: Any = None


@dataclass(frozen=True)
class _Numbers:
    """The numbers of a row."""

    step: int
    values: Mapping[str, float]
    seconds: Any

    @property
    def measured(self) -> list[str]:
        """The metrics with a number: a table has NaN where nothing was logged."""
        return [key for key, value in self.values.items() if value == value]


def history_of(source: str, rows: Iterable[Row]) -> History:
    """The numbers of one run.

    Where the run was resumed from an earlier step, so that its steps were logged again, the later steps of before are
    left out: they are of a branch that was given up.

    Raises:
        CtwaError: a step is no whole number from 0, or the rows are of several runs or in no order.
    """
    rows = list(rows)
    numbers = [
        _Numbers(as_step(row.step), values, row.seconds)
        for row in rows
        if (values := {key: known for key, value in row.values.items() if (known := as_number(value)) is not None})
    ]
    history = History(source)
    for each in _without_branches(numbers, history.notes):
        history.add(each.step, each.values, each.seconds)
    history.notes += _of_no_numbers(rows, set(history.keys))
    return history


def without_padding(rows: Sequence[Row]) -> list[Row]:
    """The rows of a table without the NaN that stands for an empty cell.

    A table without an empty cell may have NaN in their place. A metric whose numbers come again after NaN was not
    logged there. One that is NaN to the end may have diverged: it stays as it is.
    """
    columns = {key for row in rows for key in row.values}
    if any(row.values.get(key) in (None, "") for row in rows for key in columns):
        return list(rows)
    was_nan: set[str] = set()
    padded: set[str] = set()
    for row in rows:
        for key, value in row.values.items():
            if _is_nan(value):
                was_nan.add(key)
            elif key in was_nan:
                padded.add(key)
    return [
        row._replace(
            values={key: value for key, value in row.values.items() if key not in padded or not _is_nan(value)}
        )
        for row in rows
    ]


def _is_nan(value: Any) -> bool:
    number = as_number(value)
    return number is not None and math.isnan(number)


def _without_branches(rows: Sequence[_Numbers], notes: list[str]) -> list[_Numbers]:
    """The rows without those that a run gave up when it was resumed; what that were is noted."""
    times = Counter(key for row in rows for key in row.measured)
    most = max(times.values(), default=0)
    main = {key for key, num in times.items() if num == most}  # evaluations may come late, and again
    seen: set[tuple[str, int]] = set()
    stretches: list[tuple[bool | None, list[_Numbers]]] = []  # with whether it has again what was there: None of none
    for stretch in _stretches(rows):
        logged = {(key, row.step) for row in stretch for key in main.intersection(row.measured)}
        stretches.append((bool(logged & seen) if logged and seen else None, stretch))
        seen |= logged
    if {True, False} <= {is_again for is_again, _ in stretches}:
        raise CtwaError(
            "its rows are in no order, and some steps are there more than once: bring them into the order in which they"
            " were logged, and leave the rows of one run"
        )
    kept: list[_Numbers] = []
    for is_again, stretch in stretches:
        if is_again:
            kept = _given_up(kept, stretch, notes)
        kept += stretch
    notes += _said_again(kept)
    return kept


def _stretches(rows: Sequence[_Numbers]) -> list[list[_Numbers]]:
    """The rows, cut where the step of a metric goes back."""
    found: list[list[_Numbers]] = [[]]
    latest: dict[str, int] = {}
    for row in rows:
        if any(latest.get(key, 0) > row.step for key in row.measured):
            found.append([])
            latest = {key: min(step, row.step) for key, step in latest.items()}
        latest |= dict.fromkeys(row.measured, row.step)
        found[-1].append(row)
    return found


def _given_up(before: Sequence[_Numbers], stretch: Sequence[_Numbers], notes: list[str]) -> list[_Numbers]:
    """What stays of the rows before a stretch that begins with an earlier step."""
    first, last, start = min(row.step for row in before), max(row.step for row in before), stretch[0].step
    if start <= first:
        raise CtwaError(
            f"its steps go back from {last} to {start}, and begin anew there: leave the rows of one run in it, and"
            " import each run into a folder of its own"
        )
    notes.append(
        f"steps go back from {last} to {start}, from where the run was resumed: the later steps of before are left out"
    )
    again = {key for row in stretch if row.step == start for key in row.measured}
    return [
        row if row.step < start else replace(row, values={k: v for k, v in row.values.items() if k not in again})
        for row in before
        if row.step <= start
    ]


def _said_again(rows: Sequence[_Numbers]) -> list[str]:
    known: dict[tuple[str, int], float] = {}
    again = []
    for row in rows:
        for key in row.measured:
            place, value = (key, row.step), row.values[key]
            if place in known and differ(known[place], value):
                again.append(place)
            known[place] = value
    if not again:
        return []
    key, step = again[0]
    return [
        f"{counted(len(again), 'number')} logged again at the same step with another value, first {key} at step {step}:"
        " the last of each is taken"
    ]


def _of_no_numbers(rows: Sequence[Row], metrics: set[str]) -> list[str]:
    """How many cells of a column of numbers are none."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        for key, value in row.values.items():
            if not isinstance(value, str) or not value.strip() or as_number(value) is not None:
                continue
            if key in metrics or (len(value) < _LONG and _LIKE_A_NUMBER.fullmatch(value.strip())):
                texts.setdefault(key, []).append(value)
    if not texts:
        return []
    columns = [
        f"{key} {counted(len(cells), 'cell')} ({cells[0][:20]!r})" for key, cells in list(texts.items())[:_MOST_COLUMNS]
    ]
    more = [counted(len(texts) - _MOST_COLUMNS, "further column")] if len(texts) > _MOST_COLUMNS else []
    return [f"no numbers, and left out: of {listed(columns + more)}"]
