"""Rows read from first to last into verl's format: as dicts, or as a table that is held out from and written."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ctwa.data.files import open_rows
from ctwa.data.formats import Row, RowFile
from ctwa.data.forms import TRUTH, VERL, BadRow, Form, Spelled, find_form
from ctwa.data.rows import Kinds
from ctwa.data.settings import RowSettings
from ctwa.errors import CtwaError, one_line

_CHUNK = 4096  # rows that are Python objects at once
NUM_NAMED = 5
"""Rows that a message about several names."""


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used.

    Attributes:
        source: whose row.
        index: its place there, from 0.
        why: and what to write.
    """

    source: str
    index: int
    why: str


@dataclass
class Rows:
    """The rows of some sources in verl's format.

    Attributes:
        files: the sources.
        forms: what was understood of each source.
        table: the rows that can be used, as a ``pyarrow.Table``.
        places: of each of them the number of its source and its index there.
        prompts: of each a digest of its prompt, before a system prompt or a template.
        roles: of each the roles of its messages.
        bad: the rows that cannot be used.
        without_truth: places in the table of rows without a ground truth.
    """

    files: tuple[RowFile, ...]
    forms: tuple[Form, ...]
    table: Any
    places: list[tuple[int, int]]
    prompts: list[bytes]
    roles: list[tuple[str, ...]]
    bad: list[Bad] = field(default_factory=list)
    without_truth: list[int] = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        """What the user named."""
        return [file.source for file in self.files]

    def __len__(self) -> int:
        return len(self.places)

    def sample(self, number: int, seed: int = 0) -> list[tuple[str, Row]]:
        """The first row and up to ``number`` random ones, each with its source and its index there."""
        later = range(1, len(self))
        chosen = sorted([0, *random.Random(seed).sample(later, min(number, len(later)))][: len(self)])
        values = self.table.take(chosen).to_pylist()
        places = [self.places[row] for row in chosen]
        return [(self.sources[source], Row(index, each)) for (source, index), each in zip(places, values, strict=True)]

    def select(self, wanted: Callable[[bytes], bool]) -> Rows:
        """The rows whose prompt is wanted, by its digest; without those that cannot be used."""
        return self._take([row for row, prompt in enumerate(self.prompts) if wanted(prompt)])

    def leave_out(self, fault: Callable[[list[dict[str, Any]]], str | None], *, look_at_all: bool) -> Rows:
        """The rows with whose prompts nothing is wrong; the others are among those that cannot be used.

        Args:
            fault: what is wrong with the messages of a prompt, and what to write.
            look_at_all: at every row; else at the first of each sequence of roles, by which chat templates refuse
                prompts, and where that is refused at all that have these roles.
        """
        places_of: dict[tuple[str, ...], list[int]] = {}
        for place, roles in enumerate(self.roles):
            places_of.setdefault(roles, []).append(place)
        bad: dict[int, str] = {}
        for places in places_of.values():
            if look_at_all or self._faults(places[:1], fault):
                bad |= self._faults(places, fault)
        if not bad:
            return self
        rows = self._take([place for place in range(len(self)) if place not in bad])
        found = [Bad(self.sources[self.places[place][0]], self.places[place][1], bad[place]) for place in sorted(bad)]
        rows.bad = sorted([*self.bad, *found], key=lambda each: (self.sources.index(each.source), each.index))
        return rows

    def _faults(self, places: Sequence[int], fault: Callable[[list[dict[str, Any]]], str | None]) -> dict[int, str]:
        """What is wrong with the prompts at some places of the table, by place."""
        found = {}
        for start in range(0, len(places), _CHUNK):
            chunk = places[start : start + _CHUNK]
            for place, messages in zip(chunk, self.table["prompt"].take(chunk).to_pylist(), strict=True):
                if (text := fault(messages)) is not None:
                    found[place] = text
        return found

    def _take(self, kept: Sequence[int]) -> Rows:
        import pyarrow as pa

        missing = set(self.without_truth)
        return Rows(
            self.files,
            self.forms,
            self.table.take(pa.array(kept, pa.int64())),
            [self.places[row] for row in kept],
            [self.prompts[row] for row in kept],
            [self.roles[row] for row in kept],
            without_truth=[place for place, row in enumerate(kept) if row in missing],
        )


def read_rows(files: Sequence[RowFile], settings: RowSettings, spelled: Spelled) -> Rows:
    """Read all of some sources.

    Args:
        files: the sources.
        settings: what the user said of their rows.
        spelled: how a setting is written where the rows are read.

    Returns:
        The rows that can be used, and those that cannot.

    Raises:
        CtwaError: a source cannot be read, or its columns are not known.
    """
    forms = tuple(find_form(file, settings, spelled) for file in files)
    with suppress(_OfTwoKinds):
        return _read(files, forms)
    try:  # contents that are text, beside those with images, have to stay in parts
        forms = tuple(replace(form, join=False) for form in forms)
        return _read(files, forms)
    except _OfTwoKinds as error:
        sources = ", ".join(file.source for file in files)
        raise _of_two_kinds(files, forms) or CtwaError(
            f"{sources}: a column cannot be kept ({error}); write one kind of value, or leave it out"
        ) from error


def _read(files: Sequence[RowFile], forms: tuple[Form, ...]) -> Rows:
    builder, kinds = _Table(), Kinds()
    rows = Rows(tuple(files), forms, None, [], [], [])
    known_roles: dict[tuple[str, ...], tuple[str, ...]] = {}  # each once in memory
    for number, (file, form) in enumerate(zip(files, forms, strict=True)):
        for row in file.rows():
            try:
                prompt, answer = form.split(row)
                made = form.make(row, prompt, answer)
            except BadRow as error:
                rows.bad.append(Bad(file.source, row.index, str(error)))
                continue
            truth = made[VERL][TRUTH] if form.has_truth() else None
            # A table makes fractions of whole numbers, and gives dicts each other's names.
            if not isinstance(truth, str) and (
                fault := _kind_fault(kinds, files, file, Row(row.index, {VERL: {TRUTH: truth}}))
            ):
                raise fault
            if truth is None:
                rows.without_truth.append(len(rows.places))
            rows.places.append((number, row.index))
            rows.prompts.append(prompt_digest(prompt))
            roles = tuple(message["role"] for message in made["prompt"])
            rows.roles.append(known_roles.setdefault(roles, roles))
            builder.add(made)
    rows.table = builder.table()
    return rows


def first_rows(
    source: str, settings: RowSettings, spelled: Spelled, limit: int | None = None, *, chat: bool = True
) -> list[dict[str, Any]]:
    """The first rows of a source in verl's format, all without a limit.

    Args:
        source: what the user named.
        settings: what the user said of its rows.
        spelled: how a setting is written where the rows are read.
        limit: how many.
        chat: whether a prompt that is text becomes a user's message.

    Raises:
        CtwaError: the source has none, cannot be read, or the first row that cannot be used and is not to be skipped.
    """
    file = open_rows(source)
    form = find_form(file, settings, spelled)
    found = list(islice(_usable(file, form if chat else replace(form, chat=False), spelled), limit))
    if not found:
        usable = " that can be used" if settings.bad_rows == "skip" else ""
        raise CtwaError(f"{source} has no row{usable}; give another file")
    return found


def _usable(file: RowFile, form: Form, spelled: Spelled) -> Iterator[dict[str, Any]]:
    for row in file.rows():
        try:
            yield form.read(row)
        except BadRow as error:
            if form.settings.bad_rows == "stop":
                raise CtwaError(
                    f"{file.source}, row {row.index} (from 0): {error}. Mend it, or leave such rows out with "
                    f"{spelled('bad_rows')}=skip"
                ) from error


def refuse_bad(bad: Sequence[Bad], num_rows: int, spelled: Spelled) -> None:
    """Stop at rows that cannot be used: the first with its reason, the others by their number.

    Raises:
        CtwaError: there are some.
    """
    if not bad:
        return
    first = bad[0]
    text = f"{first.source}, row {first.index} (from 0): {first.why}"
    if num_rows == 1:
        raise CtwaError(text)
    those = f"It alone of {num_rows} rows cannot be used: mend it, or leave it out"
    if len(bad) > 1:
        named = ", ".join(f"row {each.index}" for each in bad[1 : NUM_NAMED + 1])
        more = ", ..." if len(bad) > NUM_NAMED + 1 else ""
        those = f"{len(bad) - 1} more of {num_rows} rows cannot be used ({named}{more}): mend them, or leave them out"
    raise CtwaError(f"{text}. {those} with {spelled('bad_rows')}=skip")


def hold_out(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """The rows to train on, and those of a share of the prompts to validate on; no prompt is in both.

    Prompts are drawn by a number that is made of the seed and their text: rows that are added or reordered move as few
    of them as can be.

    Raises:
        CtwaError: there are too few prompts.
    """
    prompts = sorted(set(rows.prompts), key=lambda prompt: hashlib.sha256(f"{seed}/".encode() + prompt).digest())
    if len(prompts) < 2:
        raise CtwaError(
            f"{', '.join(rows.sources)} has {len(prompts)} prompts, too few to hold any out; give a file to validate on"
        )
    number = min(max(round(share * len(prompts)), 1), len(prompts) - 1)
    held_out = set(prompts[:number])
    return rows.select(lambda prompt: prompt not in held_out), rows.select(held_out.__contains__)


def prompt_digest(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """What tells a prompt from another: its roles and what they say, without the space around it."""
    said = [
        (message["role"], text.strip() if isinstance(text := message["content"], str) else text) for message in messages
    ]
    return hashlib.sha256(repr(said).encode()).digest()[:16]


def write_table(table: Any, path: Path) -> None:
    """Write rows as parquet; the file appears complete or not at all."""
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    parquet.write_table(table, unfinished, row_group_size=16 * _CHUNK)
    unfinished.replace(path)


def _of_two_kinds(files: Sequence[RowFile], forms: Sequence[Form]) -> CtwaError | None:
    """The first row whose column holds another kind of value than the rows before."""
    kinds = Kinds()
    for file, form in zip(files, forms, strict=True):
        for row in file.rows():
            with suppress(BadRow):
                if fault := _kind_fault(kinds, files, file, Row(row.index, form.read(row))):
                    return fault
    return None


def _kind_fault(kinds: Kinds, files: Sequence[RowFile], file: RowFile, row: Row) -> CtwaError | None:
    where = f"row {row.index}" if len(files) == 1 else f"row {row.index} of {file.source}"
    fault = kinds.fault(where, row)
    return CtwaError(f"{file.source}, row {row.index} (from 0): {fault}") if fault else None


class _OfTwoKinds(Exception):
    """A column holds values that no one type has."""


class _Table:
    """Makes a table of rows a chunk at a time, so that few of them are Python objects at once."""

    def __init__(self) -> None:
        import pyarrow as pa  # the methods need no pyarrow

        self._pa = pa
        self._rows: list[dict[str, Any]] = []
        self._chunks: list[Any] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _CHUNK:
            self._flush()

    def table(self) -> Any:
        """All of them.

        Raises:
            _OfTwoKinds: a column has no type.
        """
        pa = self._pa
        if self._rows or not self._chunks:
            self._flush()
        try:
            return pa.concat_tables(self._chunks, promote_options="permissive")
        except pa.ArrowException as error:
            raise _OfTwoKinds(one_line(error)) from error

    def _flush(self) -> None:
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = {name: self._array(name, [row.get(name) for row in self._rows]) for name in names}
        self._chunks.append(self._pa.table(columns))
        self._rows.clear()

    def _array(self, name: str, values: list[Any]) -> Any:
        pa = self._pa
        try:
            array = pa.array([value or None if isinstance(value, dict) else value for value in values])
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise _OfTwoKinds(f"{name}: {one_line(error)}") from error
        if _has_nothing_in_it(pa, array.type):  # which no parquet file keeps
            raise _OfTwoKinds(f"{name}: it has a dict without a key")
        return array


def _has_nothing_in_it(pa: Any, kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_nothing_in_it(pa, each.type) for each in kind)
    return bool(pa.types.is_list(kind)) and _has_nothing_in_it(pa, kind.value_type)
