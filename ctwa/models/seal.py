"""A checkpoint's seal: the list of its files with their sizes and SHA-256, written when all of them are on the disk.

A folder without one was never finished. One with a seal that does not hold was damaged later: pruned file by file, cut
short (which sizes tell, at no cost), or changed (which only reading every byte tells: `damaged_files`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ctwa.run.disk import sync
from ctwa.run.jsonl import write_atomically

SEAL_FILE = "complete.json"
_LOADED = (
    *("*.safetensors", "pytorch_model*.bin", "*.index.json", "adapter_*", "generation_config.json", "*.py"),
    *("*tokenizer*", "special_tokens_map.json", "added_tokens.json", "*vocab*", "merges.txt", "*.model", "*.tiktoken"),
    *("chat_template*", "additional_chat_templates/*.jinja", "*processor_config.json"),
)
"""What files are called that transformers may load because they are there: weights, adapters, tokenizers, templates."""


class Sealed(NamedTuple):
    """What the seal says of a file.

    Attributes:
        size: bytes.
        sha256: in hexadecimal digits.
    """

    size: int
    sha256: str


def seal(folder: Path) -> None:
    """Declare a step's folder complete: to be called when nothing will be written to it any more."""
    # A seal that a crash left half-written beside the files (complete.json.tmp) is none of them.
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(SEAL_FILE))
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, _of_each(paths, _synced_sha256), strict=True)
    }
    for each in (folder, *filter(Path.is_dir, folder.rglob("*"))):
        sync(each)
    write_atomically(folder / SEAL_FILE, json.dumps({"files": files}, indent=1).encode())
    for each in (folder, folder.parent):  # for what makes room now counts on it
        sync(each)


def read_seal(folder: Path) -> dict[str, Sealed] | None:
    """The files that a folder had when it was finished, by their paths in it; None without a seal that can be read."""
    try:
        files = json.loads((folder / SEAL_FILE).read_bytes())["files"].items()
        if any(not name or Path(name).is_absolute() or ".." in Path(name).parts for name, _ in files):
            return None  # it speaks of what is no file of the folder
        # A checkpoint has files.
        return {name: Sealed(int(said["size"]), str(said["sha256"])) for name, said in files} or None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def is_complete(folder: Path) -> bool:
    """Whether the folder has a seal and every file of it, at its size."""
    sealed = read_seal(folder)
    return sealed is not None and not _other_sizes(folder, sealed)


def damaged_files(folder: Path, *, within: str = "") -> tuple[str, ...]:
    """The files of a finished folder that are gone, or hold other bytes than were saved. Every byte is read.

    Args:
        folder: the checkpoint's.
        within: only look at the files whose paths in it begin with this.
    """
    sealed = read_seal(folder)
    if sealed is None:
        return (SEAL_FILE,)
    sealed = {name: said for name, said in sealed.items() if name.startswith(within)}
    if cut := _other_sizes(folder, sealed):
        return cut
    found = _of_each([folder / name for name in sealed], lambda path: _sha256(path, path.stat().st_mtime_ns))
    return tuple(name for name, sha256 in zip(sealed, found, strict=True) if sha256 != sealed[name].sha256)


def added_files(folder: Path, *, within: str) -> tuple[str, ...]:
    """The files that were put beside a saved model and would be loaded with it; notes and results are none of them.

    Args:
        folder: the checkpoint's.
        within: the model's folder in it.
    """
    sealed = read_seal(folder) or {}
    place = folder / within
    found = {path for pattern in _LOADED for path in place.glob(pattern) if path.is_file()}
    return tuple(sorted({str(path.relative_to(folder)) for path in found} - set(sealed)))


def _other_sizes(folder: Path, sealed: dict[str, Sealed]) -> tuple[str, ...]:
    return tuple(name for name, said in sealed.items() if _size(folder / name) != said.size)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # a name that no file can have, or a place that cannot be looked into
        return None


def _of_each(paths: Sequence[Path], compute: Callable[[Path], str]) -> list[str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads go on
        return list(pool.map(compute, paths))


def _synced_sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4096)
def _sha256(path: Path, _modified_ns: int) -> str:
    """A start asks twice, when it is checked and when it resumes: what was not touched since is read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
