"""The rows of a run: what the user named, read once, and handed to verl in its own format."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ctwa.data.files import VERL_READS, open_rows
from ctwa.data.formats import Row, RowFile
from ctwa.data.forms import Form, find_form
from ctwa.data.reading import Rows, hold_out, read_rows, refuse_bad, write_table
from ctwa.data.rows import Kinds, row_fault
from ctwa.data.settings import DataSettings
from ctwa.engine.recorder import Recorder
from ctwa.errors import CtwaError
from ctwa.run.folder import RunFolder
from ctwa.run.jsonl import write_atomically
from ctwa.strict import validated

TRAIN, VALIDATION = "train_files", "val_files"
KEYS = (TRAIN, VALIDATION)
NUM_ROWS = 1000
"""Random rows of a file in verl's format that are looked at; rows of another form are all read."""
VALIDATION_SET = "validation_set"
"""The column with the name of a validation row's file, where the user named the files."""
READERS = "pkg://ctwa.engine.verl.run_rows"
"""The classes by which verl reads rows: ``RunRows`` those of the run's folder, ``OwnRows`` the user's own files."""


@dataclass(frozen=True)
class DataRow:
    """A row that is looked at, and where it is from."""

    key: str
    path: str
    row: Row

    def error(self, fault: str) -> CtwaError:
        """A mistake of the row."""
        return CtwaError(f"data.{self.key}: {self.path}, row {self.row.index} (from 0): {fault}")


@dataclass
class Part:
    """The rows to train on, or those of the validation.

    Attributes:
        key: of the configuration.
        num_rows: that can be used.
        sample: rows of verl's format; none where a class of the user's own reads the files.
        forms: what was understood of each file; none where a class of the user's own reads them.
        rows: what verl is to read in the place of the user's files; None where it reads these.
        files: they are, open.
    """

    key: str
    num_rows: int
    sample: list[DataRow]
    forms: tuple[Form, ...]
    rows: Rows | None
    files: list[RowFile]

    def without_truth(self) -> Iterator[DataRow]:
        """The rows without a ground truth, of rows that were all read."""
        rows = self.rows
        if rows is None:
            return
        for place in rows.without_truth:
            source, index = rows.places[place]
            [values] = rows.table.slice(place, 1).to_pylist()
            yield DataRow(self.key, rows.sources[source], Row(index, values))


@dataclass
class RunData:
    """All rows of a run."""

    settings: DataSettings
    train: Part
    validation: Part

    @property
    def sample(self) -> list[DataRow]:
        """Rows of both."""
        return [*self.train.sample, *self.validation.sample]

    @property
    def parts(self) -> tuple[Part, Part]:
        """Both."""
        return self.train, self.validation

    def leave_out(self, fault: Callable[[list[dict[str, Any]]], str | None]) -> None:
        """See that nothing is wrong with the prompts of rows that were all read, as ``data.bad_rows`` says.

        Args:
            fault: what is wrong with a prompt's messages, and what to write. Where a bad row stops the command, it is
                asked of the first row of each sequence of roles, and of the others where there is something.

        Raises:
            CtwaError: the first such row, where it is to stop the command, or nothing else is there.
        """
        for name in ("train", "validation"):
            part: Part = getattr(self, name)
            if part.rows is None:
                continue
            rows = part.rows.leave_out(fault, look_at_all=self.settings.bad_rows == "skip")
            if rows is not part.rows:
                _refuse_bad(part.key, rows, self.settings)
                setattr(self, name, _part(part.key, rows))

    def lines(self) -> list[str]:
        """What was understood, for a plan."""
        told = []
        for part in self.parts:
            named = ", ".join(Path(file.source).name for file in part.files)
            if part is self.validation and self.settings.validation_share is not None:
                named = f"held out of them ({self.settings.validation_share:g} of the prompts)"
            else:
                forms = "; ".join(dict.fromkeys(str(form) for form in part.forms)) or "read by data.custom_cls"
                named = f"of {named}: {forms}"
            told.append(f"{part.num_rows:,} rows {named}")
            if part.rows is not None and part.rows.bad:
                told.append(f"{len(part.rows.bad):,} rows left out (data.bad_rows=skip; `ctwa data` lists them)")
        return list(dict.fromkeys(told))  # both may be the same rows

    def hand_over(self, config: DictConfig, recorder: Recorder) -> DictConfig:
        """Write what verl is to read into the run's folder, and say where that has changed since the run began.

        Args:
            config: the resolved config, which stays as it is.
            recorder: of the run.

        Returns:
            A copy that names what was written, and who reads it; the config, where a class of the user's own does.
        """
        run = recorder.run
        for part in self.parts:
            if part.rows is not None and part.rows.bad:
                recorder.event(
                    "skipped", f"data.{part.key}: {len(part.rows.bad)} rows that cannot be used are left out"
                )
        if changed := _note_sources(run, self.parts):
            recorder.event(
                "data-changed",
                f"{', '.join(changed)}: not what the run began with; its place in the data is kept, and may be another "
                "row's now",
            )
        if config.data.custom_cls.get("path"):
            return config
        tables = {part.key: part.rows.table for part in self.parts if part.rows is not None}
        for_verl = copy.deepcopy(config)
        with open_dict(for_verl):
            for_verl.data.custom_cls.path, for_verl.data.custom_cls.name = READERS, "RunRows" if tables else "OwnRows"
            for key, table in tables.items():
                path = run.data / f"{key.removesuffix('_files')}.parquet"
                write_table(table, path)
                for_verl.data[key] = [str(path)]
                for_verl.data.prompt_key = "prompt"
        for part in self.parts:
            part.rows = None  # which may be large
        return for_verl


def data_settings(config: DictConfig) -> DataSettings:
    """Our keys of the ``data`` node.

    Raises:
        CtwaError: every mistake in them in one message, each with its key.
    """
    node = {key: config.data.get(key) for key in DataSettings.model_fields}
    plain = {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in node.items()}
    settings: DataSettings = validated(DataSettings, plain, under="data")
    return settings


def read_run_data(config: DictConfig) -> RunData:
    """Read the rows of a run, all of those that are not in verl's format.

    Raises:
        CtwaError: a file that cannot be read, columns that are not known, the first row that cannot be used; and what
            to write.
    """
    settings = data_settings(config)
    _check_keys(config, settings)
    if config.data.custom_cls.get("path"):
        return RunData(settings, *(_of_own_class(config, key) for key in KEYS))
    key = config.data.prompt_key
    if key != "prompt" and settings.columns.prompt is None:
        columns = settings.columns.model_copy(update={"prompt": key})
        settings = settings.model_copy(update={"columns": columns})
    if settings.validation_share is not None:
        rows = _read(TRAIN, _open(config, TRAIN), settings)
        try:
            train, held_out = hold_out(rows, settings.validation_share, settings.validation_seed)
        except CtwaError as error:
            raise CtwaError(f"data.{TRAIN}: {error}") from error
        train.bad = rows.bad
        return RunData(settings, _part(TRAIN, train), _part(VALIDATION, held_out))
    train_part = _read_part(config, TRAIN, settings)
    if config.data[VALIDATION] == config.data[TRAIN]:
        sample = [DataRow(VALIDATION, each.path, each.row) for each in train_part.sample]
        return RunData(settings, train_part, replace(train_part, key=VALIDATION, sample=sample))
    return RunData(settings, train_part, _read_part(config, VALIDATION, settings))


def spelled(name: str) -> str:
    """How one of our keys is written on the command line."""
    return f"data.{name}"


def _check_keys(config: DictConfig, settings: DataSettings) -> None:
    if not config.data[TRAIN]:
        raise CtwaError(f"data.{TRAIN} names no file; give one (docs/data.md)")
    if not config.data[VALIDATION] and settings.validation_share is None:
        raise CtwaError(
            f"data.{VALIDATION} names no file; give one, or data.validation_share=0.1 to hold a tenth of the training "
            "prompts out"
        )
    if config.data[VALIDATION] and settings.validation_share is not None:
        raise CtwaError(
            f"data.validation_share={settings.validation_share:g} is for runs without data.{VALIDATION}; write "
            f"data.{VALIDATION}=null to hold training prompts out, or leave it out"
        )
    if not (path := config.data.custom_cls.get("path")):
        return
    if isinstance(config.data[VALIDATION], DictConfig):
        raise CtwaError(f"data.{VALIDATION} by name is not for data.custom_cls, whose class reads the files; list them")
    if not path.startswith("pkg://") and not Path(path.removeprefix("file://")).is_file():
        raise CtwaError(f"data.custom_cls.path: there is no file {path}; give the file of the class")
    if settings != DataSettings():
        own = next(key for key, value in DataSettings() if getattr(settings, key) != value)
        raise CtwaError(f"data.{own} does nothing with data.custom_cls, whose class reads the files; leave it out")


def _named_files(config: DictConfig, key: str) -> dict[str, list[str]]:
    """The files by the names that the user gave them; under no name where he gave none."""
    given = config.data[key]
    return dict(given) if isinstance(given, DictConfig) else {"": list(given)}


def _open(config: DictConfig, key: str) -> list[RowFile]:
    files = []
    for path in [path for paths in _named_files(config, key).values() for path in paths]:
        try:
            files.append(open_rows(path))
        except CtwaError as error:
            raise CtwaError(f"data.{key}: {error}") from error.__cause__
        if files[-1].num_rows == 0:
            raise CtwaError(f"data.{key}: {path} has no row; give a file that has some")
    return files


def _of_own_class(config: DictConfig, key: str) -> Part:
    files = _open(config, key)
    return Part(key, sum(file.num_rows for file in files), [], (), None, files)


def _read_part(config: DictConfig, key: str, settings: DataSettings) -> Part:
    files = _open(config, key)
    try:
        forms = tuple(find_form(file, settings, spelled) for file in files)
    except CtwaError as error:
        raise CtwaError(f"data.{key}: {error}") from error
    named = _named_files(config, key)
    if "" not in named:
        names = [name for name, paths in named.items() for _ in paths]
        return _part(key, _with_names(_read(key, files, settings), names))
    if all(
        form.changes_nothing and Path(file.source).suffix in VERL_READS for form, file in zip(forms, files, strict=True)
    ):
        num_rows = sum(file.num_rows for file in files)
        return Part(key, num_rows, _sample(key, files), forms, None, files)
    return _part(key, _read(key, files, settings))


def _read(key: str, files: Sequence[RowFile], settings: DataSettings) -> Rows:
    try:
        rows = read_rows(files, settings, spelled)
    except CtwaError as error:
        raise CtwaError(f"data.{key}: {error}") from error
    _refuse_bad(key, rows, settings)
    return rows


def _refuse_bad(key: str, rows: Rows, settings: DataSettings) -> None:
    if settings.bad_rows == "skip" and len(rows):
        return
    try:
        refuse_bad(rows.bad, sum(file.num_rows for file in rows.files), spelled)
    except CtwaError as error:
        raise CtwaError(f"data.{key}: {error}") from error


def _with_names(rows: Rows, names: Sequence[str]) -> Rows:
    """The rows with the name of each one's file in a column of its own.

    Raises:
        CtwaError: there is such a column already.
    """
    import pyarrow as pa

    if VALIDATION_SET in rows.table.column_names:
        raise CtwaError(
            f"data.{VALIDATION}: the rows have a column {VALIDATION_SET!r} already, which files by name would write; "
            "rename it, or give the files as a list"
        )
    rows.table = rows.table.append_column(VALIDATION_SET, pa.array([names[source] for source, _ in rows.places]))
    return rows


def _part(key: str, rows: Rows) -> Part:
    sample = [DataRow(key, source, row) for source, row in rows.sample(NUM_ROWS)]
    return Part(key, len(rows), sample, rows.forms, rows, list(rows.files))


def _sample(key: str, files: Sequence[RowFile]) -> list[DataRow]:
    """The first row and random ones of every file in verl's format.

    Raises:
        CtwaError: the first row that cannot be used, and what to write.
    """
    rows = []
    kinds = Kinds()
    for file in files:
        for row in file.sample(NUM_ROWS):
            rows.append(DataRow(key, file.source, row))
            where = f"row {row.index}" if len(files) == 1 else f"row {row.index} of {file.source}"
            if fault := row_fault(row) or kinds.fault(where, row):
                raise rows[-1].error(fault)
    return rows


def _note_sources(run: RunFolder, parts: Sequence[Part]) -> list[str]:
    """Keep what the files are; returns those that are others than those the run began with."""
    found: dict[str, Any] = {
        part.key: {
            "rows": part.num_rows,
            "sources": [{"source": file.source, "sha256": file.fingerprint()} for file in part.files],
        }
        for part in parts
    }
    try:
        before = json.loads(run.data_sources.read_bytes()) if run.data_sources.is_file() else {}
        began_with = {each["source"]: each["sha256"] for part in before.values() for each in part["sources"]}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CtwaError(
            f"{run.data_sources} is not as the run wrote it ({error!r}): restore it, or take it away"
        ) from error
    sources = [each for part in found.values() for each in part["sources"]]
    changed = [each["source"] for each in sources if began_with.get(each["source"], each["sha256"]) != each["sha256"]]
    run.data.mkdir(exist_ok=True)
    write_atomically(run.data_sources, (json.dumps(found, indent=2) + "\n").encode())
    return list(dict.fromkeys(changed))
