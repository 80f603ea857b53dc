"""Which rows each objective applies to, known before a run starts.

A misspelt column or value would leave an objective without a row, or rows without an objective, for a whole run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctwa.engine.data import TRAIN, Part, RunData
from ctwa.engine.settings import Settings
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig

_MOST_NAMED = 8
"""Values of a column that a message names."""


@dataclass
class Coverage:
    """Which of a part's rows the objectives apply to.

    Attributes:
        num_rows: that were looked at.
        num_of: by objective, how many of them it applies to.
        values: by column that any objective tells rows by, what the rows have in it and how often.
        columns: that the rows have, keys of ``extra_info`` among them.
        without: the first row that no objective applies to, and how many there are.
    """

    num_rows: int = 0
    num_of: Counter[str] = field(default_factory=Counter)
    values: dict[str, Counter[Any]] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    without: tuple[int, Completion] | None = None
    num_without: int = 0


def check_applies_to(settings: Settings, data: RunData) -> None:
    """See that every objective has rows, and every row an objective.

    Raises:
        CtwaError: a column or a value that no row has, an objective without a row to train on, or a row to train on
            that none of the objectives applies to; and what there is instead.
    """
    if not any(objective.applies_to for objective in settings.objectives.values()):
        return
    coverages = {part.key: _coverage(settings.objectives, settings.trained, part) for part in data.parts}
    seen = [coverage for coverage in coverages.values() if coverage.num_rows]
    for name, objective in settings.objectives.items():
        for column in objective.applies_to:
            _check_column(name, objective, column, seen)
    train = coverages[TRAIN]
    if not train.num_rows:
        return  # read by a class of the user's own
    for name, objective in settings.trained.items():
        if not train.num_of[name]:
            asked = [f"{column}={_told(value)}" for column, value in objective.applies_to.items()]
            asked += [f"what '{objective.gate.by}' applies to"] if objective.gate else []
            raise CtwaError(
                f"objective '{name}' applies to no row of data.{TRAIN}: it asks for {' and '.join(asked)}; change "
                f"ctwa.objectives.{name}.applies_to, or write ctwa.objectives.{name}.split=val to evaluate it only"
            )
    if train.without is not None:
        index, row = train.without
        columns = dict.fromkeys(column for each in settings.trained.values() for column in each.applies_to)
        has = ", ".join(f"{column}={_told(row.column(column))}" for column in columns)
        raise CtwaError(
            f"data.{TRAIN}: {train.num_without} of {train.num_rows} rows have no objective, and would be completed for "
            f"nothing (the first, counted over all files from 0, is row {index}: {has}): add an objective that applies "
            "to them, or leave them out of the file"
        )


def coverage_lines(settings: Settings, data: RunData) -> list[str]:
    """Of each objective that is not for all rows at all steps, or need not be scored, the words of a plan."""
    train = None
    if any(objective.applies_to for objective in settings.objectives.values()):
        train = _coverage(settings.objectives, settings.trained, data.train)
    lines, objectives = [], settings.objectives
    for name, objective in objectives.items():
        told, by = [], objective.gate.by if objective.gate else None
        rows = f" ({train.num_of[name]:,} of {train.num_rows:,} rows)" if train and train.num_rows else ""
        if objective.applies_to:
            where = ", ".join(f"{column}={_told(value)}" for column, value in objective.applies_to.items())
            told.append(f"where {where}{rows}")
        elif by is not None and objectives[by].applies_to:
            told.append(f"where {by} applies, by its gate{rows}")
        if name in settings.from_log_probs:
            told.append(f"read off the log-probabilities of training steps ({settings.from_log_probs[name]})")
        if objective.none == "not_applicable":
            told.append("not where its function says None")
        if objective.split == "val":
            told.append("in validations only")
        elif objective.every > 1:
            told.append(f"at one training step in {objective.every} and in validations")
        if objective.max_unscored == 1:
            told.append("what it cannot score never stops the run")
        if told:
            lines.append(f"{name}: {'; '.join(told)}")
    return lines


def _coverage(objectives: Mapping[str, ObjectiveConfig], trained: Iterable[str], part: Part) -> Coverage:
    columns = dict.fromkeys(column for objective in objectives.values() for column in objective.applies_to)
    found = Coverage(values={column: Counter() for column in columns})
    for each in part.sample:
        row = Completion.unwritten(each.row.values)
        found.columns |= dict.fromkeys(["data_source", *row.row, *row.extra_info])
    trained = set(trained)
    for index, row, number in _kinds_of_rows(part, list(columns)):
        found.num_rows += number
        for column in columns:
            value = row.column(column)
            if isinstance(value, bool | int | float | str):
                found.values[column][value] += number
        about = {name for name, objective in objectives.items() if objective.is_about(row)}
        # One behind a gate applies where the gate's objective does, too.
        applying = [name for name in about if (gate := objectives[name].gate) is None or gate.by in about]
        found.num_of.update(dict.fromkeys(applying, number))
        if not trained.intersection(applying):
            found.num_without += number
            found.without = found.without or (index, row)
    return found


def _kinds_of_rows(part: Part, columns: Sequence[str]) -> list[tuple[int, Completion, int]]:
    """The rows that differ in some columns: the first of each kind, with its index, and how many there are of it."""
    kinds: dict[Any, list[Any]] = {}
    for index, values in enumerate(rows_of(part, [*columns, "data_source", "extra_info"])):
        extra_info = values.get("extra_info")
        others = extra_info if isinstance(extra_info, dict) else {}
        key = repr([values[column] if column in values else others.get(column) for column in columns])
        kinds.setdefault(key, [index, values, 0])[2] += 1
    return [(index, Completion.unwritten(values), number) for index, values, number in kinds.values()]


def rows_of(part: Part, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What all rows of a part have in some columns; nothing where a class of the user's own reads them."""
    if not part.sample:
        return
    if part.rows is None:
        for file in part.files:
            yield from file.only(columns)
        return
    table = part.rows.table
    for batch in table.select([name for name in table.column_names if name in columns]).to_batches():
        yield from batch.to_pylist()


def _told(value: Any) -> str:
    """A value as one writes it, a text in quotes: '1' is no 1."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _nearest(value: Any, values: Iterable[Any]) -> str:
    """A value that one may have meant: the number that a text in quotes spells, or a text that is nearly this one."""
    for known in values:
        if str(known) == str(value):
            return f"; did you mean {_told(known)}?"
    return did_you_mean(value, [known for known in values if isinstance(known, str)])


def _check_column(name: str, objective: ObjectiveConfig, column: str, seen: list[Coverage]) -> None:
    if not seen:
        return
    key = f"ctwa.objectives.{name}.applies_to"
    values: Counter[Any] = sum((coverage.values[column] for coverage in seen), Counter())
    columns = dict.fromkeys(known for coverage in seen for known in coverage.columns)
    if not values:
        raise CtwaError(
            f"{key}: no row has a value in the column '{column}'; write one of {', '.join(columns)}"
            f"{did_you_mean(column, columns)}"
        )
    for value in objective.values_of(column):
        if value in values:
            continue
        there = [_told(known) for known, _ in values.most_common(_MOST_NAMED)]
        more = ", ..." if len(values) > _MOST_NAMED else ""
        raise CtwaError(
            f"{key}.{column}: no row has {_told(value)}; there are {', '.join(there)}{more}{_nearest(value, values)}"
        )
