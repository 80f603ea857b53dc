"""JSON Lines files that outlive crashes: one object a line, read while they are written, continued by a resumed run."""

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self, TypedDict

import msgspec

from ctwa.errors import CtwaError
from ctwa.run.disk import naming_the_disk
from ctwa.run.lock import hold

SCHEMA = 2
_FAST = msgspec.json.Decoder()  # a long trace is hundreds of MB; this reads it three times as fast as json does
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A step, or a place: beyond, a number that was read as a float may be another one."""


_ANY = dict[str, Any]


class AnyRecord(TypedDict):
    """What every record has, whichever file it is of."""

    schema: Annotated[int, msgspec.Meta(ge=1)]


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by a file with `data`, so that a crash leaves the old file or the new one.

    Raises:
        CtwaError: the disk is full; the old file is there still.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming_the_disk(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except Exception:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def read_jsonl(path: Path, form: Any = _ANY) -> list[Any]:
    """All records of a file. A last line that is not finished (its writer died or is at it) is left out.

    Args:
        path: the file.
        form: what a record is: a ``TypedDict``, whose keys alone are read; by default any object.

    Raises:
        CtwaError: the file is missing, a line in it is no record of the form, or it has another schema than this ctwa
            reads.
    """
    return list(iterate_jsonl(path, form))


def iterate_jsonl(path: Path, form: Any = _ANY) -> Iterator[Any]:
    """As `read_jsonl`, one record after the other: a long run's trace need not fit into memory."""
    return (record for _, record in _read_lines(path, form))


def _read_lines(path: Path, form: Any) -> Iterator[tuple[bytes, Any]]:
    if not path.is_file():
        raise CtwaError(f"{path} does not exist: give the folder of a run that has begun, or the path of its file")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") and not _is_json(line):
                break
            if not line.isspace():
                yield line, _record(line, f"{path}:{number}", form)


@cache
def _decoder(form: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(form)


def _record(line: bytes, where: str, form: Any) -> Any:
    try:
        record = _decoder(form).decode(line)
    except (ValueError, RecursionError):  # which is told once it is known what is in the line
        record = None
    if record is not None and record.get("schema") == SCHEMA:
        return record
    try:
        record = decode_line(line)
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8, or lists without an end
        raise CtwaError(f"{where} is not JSON ({error}): mend or delete that line") from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise CtwaError(f'{where} is no record of ctwa (no "schema" in it): give a file that ctwa wrote')
    check_schema(where, record["schema"])
    try:
        return msgspec.convert(record, form)
    except msgspec.ValidationError as error:
        raise CtwaError(f"{where} is no record of this file ({error}): mend or delete that line") from error


def check_schema(where: object, schema: int) -> None:
    """Refuse what another version of ctwa wrote, which means something else by the same names.

    Raises:
        CtwaError: the schema is not the one that this ctwa writes.
    """
    if schema != SCHEMA:
        raise CtwaError(
            f"{where} has schema {schema}, and this ctwa reads {SCHEMA}: read it with the version of ctwa that wrote it"
        )


def _is_json(line: bytes) -> bool:
    try:
        decode_line(line)
    except (ValueError, RecursionError):
        return False
    return True


def decode_line(line: bytes) -> Any:
    """The value of one line; a `ValueError` where it is no JSON."""
    try:
        return _FAST.decode(line)
    except (msgspec.DecodeError, ValueError):
        return json.loads(line)  # takes what models write and UTF-8 cannot say: half a surrogate pair


class JsonLinesWriter:
    """The base of what writes records to a file, each on disk before the writing returns; closed by `with`.

    Attributes:
        form: what a record of such a file is: a ``TypedDict``.

    Args:
        path: the file; a new run starts it, a resumed run continues it.
        keep: None for a new run; else says which of the records already there stay. The others are moved to
            `<name>.dropped.jsonl` beside the file, and an unfinished last line is dropped.

    Raises:
        CtwaError: the file has records and `keep` is None.
    """

    form: Any

    def __init__(self, path: Path, *, keep: Callable[[dict[str, Any]], bool] | None = None):
        self.path = path.absolute()  # a loop may go to another folder
        self._kept: list[dict[str, Any]] = []
        if path.exists() and path.stat().st_size:
            if keep is None:
                raise CtwaError(f"{path} already has records of a run: resume that run, or give another folder")
            self._kept = _rewind(path, keep, self.form)
        self._file = path.open("ab", buffering=0)
        hold(self._file)

    def _append(self, record: dict[str, Any]) -> None:
        """Writes one record as one line of strict JSON.

        Raises:
            CtwaError: the disk is full; the line may be there in part, which readers leave out. Or the file is no more
                where it was, so that nobody would find the record.
        """
        if not self._is_there():
            raise CtwaError(
                f"{self.path} is no longer the file that is written: its folder was moved, deleted or replaced "
                "meanwhile; put it back, and resume"
            )
        line = memoryview(json.dumps(record, allow_nan=False).encode() + b"\n")
        with naming_the_disk(self.path):
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        """Closes the file; nothing is pending, every record is already on disk."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def dropped(path: Path) -> Path:
    """Where the records are that a resumed run makes again, of a file."""
    return path.with_suffix(".dropped.jsonl")


def _rewind(path: Path, keep: Callable[[dict[str, Any]], bool], form: Any) -> list[dict[str, Any]]:
    kept_lines, dropped_lines, kept = [], [], []
    for line, record in _read_lines(path, form):
        if keep(record):
            kept_lines.append(line.rstrip(b"\n") + b"\n")
            kept.append(record)
        else:
            dropped_lines.append(line.rstrip(b"\n") + b"\n")
    if dropped_lines:
        # Before the file itself is replaced: a crash between the two repeats dropped records, and loses none.
        with dropped(path).open("ab") as file:
            file.writelines(dropped_lines)
            file.flush()
            os.fsync(file.fileno())
    content = b"".join(kept_lines)
    if content != path.read_bytes():
        write_atomically(path, content)
    return kept


class JsonLinesTail:
    """The records added to a file since the last poll, for a reader in another process than the writer's.

    A line is handed out once its newline is there. A file that a resumed run has replaced or cut is read again from
    its start; the caller knows which records it has seen.

    Args:
        path: the file.
        form: what a record is, as in `read_jsonl`.
    """

    def __init__(self, path: Path, form: Any = _ANY):
        self.path = path
        self._form = form
        self._offset = 0
        self._inode = 0

    def poll(self, most_bytes: int = -1) -> list[Any]:
        """What is new; nothing while the file does not exist.

        Args:
            most_bytes: read about so much and leave the rest to the next poll; all of it by default.

        Raises:
            CtwaError: a line is not a record, or has another schema than this ctwa reads.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            data = file.read(most_bytes)
            if most_bytes >= 0:
                data += file.readline()  # to the end of the line it was cut in
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [_record(line, str(self.path), self._form) for line in complete.split(b"\n") if line.strip()]
