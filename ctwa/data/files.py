"""What rows are in, as a user names it: a file, a folder of ``datasets.save_to_disk``, the hub."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from glob import glob
from pathlib import Path
from typing import Any

from ctwa.data.formats import BATCH, CsvFile, JsonFile, ParquetFile, Row, RowFile, chosen_rows, refuse_twice
from ctwa.errors import CtwaError, neighbour, one_line

VERL_READS = (".parquet", ".jsonl", ".json")  # by which verl, too, knows a file
SUFFIXES = (*VERL_READS, ".csv", ".tsv")
KNOWN = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
PACKERS = {".gz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k", ".zst": "unzstd", ".zip": "unzip"}
"""What makes a file of a compressed one, by its suffix."""
HUB = "hf://"
"""What the name of a data set on the hub begins with: nothing else is ever asked of a network."""


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
    if not is_parquet and start[:2].count(0) == 1:  # without a mark at its beginning
        raise CtwaError(f"{path} is written in UTF-16, or is no text; save it as UTF-8")
    if path.suffix == ".parquet":
        return ParquetFile(path)
    return CsvFile(path) if path.suffix in (".csv", ".tsv") else JsonFile(path)


class _Dataset(RowFile):
    """A ``datasets.Dataset``, of a folder or of the hub."""

    def __init__(self, source: str, kind: str, dataset: Any, paths: Sequence[Path]) -> None:
        self.source, self.kind, self._dataset, self._files = source, kind, dataset.with_format(None), paths
        self.num_rows = dataset.num_rows

    def rows(self) -> Iterator[Row]:
        first = 0
        for columns in self._dataset.iter(BATCH):
            names = list(columns)
            batch = list(zip(*columns.values(), strict=True))
            yield from (Row(first + n, dict(zip(names, values, strict=True))) for n, values in enumerate(batch))
            first += len(batch)

    def sample(self, number: int, seed: int = 0) -> list[Row]:
        return [Row(index, self._dataset[index]) for index in chosen_rows(self.num_rows, number, seed)]

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
        raise CtwaError(f"{folder} cannot be read ({one_line(error)}); save it again") from error
    refuse_twice(source, dataset.column_names)
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
            raise CtwaError(f"{source} cannot be had ({one_line(error)}); mend that, or give a file") from error
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
