"""Rows of a file by its format: parquet, JSON Lines, a JSON list, CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError, one_line
from ctwa.strict import once_each

MAX_BYTES = 1 << 26
"""How much of a parquet file a sample is taken from (in memory): all of most files."""
BATCH = 1024
"""Rows that are in memory at once."""
_SEPARATOR = re.compile(r"sep=(\S|\t)\s*", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """A row of a data file.

    Attributes:
        index: its place, from 0.
        values: by column.
        unreadable: why it cannot be read; then it has no values.
    """

    index: int
    values: dict[str, Any]
    unreadable: str | None = None


class RowFile(ABC):
    """Rows that are open to be read.

    Attributes:
        source: what the user named.
        kind: what it is, in words.
        num_rows: how many rows there are.
    """

    source: str
    kind: str
    num_rows: int

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Every row, a few at a time in memory.

        Raises:
            CtwaError: the file is damaged from some row on.
        """

    def only(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every row's values in those of some columns that it has; none of a row that cannot be read."""
        for row in self.rows():
            yield {column: row.values[column] for column in columns if column in row.values}

    def head(self, number: int) -> list[Row]:
        """The first rows."""
        return list(islice(self.rows(), number))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        """The first row and up to ``number`` random ones, in their order."""
        chosen = set(chosen_rows(self.num_rows, number, seed))
        return [row for row in self.rows() if row.index in chosen]

    def fingerprint(self) -> str:
        """A number that is another one when the content is."""
        digest = hashlib.sha256()
        for path in self._paths():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _paths(self) -> Sequence[Path]:
        return [Path(self.source)]


def chosen_rows(num_rows: int, number: int, seed: int) -> list[int]:
    """The indices of the first row and of up to ``number`` random ones, in order."""
    later = range(1, num_rows)
    return sorted([0, *random.Random(seed).sample(later, min(number, len(later)))][:num_rows])


class ParquetFile(RowFile):
    """A parquet file, of which a few row groups are read for a sample."""

    kind = "parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa  # the methods need no pyarrow
        from pyarrow import parquet

        self.source = str(path)
        self._errors = (pa.ArrowException, OSError)
        self._no_value = (pa.ArrowException, ValueError, OverflowError)  # bytes, times and zones that Python has not
        try:
            self._file = parquet.ParquetFile(path)
        except self._errors as error:
            raise CtwaError(f"{path} is damaged or cut off ({one_line(error)}); write it again") from error
        refuse_twice(self.source, self._file.schema_arrow.names)
        self.num_rows = self._file.metadata.num_rows

    def rows(self) -> Iterator[Row]:
        """Every row."""
        for first, batch in self._batches(range(self._file.num_row_groups)):
            try:
                values = batch.to_pylist()
            except self._no_value:
                yield from (self._row(first + place, batch, place) for place in range(batch.num_rows))
            else:
                yield from (Row(first + place, each) for place, each in enumerate(values))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        """The first row and random ones of as many row groups as are read for them."""
        draw = random.Random(seed)
        later = list(range(1, self._file.num_row_groups))
        draw.shuffle(later)
        places: list[tuple[int, Any, int]] = []
        num_bytes = 0
        for first, batch in self._batches([0, *later][: self._file.num_row_groups]):
            places += [(first + place, batch, place) for place in range(batch.num_rows)]
            num_bytes += batch.nbytes
            if num_bytes > MAX_BYTES:
                break
        chosen = places[:1] + draw.sample(places[1:], min(number, max(len(places) - 1, 0)))
        return [self._row(*place) for place in sorted(chosen, key=lambda place: place[0])]

    def only(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every row's values in some columns; no other column is read."""
        there = [column for column in self._file.schema_arrow.names if column in columns]
        for first, batch in self._batches(range(self._file.num_row_groups), there):
            try:
                yield from batch.to_pylist()
            except self._no_value:
                yield from (self._row(first + place, batch, place).values for place in range(batch.num_rows))

    def _batches(self, groups: Sequence[int], columns: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
        """The batches of some row groups, each with the index of its first row."""
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        for group in groups:
            first = sum(sizes[:group])
            try:
                for batch in self._file.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns):
                    yield first, batch
                    first += batch.num_rows
            except self._errors as error:
                raise CtwaError(
                    f"{self.source} cannot be read from row {first} on: it is damaged ({one_line(error)}); "
                    "write it again"
                ) from error

    def _row(self, index: int, batch: Any, place: int) -> Row:
        row = batch.slice(place, 1)
        values = {}
        for column, array_ in zip(batch.schema.names, row.columns, strict=True):
            try:
                values[column] = array_[0].as_py()
            except UnicodeDecodeError as error:
                return Row(index, {}, f"its {column} is not UTF-8 ({error.reason}); write it as UTF-8")
            except self._no_value as error:
                kind = batch.schema.field(column).type
                return Row(index, {}, f"its {column} is no value of Python's ({kind}: {one_line(error)}); write text")
        return Row(index, values)


class JsonFile(RowFile):
    """A JSON object a line, or a list of objects."""

    kind = "JSON Lines"

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        self._objects: list[Any] | None = None
        self._offsets = array("q")  # of the lines that are not empty
        self._numbers = array("q")  # of these lines, from 1
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                if text := line.removeprefix(_BOM).strip():
                    if not self._offsets and (path.suffix == ".json" or text.startswith(b"[")):
                        self._objects = self._read_list(text)
                        if self._objects is not None:
                            self.kind = "a JSON list"
                            break
                    self._offsets.append(offset)
                    self._numbers.append(number)
                offset += len(line)
        self.num_rows = len(self._offsets if self._objects is None else self._objects)

    def rows(self) -> Iterator[Row]:
        """Every row."""
        return self._at(range(self.num_rows))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        """The first row and random ones, by where they are in the file."""
        return list(self._at(chosen_rows(self.num_rows, number, seed)))

    def _read_list(self, first_line: bytes) -> list[Any] | None:
        """The objects of a file that is one list; None where it has a row a line."""
        if not first_line.startswith(b"["):
            try:
                json.loads(first_line)
            except (ValueError, RecursionError):  # perhaps one object over several lines
                pass
            else:
                return None
        try:
            content = json.loads(Path(self.source).read_bytes().removeprefix(_BOM), object_pairs_hook=once_each)
        except (ValueError, RecursionError) as error:
            if not first_line.startswith(b"["):
                return None  # each line will say what it is
            raise CtwaError(f"{self.source} is not JSON ({error}); write a list of rows, or a row a line") from error
        if isinstance(content, dict):
            raise CtwaError(
                f"{self.source} is one object, with the keys {', '.join(content)}; write a list of rows, or a row a "
                "line"
            )
        assert isinstance(content, list)
        return content

    def _at(self, indices: Sequence[int]) -> Iterator[Row]:
        if self._objects is not None:
            yield from (self._row(index, self._objects[index]) for index in indices)
            return
        with Path(self.source).open("rb") as file:
            for index in indices:
                file.seek(self._offsets[index])
                line = file.readline().removeprefix(_BOM)
                try:
                    yield self._row(index, json.loads(line, object_pairs_hook=once_each))
                except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or a bottomless list
                    where = f"line {self._numbers[index]} of the file"
                    yield Row(index, {}, f"it is not JSON ({error}; {where}); write one object a line")

    @staticmethod
    def _row(index: int, value: Any) -> Row:
        if not isinstance(value, dict):
            return Row(index, {}, f"it is {described(value)}; write an object with the columns")
        return Row(index, value)


class CsvFile(RowFile):
    """A header and a row a record, by commas, semicolons or tabs, with quotes where a text has one of these in it.

    Every value is text, and an empty one is none: nothing is taken for a number. Spaces behind a separator are none of
    the value; a record without any value, as spreadsheets write below a table, is no row. A first line ``sep=;`` says
    what is between them, as Excel has it.
    """

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        with self._open() as file:
            first = file.readline()
            said = _SEPARATOR.fullmatch(first)
            header = file.readline() if said else first
        self._has_separator = said is not None
        if not header.strip():
            raise CtwaError(f"{path} is empty; give a file with a header and rows")
        separators = "\t" if path.suffix == ".tsv" else ",;\t"
        unquoted = "".join(header.split('"')[::2])
        self._separator = said[1] if said else max(separators, key=unquoted.count)
        kinds = {",": "CSV", ";": "CSV with semicolons", "\t": "CSV with tabs"}
        self.kind = kinds.get(self._separator, f"CSV with {self._separator!r}")
        csv.field_size_limit(sys.maxsize)  # a text may be long
        try:
            records = self._records()
            self._columns = [name.strip() for name in next(records)]
            refuse_twice(self.source, self._columns)
            self.num_rows = sum(1 for record in records if any(record))
        except csv.Error as error:
            raise CtwaError(f"{path} cannot be read as CSV ({error}); close its quotes, or write JSON Lines") from error

    def rows(self) -> Iterator[Row]:
        """Every row."""
        records = self._records()
        next(records)
        for index, record in enumerate(record for record in records if any(record)):
            values = {name: value or None for name, value in zip(self._columns, record, strict=False)}
            fault = None
            if len(record) != len(self._columns):
                fault = (
                    f"it has {len(record)} values where the header has {len(self._columns)}; put a text that has "
                    f"{self._separator!r} or a quote in it in quotes"
                )
            elif name := next((name for name, value in values.items() if value and not _is_utf8(value)), None):
                fault = f"its {name} is not UTF-8; save the file as UTF-8"
            yield Row(index, {} if fault else values, fault)

    def _records(self) -> Iterator[list[str]]:
        with self._open() as file:
            if self._has_separator:
                file.readline()
            yield from csv.reader(file, delimiter=self._separator, skipinitialspace=True, strict=True)

    def _open(self) -> io.TextIOWrapper:
        # What is no UTF-8 is told by its row.
        return Path(self.source).open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def refuse_twice(source: str, names: Sequence[str]) -> None:
    """Raise a CtwaError where a column is there twice."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CtwaError(f"{source} has the column '{twice}' twice; write it once")


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def described(value: Any) -> str:
    """A value, and what kind of one it is, in a few words."""
    if value is None:
        return "null"
    kinds = {str: "the text", dict: "the dict", list: "the list", bool: "the value", bytes: "the bytes"}
    text = repr(value)
    return f"{kinds.get(type(value), 'the number' if isinstance(value, int | float) else 'the value')} " + (
        text if len(text) <= 60 else f"{text[:57]}..."
    )
