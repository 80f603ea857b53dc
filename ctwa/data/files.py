"""What rows are in: parquet, JSON Lines, a JSON list, CSV, a folder of ``datasets.save_to_disk``, the hub."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import shlex
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError, neighbour

VERL_READS = (".parquet", ".jsonl", ".json")  # by which verl, too, knows a file
SUFFIXES = (*VERL_READS, ".csv", ".tsv")
KNOWN = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
PACKERS = {".gz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k", ".zst": "unzstd", ".zip": "unzip"}
"""What makes a file of a compressed one, by its suffix."""
HUB = "hf://"
"""What the name of a data set on the hub begins with: nothing else is ever asked of a network."""
MAX_BYTES = 1 << 26
"""How much of a parquet file a sample is taken from (in memory): all of most files."""
_BATCH = 1024
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

    def head(self, number: int) -> list[Row]:
        """The first rows."""
        return list(islice(self.rows(), number))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        """The first row and up to ``number`` random ones, in their order."""
        chosen = set(_chosen(self.num_rows, number, seed))
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


def open_rows(source: str | Path) -> RowFile:
    """Open what a user named: a file, a folder, ``folder:split``, or ``hf://owner/name:config:split``.

    Raises:
        CtwaError: what is there instead, and what to write.
    """
    name = str(source)
    if name.startswith(HUB):
        return _open_hub(name)
    path = Path(name)
    folder, colon, split = name.rpartition(":")
    if colon and not path.exists() and Path(folder).is_dir():
        return _open_folder(Path(folder), split, name)
    if path.is_dir():
        return _open_folder(path, None, name)
    if not path.exists():
        if set("*?[") & set(name):
            raise CtwaError(f"{name} is a pattern{_matching(name)}")
        raise CtwaError(f"{path} does not exist; give a {KNOWN} file{neighbour(path)}{_on_the_hub(name)}")
    if not path.is_file():
        raise CtwaError(f"{path} is no file, but a pipe or device; give a {KNOWN} file")
    if path.suffix in PACKERS:
        raise CtwaError(f"{path} is compressed; unpack it first ({PACKERS[path.suffix]} {shlex.quote(name)})")
    if path.suffix not in SUFFIXES:
        raise CtwaError(f"{path} has the suffix {path.suffix!r}; give a file that ends with {KNOWN}")
    try:
        return _open_file(path)
    except OSError as error:
        raise CtwaError(
            f"{path} cannot be read ({error.strerror or error}); mend that, or give another file"
        ) from error


def is_local(source: str) -> bool:
    """Whether a source is on this machine, and not on a hub."""
    return not source.startswith(HUB)


def _open_file(path: Path) -> RowFile:
    with path.open("rb") as file:
        start = file.read(4)
    is_parquet = start == b"PAR1"
    if start and is_parquet != (path.suffix == ".parquet"):
        raise CtwaError(
            f"{path} is a parquet file; name it .parquet"
            if is_parquet
            else f"{path} is not a parquet file; name it .jsonl if it has a JSON object a line, .csv if it has commas"
        )
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CtwaError(f"{path} is written in UTF-16; save it as UTF-8")
    if path.suffix == ".parquet":
        return _Parquet(path)
    return _Csv(path) if path.suffix in (".csv", ".tsv") else _Json(path)


def _chosen(num_rows: int, number: int, seed: int) -> list[int]:
    later = range(1, num_rows)
    return sorted([0, *random.Random(seed).sample(later, min(number, len(later)))][:num_rows])


class _Parquet(RowFile):
    kind = "parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa  # the methods need no pyarrow
        from pyarrow import parquet

        self.source = str(path)
        self._errors = (pa.ArrowException, OSError)
        try:
            self._file = parquet.ParquetFile(path)
        except self._errors as error:
            raise CtwaError(f"{path} is damaged or cut off ({_line(error)}); write it again") from error
        _refuse_twice(self.source, self._file.schema_arrow.names)
        self.num_rows = self._file.metadata.num_rows

    def rows(self) -> Iterator[Row]:
        for first, batch in self._batches(range(self._file.num_row_groups)):
            try:
                values = batch.to_pylist()
            except UnicodeDecodeError:
                yield from (self._row(first + place, batch, place) for place in range(batch.num_rows))
            else:
                yield from (Row(first + place, each) for place, each in enumerate(values))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
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

    def _batches(self, groups: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The batches of some row groups, each with the index of its first row."""
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        for group in groups:
            first = sum(sizes[:group])
            try:
                for batch in self._file.iter_batches(batch_size=_BATCH, row_groups=[group]):
                    yield first, batch
                    first += batch.num_rows
            except self._errors as error:
                raise CtwaError(
                    f"{self.source} cannot be read from row {first} on: it is damaged ({_line(error)}); write it again"
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
        return self._at(range(self.num_rows))

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        return list(self._at(_chosen(self.num_rows, number, seed)))

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
            content = json.loads(Path(self.source).read_bytes().removeprefix(_BOM), object_pairs_hook=_unique)
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
                    yield self._row(index, json.loads(line, object_pairs_hook=_unique))
                except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or a bottomless list
                    where = f"line {self._numbers[index]} of the file"
                    yield Row(index, {}, f"it is not JSON ({error}; {where}); write one object a line")

    @staticmethod
    def _row(index: int, value: Any) -> Row:
        if not isinstance(value, dict):
            return Row(index, {}, f"it is {described(value)}; write an object with the columns")
        return Row(index, value)


class _Csv(RowFile):
    """A header and a row a record, by commas, semicolons or tabs, with quotes where a text has one of these in it.

    Every value is text, and an empty one is none: nothing is taken for a number. Spaces behind a separator are none of
    the value; a record without any value, as spreadsheets write below a table, is no row.
    """

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        with self._open() as file:
            header = file.readline()
        if not header.strip():
            raise CtwaError(f"{path} is empty; give a file with a header and rows")
        separators = "\t" if path.suffix == ".tsv" else ",;\t"
        unquoted = "".join(header.split('"')[::2])
        self._separator = max(separators, key=unquoted.count)
        self.kind = {",": "CSV", ";": "CSV with semicolons", "\t": "CSV with tabs"}[self._separator]
        csv.field_size_limit(sys.maxsize)  # a text may be long
        try:
            records = self._records()
            self._columns = [name.strip() for name in next(records)]
            _refuse_twice(self.source, self._columns)
            self.num_rows = sum(1 for record in records if any(record))
        except csv.Error as error:
            raise CtwaError(f"{path} cannot be read as CSV ({error}); close its quotes, or write JSON Lines") from error

    def rows(self) -> Iterator[Row]:
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
            yield from csv.reader(file, delimiter=self._separator, skipinitialspace=True, strict=True)

    def _open(self) -> io.TextIOWrapper:
        # What is no UTF-8 is told by its row.
        return Path(self.source).open(encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Dataset(RowFile):
    """A ``datasets.Dataset``, of a folder or of the hub."""

    def __init__(self, source: str, kind: str, dataset: Any, paths: Sequence[Path]) -> None:
        self.source, self.kind, self._dataset, self._files = source, kind, dataset.with_format(None), paths
        self.num_rows = dataset.num_rows

    def rows(self) -> Iterator[Row]:
        first = 0
        for columns in self._dataset.iter(_BATCH):
            names = list(columns)
            batch = list(zip(*columns.values(), strict=True))
            yield from (Row(first + n, dict(zip(names, values, strict=True))) for n, values in enumerate(batch))
            first += len(batch)

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        return [Row(index, self._dataset[index]) for index in _chosen(self.num_rows, number, seed)]

    def _paths(self) -> Sequence[Path]:
        return self._files


def _open_folder(folder: Path, split: str | None, source: str) -> RowFile:
    """A folder that ``datasets.save_to_disk`` wrote, of one data set or of one for each split."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        split = _one_of(splits, split, source, str(folder))
        folder, kind = folder / split, f"the split {split} of a folder of datasets.save_to_disk"
    elif (folder / "state.json").is_file() or (folder / "dataset_info.json").is_file():
        kind = "a folder of datasets.save_to_disk"
        if split is not None:
            raise CtwaError(f"{folder} has no splits; write {folder}")
    else:
        raise CtwaError(f"{folder} is a folder{_files_of(folder)}")
    datasets = _datasets(source)
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # of a damaged folder `datasets` and pyarrow say what they like
        raise CtwaError(f"{folder} cannot be read ({_line(error)}); save it again") from error
    _refuse_twice(source, dataset.column_names)
    return _Dataset(source, kind, dataset, sorted(folder.glob("*.arrow")))


def _open_hub(source: str) -> RowFile:
    """``hf://owner/name``, with ``@revision``, ``:split`` or ``:config:split`` behind it."""
    name, *parts = source.removeprefix(HUB).split(":")
    name, _, revision = name.partition("@")
    if not name or len(parts) > 2 or not all(parts):
        raise CtwaError(
            f"{source} is no name of a data set: write hf://owner/name:split or hf://owner/name:config:split"
        )
    config, split = (None, *parts)[-2:] if parts else (None, None)
    datasets = _datasets(source)
    with redirect_stderr(io.StringIO()):  # bars and advice
        try:
            loaded = datasets.load_dataset(name, config, split=split, revision=revision or None)
        except Exception as error:  # no network, no such name, no such config: `datasets` says which
            raise CtwaError(f"{source} cannot be had ({_line(error)}); mend that, or give a file") from error
    if split is None:
        split = _one_of(list(loaded), None, source, source)
        loaded = loaded[split]
    files = [Path(each["filename"]) for each in loaded.cache_files]
    return _Dataset(source, f"the split {split} of a data set on the hub", loaded, files)


def _one_of(splits: Sequence[str], split: str | None, source: str, stem: str) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None or split not in splits:
        what = "names no split" if split is None else f"has no split {split!r}"
        raise CtwaError(f"{source} {what}; write " + " or ".join(f"{stem}:{each}" for each in splits))
    return split


def _datasets(source: str) -> Any:
    try:
        import datasets  # slow to import, and only these forms need it
    except ImportError as error:
        raise CtwaError(
            f"{source} is read by the package 'datasets', which is not installed: pip install datasets, or give a file"
        ) from error
    return datasets


def _files_of(folder: Path) -> str:
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    files = [path for path in found if path.suffix != ".json"] or found  # a model's folder is full of .json
    return f"; name its files: {_named(files)}" if files else f"; give a {KNOWN} file"


def _matching(pattern: str) -> str:
    files = sorted(Path(path) for path in glob(pattern, recursive=True))
    if not files:
        return f", and no file is like it; give a {KNOWN} file"
    return f"; name the files that are like it: {_named(files)}"


def _named(files: Sequence[Path]) -> str:
    return f"[{','.join(map(str, files[:4]))}{',...' if len(files) > 4 else ''}]"


def _on_the_hub(name: str) -> str:
    """What to write where a name looks like one of the hub."""
    return f"; for a data set on the hub write {HUB}{name}" if name.count("/") == 1 and "." not in name else ""


def _refuse_twice(source: str, names: Sequence[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CtwaError(f"{source} has the column '{twice}' twice; write it once")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python takes the last of two values of one name; `datasets` refuses the file."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
