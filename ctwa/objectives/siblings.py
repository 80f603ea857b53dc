"""Modules that reward files import from beside themselves, of which a process has only one of a name.

Files of different folders may each put their own folder on ``sys.path`` and import ``helper``. The first one's helper
would then serve both, so that a reward depended on the order of the objectives.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from ctwa.errors import CtwaError

_folders: dict[Path, set[Path]] = {}
"""By reward file that was loaded, where modules of its own may lie: beside it, and where it had Python look."""
_entries: dict[Path, set[str]] = {}
"""By reward file, what it put on ``sys.path``."""


class Siblings:
    """What is imported while a reward function is loaded; to be made before."""

    def __init__(self) -> None:
        self._path, self._modules = Counter(sys.path), set(sys.modules)

    def check(self, spec: str, file: Path | None) -> None:
        """See that a reward function has the modules that it would have alone.

        Args:
            spec: the function.
            file: its own, which was just imported, or could not be; None where that is not known.

        Raises:
            CtwaError: one of its modules is another reward file's, and it would find its own.
        """
        if file is None:
            return
        file = file.resolve()
        self._note(file)
        if len(_folders) == 1:
            return
        of_others = set().union(*(put for other, put in _entries.items() if other != file)) - _entries[file]
        alone = [*(entry for entry in sys.path if entry not in of_others), str(file.parent)]
        for name in sorted({name for source in self._sources(file) for name in _imported(source)}):
            loaded = file_of(sys.modules.get(name))
            other = _other_of(sys.modules.get(name), file)
            found = None if other is None else PathFinder.find_spec(name, alone)
            if found is not None and found.origin and Path(found.origin).resolve() != loaded:
                raise CtwaError(
                    f"reward function '{spec}' imports '{name}' and gets {loaded}, as {other} does; alone it would get "
                    f"{found.origin}. The reward functions of a run share processes, which have one module of a name: "
                    "rename one of the two"
                )

    def _note(self, file: Path) -> None:
        """Note where a reward file's own modules lie."""
        put = {entry for entry in sys.path if sys.path.count(entry) > self._path[entry]}
        _entries.setdefault(file, set()).update(put)
        _folders.setdefault(file, {file.parent}).update(Path(entry).resolve() for entry in put)

    def _sources(self, file: Path) -> Iterator[Path]:
        """The reward file, and those of its own modules that it brought along."""
        yield file
        for name in sys.modules.keys() - self._modules:
            source = file_of(sys.modules[name])
            if source is not None and _folder_of(sys.modules[name]) in _folders[file]:
                yield source


def how_to_import(file: Path, error: BaseException) -> str:
    """What to write where a reward file cannot import what lies beside it, as the end of a sentence; else nothing."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if PathFinder.find_spec(error.name.partition(".")[0], [str(file.parent)]) is None:
            return ""
        return (
            "; it is beside the file, where Python does not look: set PYTHONPATH="
            f"{file.parent}, or write above the import: import os, sys; sys.path.insert(0, os.path.dirname(__file__))"
        )
    if isinstance(error, ImportError) and "no known parent package" in str(error):
        return (
            "; a file that is named by its path is of no package: name it as 'package.module:function', and run from "
            "the folder that holds the package"
        )
    return ""


def file_of(module: ModuleType | None) -> Path | None:
    """The file that a module is of, if it is of one."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _other_of(module: ModuleType | None, file: Path) -> Path | None:
    """The other reward file whose own a module is; None where it is that of nobody else."""
    folder = _folder_of(module)
    return next((other for other, folders in _folders.items() if folder in folders - {file.parent}), None)


def _folder_of(module: ModuleType | None) -> Path | None:
    """Where a module, or the package, was found."""
    file = file_of(module)
    if file is None:
        return None
    return file.parent.parent if hasattr(module, "__path__") else file.parent


def _imported(source: Path) -> set[str]:
    """The modules and packages that a file imports by their full names, anywhere in it."""
    names: set[str] = set()
    with suppress(OSError, SyntaxError, ValueError):  # it is no source
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return {name.partition(".")[0] for name in names}
