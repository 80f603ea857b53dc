"""Rows of a data set in verl's format: how a file is read, and what is wrong with a row."""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError, neighbour
from ctwa.objectives.completion import text_fault

SUFFIXES = (".parquet", ".jsonl", ".json")  # by which verl, too, knows a file
ROLES = ("system", "developer", "user", "assistant", "tool")
EXAMPLE = '{"prompt": [{"role": "user", "content": "What is 1 + 1?"}], "reward_model": {"ground_truth": "2"}}'
MAX_BYTES = 1 << 26
"""How much of a parquet file a sample is taken from (in memory): all of most files."""
_ROLES_ELSEWHERE = dict.fromkeys(("human", "instruction"), "user") | dict.fromkeys(("gpt", "bot", "model"), "assistant")
_MESSAGE = '{"role": "user", "content": "..."}'


@dataclass(frozen=True)
class Row:
    """A row of a data file.

    Attributes:
        index: its place, from 0.
        values: by column.
        unreadable: the column that cannot be read, and why; then it has no values.
    """

    index: int
    values: dict[str, Any]
    unreadable: str | None = None


class RowFile:
    """A data file that is open for a look.

    Attributes:
        path: the file.
        num_rows: how many rows it has.
    """

    path: Path
    num_rows: int

    def head(self, number: int) -> list[Row]:
        """The first rows."""
        raise NotImplementedError

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        """The first row and up to ``number`` random ones, in their order."""
        raise NotImplementedError


def open_rows(path: Path) -> RowFile:
    """Open a parquet, JSON Lines or JSON file.

    Raises:
        CtwaError: what is there instead, and what to write.
    """
    if path.is_dir():
        raise CtwaError(f"{path} is a folder{_of_a_folder(path)}")
    if not path.exists():
        raise CtwaError(
            f"{path} does not exist; give a parquet or JSON Lines file in verl's format (docs/training.md)"
            f"{neighbour(path)}"
        )
    if not path.is_file():
        raise CtwaError(f"{path} is no file, but a pipe or device; give a parquet or JSON Lines file")
    if path.suffix not in SUFFIXES:
        raise CtwaError(f"{path} has the suffix {path.suffix!r}; give a file that ends with .parquet, .jsonl or .json")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        is_parquet = start == b"PAR1"
        if start and is_parquet != (path.suffix == ".parquet"):
            raise CtwaError(
                f"{path} is a parquet file; name it .parquet"
                if is_parquet
                else f"{path} is not a parquet file; give one in verl's format, or name it .jsonl if it has a JSON "
                "object a line"
            )
        return _Parquet(path) if path.suffix == ".parquet" else _Json(path)
    except OSError as error:
        raise CtwaError(
            f"{path} cannot be read ({error.strerror or error}); mend that, or give another file"
        ) from error


def first_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The first rows of a file, all without a limit (of a parquet file as many as ``MAX_BYTES`` hold), by column.

    Raises:
        CtwaError: the file cannot be opened, or the first row that cannot be read.
    """
    file = open_rows(path)
    rows = file.head(file.num_rows if limit is None else limit)
    for row in rows:
        if row.unreadable is not None:
            raise CtwaError(f"{path}, row {row.index} (from 0): {row.unreadable}")
    return [row.values for row in rows]


def row_fault(
    row: Row, *, prompt_key: str = "prompt", needs_ground_truth: Collection[str] = (), text_prompts: bool = False
) -> str | None:
    """What keeps a row from being used, and what to write; None where nothing does.

    Args:
        row: the row.
        prompt_key: the column of the prompt.
        needs_ground_truth: the objectives whose reward functions take the ground truth and cannot do without it.
        text_prompts: whether a prompt may be a text, to be taken as it stands.
    """
    if row.unreadable is not None:
        return row.unreadable
    if prompt_key not in row.values:
        return f"it has no column '{prompt_key}' (it has {', '.join(row.values) or 'none'}); write rows like {EXAMPLE}"
    extra_info = row.values.get("extra_info")
    if extra_info is not None and not isinstance(extra_info, Mapping):
        return f"its extra_info is {_described(extra_info)}; write a dict, or leave the column out"
    return prompt_fault(row.values[prompt_key], prompt_key, text=text_prompts) or ground_truth_fault(
        row.values, needs_ground_truth
    )


def prompt_fault(prompt: Any, column: str = "prompt", *, text: bool = False) -> str | None:
    """What keeps a prompt from being given to a model, and what to write; None where nothing does.

    Args:
        prompt: what is to be a list of messages, each with a ``role`` and a ``content``: text, or a list of parts with
            images and the like. Neither text nor a user's message may be without a word.
        column: its name, for the sentence.
        text: whether it may be a text, to be taken as it stands.
    """
    if text and isinstance(prompt, str):
        if not prompt.strip():
            return f"its {column} is empty; write what the user says, or leave the row out"
        prompt = [{"role": "user", "content": prompt}]
    advice = f"write a list of messages: [{_MESSAGE}]"
    if not isinstance(prompt, Sequence) or isinstance(prompt, str | bytes):
        return f"its {column} is {_described(prompt)}; {advice}"
    if not prompt:
        return f"its {column} is an empty list; {advice}"
    for index, message in enumerate(prompt):
        if (fault := _message_fault(message)) is not None:
            return f"message {index} of its {column} {fault}"
    return None


def _message_fault(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return f"is {_described(message)}; write {_MESSAGE}"
    role, content = message.get("role"), message.get("content")
    if missing := [key for key in ("role", "content") if message.get(key) is None]:
        there = ", ".join(f"'{key}'" for key, value in message.items() if value is not None) or "nothing"
        return f"has no {' and no '.join(missing)} (it has {there}); write {_MESSAGE}"
    if role not in ROLES:
        known = _ROLES_ELSEWHERE.get(str(role).lower()) or next(iter(get_close_matches(str(role).lower(), ROLES)), None)
        return f"has the role {role!r}; write " + (f"'{known}'" if known else f"one of {', '.join(ROLES)}")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes) and content:
        return None  # parts, which are the chat template's to read
    if not isinstance(content, str):
        return f"has a content that is {_described(content)}; write a text"
    if role == "user" and not content.strip():
        return "is a user's and empty; write what the user says, or leave the row out"
    if (fault := text_fault(content)) is not None:
        return f"has {fault}, which is no text; write the whole character"
    return None


def ground_truth_fault(values: Mapping[str, Any], needed_by: Collection[str]) -> str | None:
    """What is wrong with a row's ground truth, by the objectives that need one; None where nothing is."""
    reward_model = values.get("reward_model")
    if reward_model is not None and not isinstance(reward_model, Mapping):
        return f'its reward_model is {_described(reward_model)}; write {{"ground_truth": ...}}'
    ground_truth = None if reward_model is None else reward_model.get("ground_truth")
    if not needed_by or not (ground_truth is None or (isinstance(ground_truth, float) and math.isnan(ground_truth))):
        return None
    what = "it has no reward_model" if reward_model is None else "it has no ground truth in its reward_model"
    names = ", ".join(f"'{name}'" for name in needed_by)
    return (
        f'{what}, which the objectives ({names}) ask for; write {{"ground_truth": ...}}, or ground_truth=None in the '
        "function's signature where it can do without"
    )


class Kinds:
    """Sees to it that what a column holds is of one kind in all rows.

    Reading JSON, `datasets` makes numbers of texts where both are in a column, so that a ground truth changes.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}

    def fault(self, where: str, row: Row) -> str | None:
        """What differs in this row from the rows before, and what to write; None where nothing does."""
        for path, kind in _kinds(row.values, ""):
            first, place = self._first.setdefault(path, (kind, where))
            if first != kind:
                return f"its {path} is {kind}, and that of {place} is {first}; write the same in every row"
        return None


def _kinds(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if path:
            yield path, "a dict"
        for key, item in value.items():
            yield from _kinds(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        yield path, "a list"
        for item in value:
            yield from _kinds(item, f"{path}[]")
    elif isinstance(value, bool):
        yield path, "true or false"
    elif isinstance(value, int | float):
        # 1 beside 1.5 becomes 1.0, another text for a reward function that compares texts.
        fraction = path.startswith("reward_model") and isinstance(value, float) and not math.isnan(value)
        yield path, "a fraction" if fraction else "a number"
    elif isinstance(value, str):
        yield path, "text"


class _Parquet(RowFile):
    def __init__(self, path: Path) -> None:
        import pyarrow as pa  # the methods need no pyarrow
        from pyarrow import parquet

        self.path = path
        self._errors = (pa.ArrowException, OSError)
        try:
            self._file = parquet.ParquetFile(path)
        except self._errors as error:
            raise CtwaError(f"{path} is damaged or cut off ({_line(error)}); write it again") from error
        names = self._file.schema_arrow.names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise CtwaError(f"{path} has the column '{twice}' twice; write it once")
        self.num_rows = self._file.metadata.num_rows

    def head(self, number: int) -> list[Row]:
        return list(islice((self._row(*place) for place in self._places([*range(self._file.num_row_groups)])), number))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        draw = random.Random(seed)
        later = list(range(1, self._file.num_row_groups))
        draw.shuffle(later)
        places = list(self._places([0, *later][: self._file.num_row_groups]))
        chosen = places[:1] + draw.sample(places[1:], min(number, max(len(places) - 1, 0)))
        return [self._row(*place) for place in sorted(chosen, key=lambda place: place[0])]

    def _places(self, groups: Sequence[int]) -> Iterator[tuple[int, Any, int]]:
        """Each row's index, its batch and its place in it, of as much of the row groups as may be in memory."""
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        num_bytes = 0
        for group in groups:
            first = sum(sizes[:group])
            try:
                for batch in self._file.iter_batches(batch_size=1024, row_groups=[group]):
                    yield from ((first + place, batch, place) for place in range(batch.num_rows))
                    first += batch.num_rows
                    num_bytes += batch.nbytes
                    if num_bytes > MAX_BYTES:
                        return
            except self._errors as error:
                raise CtwaError(
                    f"{self.path} cannot be read from row {first} on: it is damaged ({_line(error)}); write it again"
                ) from error

    def _row(self, index: int, batch: Any, place: int) -> Row:
        row = batch.slice(place, 1)
        values = {}
        for column, array_ in zip(batch.schema.names, row.columns, strict=True):
            try:
                values[column] = array_[0].as_py()
            except UnicodeDecodeError as error:
                return Row(index, {}, f"its {column} is not UTF-8 ({error.reason}); write it as UTF-8")
        return Row(index, values)


class _Json(RowFile):
    """A JSON object a line, or a list of objects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._objects: list[Any] | None = None
        self._offsets = array("q")  # of the lines that are not empty
        with path.open("rb") as file:
            offset = 0
            for line in file:
                if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                    if not self._offsets and text.startswith(b"["):
                        self._objects = self._read_list()
                        break
                    self._offsets.append(offset)
                offset += len(line)
        self.num_rows = len(self._offsets if self._objects is None else self._objects)

    def head(self, number: int) -> list[Row]:
        return self._rows(range(min(number, self.num_rows)))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        later = range(1, self.num_rows)
        return self._rows(sorted([0, *random.Random(seed).sample(later, min(number, len(later)))][: self.num_rows]))

    def _read_list(self) -> list[Any]:
        try:
            objects = json.loads(self.path.read_bytes(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise CtwaError(f"{self.path} is not JSON ({error}); write a list of rows, or a row a line") from error
        assert isinstance(objects, list)
        return objects

    def _rows(self, indices: Sequence[int]) -> list[Row]:
        if self._objects is not None:
            return [self._row(index, self._objects[index]) for index in indices]
        rows = []
        with self.path.open("rb") as file:
            for index in indices:
                file.seek(self._offsets[index])
                line = file.readline().removeprefix(b"\xef\xbb\xbf")
                try:
                    rows.append(self._row(index, json.loads(line, object_pairs_hook=_unique)))
                except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or a bottomless list
                    rows.append(Row(index, {}, f"it is not JSON ({error}); write one object a line"))
        return rows

    @staticmethod
    def _row(index: int, value: Any) -> Row:
        if not isinstance(value, dict):
            return Row(index, {}, f"it is {_described(value)}; write an object with the columns, like {EXAMPLE}")
        return Row(index, value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python takes the last of two values of one name; `datasets` refuses the file."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


def _of_a_folder(folder: Path) -> str:
    """What kind of folder it is, and what to do about it."""
    write = f"python -c \"import datasets; datasets.load_from_disk('{folder}')%s.to_parquet('{folder}.parquet')\""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        first = splits[0] if splits else "train"
        how = write % f"['{first}']"
        return f" of splits ({', '.join(splits)}) that datasets.save_to_disk wrote; make a file of one: {how}"
    if (folder / "dataset_info.json").is_file() or any(folder.glob("*.arrow")):
        return f" that datasets.save_to_disk wrote; make a file of it: {write % ''}"
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    files = [path for path in found if path.suffix != ".json"] or found  # a model's folder is full of .json
    named = ",".join(map(str, files[:4])) + (",..." if len(files) > 4 else "")
    return f"; name its files: [{named}]" if files else "; give a parquet or JSON Lines file in verl's format"


def _described(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {str: "the text", dict: "the dict", list: "the list", bool: "the value", bytes: "the bytes"}
    text = repr(value)
    return f"{kinds.get(type(value), 'the number' if isinstance(value, int | float) else 'the value')} " + (
        text if len(text) <= 60 else f"{text[:57]}..."
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
