"""Modules that reward files import from beside themselves, of which a process has only one of a name.

Files of different folders may each put their own folder on ``sys.path`` and import ``helper``. The first one's helper
would then serve both, so that a reward depended on the order of the objectives.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from ctwa.errors import CtwaError

_put: dict[Path, set[str]] = {}
"""By reward file that was loaded, what it put on ``sys.path``."""
_brought: dict[str, Path] = {}
"""By module, the reward file that it was first imported for."""


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
            CtwaError: one of its modules was imported for another reward file, and alone it would find another one.
        """
        if file is None:
            return
        file = file.resolve()
        put = _put.setdefault(file, set())
        put |= {entry for entry in sys.path if sys.path.count(entry) > self._path[entry]}
        new = {name for name in sys.modules.keys() - self._modules if "." not in name}
        for name in new:
            _brought.setdefault(name, file)
        own = {file.parent, *(Path(entry).resolve() for entry in put)}
        sources = [source for name in new if (source := file_of(sys.modules[name])) and source.parent in own]
        of_others = set().union(*_put.values()) - put
        alone = [*(entry for entry in sys.path if entry not in of_others), str(file.parent)]
        for name in sorted(set().union(*map(_imported, {file, *sources}))):
            loaded, other = file_of(sys.modules.get(name)), _brought.get(name, file)
            found = None if loaded is None or other == file else PathFinder.find_spec(name, alone)
            if found is not None and found.origin and Path(found.origin).resolve() != loaded:
                raise CtwaError(
                    f"reward function '{spec}' imports '{name}' and gets {loaded}, as {other} does; alone it would get "
                    f"{found.origin}. The reward functions of a run share processes, which have one module of a name: "
                    "rename one of the two"
                )


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
