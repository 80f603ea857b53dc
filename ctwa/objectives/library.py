"""The ready-made reward functions, as text: what `ctwa rewards` prints.

Nothing is said here that their files do not say; these are read, not imported, for some need much.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, indent, shorten

from rich.table import Table
from rich.text import Text

from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.contract import OFFERED_BY
from ctwa.objectives.conventions import find_convention
from ctwa.objectives.loading import SHIPPED

FOLDER = "reward_fns"
WIDTH = 100
MOST_OF_ARGUMENTS = 70
"""Characters that the list spends on a function's arguments."""
_ARGUMENT = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Argument:
    """An argument of a function that is no part of a completion.

    Attributes:
        name: by which the objective's ``kwargs`` give it.
        default: as code; None where it is required.
        meaning: in words.
    """

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class ReadyMade:
    """A reward function of the folder.

    Attributes:
        name: of the function, and of its file.
        about: the first line of the file.
        text: the function's docstring, without its arguments.
        offered: what it takes of a completion.
        arguments: the others.
    """

    name: str
    about: str
    text: str
    offered: tuple[str, ...]
    arguments: tuple[Argument, ...]

    @property
    def spec(self) -> str:
        """As an objective names it."""
        return f"{FOLDER}/{self.name}.py:{self.name}"


def ready_made(folder: Path = SHIPPED / FOLDER) -> list[ReadyMade]:
    """All of them, by name.

    Raises:
        CtwaError: the folder is not there.
    """
    if not folder.is_dir():
        raise CtwaError(
            f"there is no folder {folder}, where the ready-made reward functions are: install ctwa again, or name a "
            "file by its path"
        )
    return [_read(path) for path in sorted(folder.glob("*.py"))]


def table(functions: list[ReadyMade]) -> Table:
    """A line each, with the first of the arguments: `describe` has all."""
    made = Table("reward", "what it says", "arguments", box=None)
    for each in functions:
        shown = ", ".join(
            argument.name if argument.default is None else f"{argument.name}={argument.default}"
            for argument in each.arguments
        )
        first = shorten(shown, MOST_OF_ARGUMENTS, placeholder=" ...")
        made.add_row(Text(each.name), Text(each.about), Text(first or "-"))
    return made


def describe(name: str, functions: list[ReadyMade]) -> str:
    """All that is to be said of one.

    Raises:
        CtwaError: there is none of this name.
    """
    found = {each.name: each for each in functions}.get(name.removesuffix(".py"))
    if found is None:
        near = did_you_mean(name, [each.name for each in functions])
        raise CtwaError(f"there is no ready-made reward '{name}'{near or '; ctwa rewards lists them all'}")
    required = ", ".join(f"{each.name}: ..." for each in found.arguments if each.default is None)
    kwargs = f", kwargs: {{{required}}}" if required else ""
    lines = [
        f"{found.name}: {found.about}",
        "",
        indent(found.text, "  "),
        "",
        f"    ctwa train '+ctwa.objectives.{found.name}={{reward_fn: {found.spec}{kwargs}}}'",
        f"    ctwa check-reward {found.spec} --data FILE",
        "",
        f"  of a completion  {', '.join(found.offered)}",
        "  kwargs:" if found.arguments else "  no kwargs",
    ]
    for argument in found.arguments:
        lines.append(
            f"    {argument.name}  " + ("required" if argument.default is None else f"default {argument.default}")
        )
        lines.append(fill(argument.meaning, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return "\n".join(lines)


def _read(path: Path) -> ReadyMade:
    module = ast.parse(path.read_text(encoding="utf-8"))
    function = next(
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == path.stem
    )
    docstring = ast.get_docstring(function) or ""
    raw = ast.get_docstring(function, clean=False) or ""
    meanings = {name: " ".join(text.split()) for name, text in _ARGUMENT.findall(raw)}
    taken = list(_arguments(function.args))
    offered = OFFERED_BY[find_convention([name for name, _ in taken])]
    return ReadyMade(
        path.stem,
        (ast.get_docstring(module) or "").partition("\n")[0],
        docstring.partition("\nArgs:\n")[0].strip(),
        tuple(name for name, _ in taken if name in offered),
        tuple(Argument(name, default, meanings.get(name, "")) for name, default in taken if name not in offered),
    )


def _arguments(arguments: ast.arguments) -> Iterator[tuple[str, str | None]]:
    """Names and defaults, in their order."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    for each, default in zip(positional, [*defaults, *arguments.defaults], strict=True):
        yield each.arg, None if default is None else ast.unparse(default)
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield each.arg, None if default is None else ast.unparse(default)
