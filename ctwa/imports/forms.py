"""The forms in which trainers leave their logs: told apart by what is in a file, and read as a `History`.

- ``trainer_state.json`` of transformers and TRL: an object with ``log_history``, a list of what was logged, each with
  its ``step``; in every checkpoint.
- Weights & Biases: the history of a run as CSV, JSON or JSON Lines, with ``_step``; and the CSV of a panel, with a
  column ``Step`` and columns ``<run> - <metric>``.
- TensorBoard: ``events.out.tfevents.*``.
- verl's logger ``file``: JSON Lines of ``{"step": ..., "data": {...}}``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError
from ctwa.imports.cells import write_points
from ctwa.imports.history import History, as_number
from ctwa.imports.rows import Row, history_of, without_padding
from ctwa.run.text import counted

KNOWN = (
    "trainer_state.json (or the folder of a TRL run), a history of Weights & Biases as CSV, JSON or JSON Lines, a"
    " TensorBoard event file or its folder, or the JSON Lines of verl's logger `file`"
)
_STEPS = ("train/global_step", "training/global_step", "trainer/global_step", "global_step", "_step")
"""Where a row of Weights & Biases has its step: the trainer's own count before that of the calls to `log`."""
PANEL = "a panel of Weights & Biases"
"""What may hold several runs."""
_PANEL_STEPS = ("Step", "train/global_step", "training/global_step", "trainer/global_step", "global_step")
_EXCEL = re.compile(r"\Asep=.\r?\n", re.IGNORECASE)
"""A first line that tells a spreadsheet what is between values."""
_BOUNDS = ("__MIN", "__MAX")


def read_history(path: Path, run: str | None = None) -> History:
    """What was logged in a file or folder.

    Args:
        path: a file in one of the forms above, or a folder that holds one.
        run: which run, where a CSV holds several.

    Raises:
        CtwaError: nothing there is in a form that is known, or several runs are and `run` names none of them.
    """
    if not path.exists():
        raise CtwaError(f"{path} does not exist: give {KNOWN}")
    try:
        history = _read_folder(path) if path.is_dir() else _read_file(path, run)
    except CtwaError as error:
        raise error if str(error).startswith(str(path)) else CtwaError(f"{path}: {error}") from error
    if not history.steps:
        why = f" ({'; '.join(history.notes)})" if history.notes else ""
        raise CtwaError(f"{path} has no number at any step{why}: give the log of a run that has begun")
    return history


def _read_folder(folder: Path) -> History:
    checkpoints = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: _number_of(path.parent))
    states = [path for path in (*reversed(checkpoints), folder / "trainer_state.json") if path.is_file()]
    if states:  # the one in the folder itself is written at the end, if at all
        return _read_file(states[-1] if states[-1].parent == folder else states[0], None)
    if any(folder.glob("*tfevents*")):
        return _of_events(folder)
    inner = sorted({path.parent for path in folder.rglob("*tfevents*")})
    if len(inner) == 1:
        return _of_events(inner[0])
    if inner:
        raise CtwaError(f"{folder} has the events of several runs: give one of {', '.join(map(str, inner[:10]))}")
    raise CtwaError(f"{folder} holds no log that is known: give {KNOWN}")


def _number_of(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _read_file(path: Path, run: str | None) -> History:
    if "tfevents" in path.name:
        return _of_events(path)
    if path.suffix == ".wandb":
        raise CtwaError(
            f"{path} is Weights & Biases' own file: export the run's history as CSV or JSON (`wandb sync` it first,"
            " or read it by `wandb.Api().run(...).history()`), and give that"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CtwaError(f"{path} is no text: give {KNOWN}") from error
    if text.lstrip()[:1] not in ("", "{", "["):
        return _of_csv(path, text, run)
    rows = _json(path, text)
    if isinstance(rows, dict) and "log_history" in rows:
        return _of_trainer_state(path, rows)
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise CtwaError(f"{path} is in no form that is known: give {KNOWN}")
    if "schema" in rows[0] and "metrics" in rows[0]:
        raise CtwaError(f"{path} is a trace of ctwa already: give its folder to ctwa report")
    if all(isinstance(row.get("data"), dict) and as_number(row.get("step")) is not None for row in rows):
        return history_of("the log file of verl", [Row(row["step"], row["data"]) for row in rows])
    return _of_rows(path, rows)


def _json(path: Path, text: str) -> Any:
    """The value of a JSON file, or the list of those of a JSON Lines file; an unfinished last line is left out."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        lines = [line for line in text.split("\n") if line.strip()]  # others that Python breaks at may be in a string
    found = []
    for index, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if index == len(lines) and found:
                break
            raise CtwaError(f"{path}: line {index} is no JSON ({error}): give {KNOWN}") from error
    return found


def _of_trainer_state(path: Path, state: Mapping[str, Any]) -> History:
    logged = state["log_history"]
    if not isinstance(logged, list) or not all(isinstance(row, dict) and "step" in row for row in logged):
        raise CtwaError(
            f"{path}: log_history is no list of what was logged by step: give a trainer_state.json as saved"
        )
    history = history_of(
        "the trainer_state.json of TRL or transformers",
        [
            Row(row["step"], {key: value for key, value in row.items() if key not in ("step", "epoch")})
            for row in logged
        ],
    )
    steps = as_number(state.get("max_steps"))
    history.num_steps = int(steps) if steps is not None and 0 < steps < math.inf else None
    return history


def _of_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> History:
    """A history of Weights & Biases: one row a call to `log`."""
    columns = _step_columns(rows)
    if not columns:
        raise CtwaError(f"{path} has no step in its rows ({', '.join(_STEPS)}): give {KNOWN}")
    taken, num_without = [], 0
    for row in rows:
        step = next((step for column in columns if (step := _known(row.get(column))) is not None), None)
        values = {key: value for key, value in row.items() if not key.startswith("_") and key not in _STEPS}
        if step is not None:
            taken.append(Row(step, values, row.get("_timestamp")))
        elif any(_known(value) is not None for key, value in values.items() if not key.startswith("system")):
            num_without += 1
    history = history_of("a history of Weights & Biases", without_padding(taken))
    if num_without:
        history.notes.append(f"{counted(num_without, 'row')} without a number as {columns[0]} left out")
    return history


def _step_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where a row has its step: the first column that any has, and those that say the same where both are.

    verl logs its first validation before there is a step of the trainer's own; `_step` is the same count.
    """
    known = {column: [_known(row.get(column)) for row in rows] for column in _STEPS}
    first = next((column for column in _STEPS if any(step is not None for step in known[column])), None)
    if first is None:
        return []
    both = {
        column: [pair for pair in zip(known[first], known[column], strict=True) if None not in pair]
        for column in _STEPS
    }
    return [first, *(key for key in _STEPS if key != first and both[key] and all(a == b for a, b in both[key]))]


def _known(value: Any) -> float | None:
    """The number; None of NaN, which a table may have in place of an empty cell."""
    number = as_number(value)
    return None if number is None or math.isnan(number) else number


def _of_csv(path: Path, text: str, run: str | None) -> History:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a column may hold whole completions
    text = _EXCEL.sub("", text.lstrip("\r\n "))  # and not a tab: the first column may have no name
    try:
        header, separator = _header_of(text)
        columns = [column for column in header if column]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        next(reader)
        rows = [{key: value for key, value in zip(header, row, strict=False) if key and value} for row in reader]
    except csv.Error as error:
        raise CtwaError(f"{path} is no CSV ({error}): give {KNOWN}") from error
    write_points(rows, separator)
    if twice := [column for column, times in Counter(columns).items() if times > 1]:
        raise CtwaError(f"{path} has the column {twice[0]} twice: leave one of them out")
    step_column = next((column for column in _PANEL_STEPS if column in columns), None)
    parts = {
        column: part for column in columns if not column.endswith(_BOUNDS) and all(part := _of_a_panel(column, run))
    }
    if step_column is None or not parts:
        return _of_rows(path, rows)
    chosen = _chosen(path, list(dict.fromkeys(of for of, _ in parts.values())), run)
    own = {key: column for column, (of, key) in parts.items() if of == chosen}
    steps = [_known(row.get(step_column)) for row in rows]
    history = history_of(
        PANEL,
        [
            Row(step, {key: row.get(column) for key, column in own.items()})
            for step, row in zip(steps, rows, strict=True)
            if step is not None
        ],
    )
    if num_without := steps.count(None):
        history.notes.append(f"{counted(num_without, 'row')} without a number as {step_column} left out")
    return history


def _header_of(text: str) -> tuple[list[str], str]:
    """The columns of a CSV, and what is between them: a comma, or what a spreadsheet may have made of it."""
    headers = {
        separator: next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
        for separator in ",;\t"
    }
    separator = max(headers, key=lambda each: len(headers[each]))
    return [column.strip() for column in headers[separator]], separator


def _of_a_panel(column: str, run: str | None) -> tuple[str, str]:
    """The run and the metric of a panel's column; "" where it is none. Both may have a dash in them."""
    if run is not None and column.startswith(f"{run} - "):
        return run, column.removeprefix(f"{run} - ")
    of, _, key = column.rpartition(" - ")
    return of, key


def _chosen(path: Path, known: list[str], run: str | None) -> str:
    if run is None and len(known) == 1:
        return known[0]
    if run not in known:
        said = "has several runs" if run is None else f"has no run {run}"
        raise CtwaError(f"{path} {said}: choose one by --run, of {', '.join(known)}")
    return run


def _of_events(path: Path) -> History:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})  # 0: all of them
    events.Reload()
    rows = [
        Row(event.step, {key: event.value}, event.wall_time)
        for key in events.Tags()["scalars"]
        for event in events.Scalars(key)
    ]
    for key in events.Tags()["tensors"]:  # what TensorFlow 2 writes scalars as
        for event in events.Tensors(key):
            value = tensor_util.make_ndarray(event.tensor_proto)
            if value.dtype.kind in "fiu" and value.size == 1:
                rows.append(Row(event.step, {key: float(value.reshape(()))}, event.wall_time))
    return history_of("TensorBoard events", sorted(rows, key=lambda row: float(row.seconds)))
