"""The methods that there are, as text: what `ctwa methods` prints."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import fill

from rich.table import Table

from ctwa.errors import CtwaError, did_you_mean
from ctwa.method_info import MethodInfo, options_of
from ctwa.models.merging import SOUPS
from ctwa.preference.caid import CAID
from ctwa.preference.registry import LOSSES, PREFERENCE_METHODS
from ctwa.scalarizers.registry import METHODS

WIDTH = 100


@dataclass(frozen=True)
class Entry:
    """What has a name.

    Attributes:
        name: the name.
        usage: how it is chosen.
        key: where its options are in the configuration.
        info: what it is.
    """

    name: str
    usage: str
    key: str
    info: MethodInfo


def methods() -> Iterator[Entry]:
    """The methods: of `ctwa train` first, then those that align a model with preferences."""
    for name, method in METHODS.items():
        yield Entry(name, f"ctwa train method={name}", "ctwa.method", method.info)
    for name, method in PREFERENCE_METHODS.items():
        yield Entry(name, f"ctwa prefer method={name}", "ctwa.method", method.info)
    yield Entry("caid", "ctwa caid", "ctwa.caid", CAID)
    yield Entry("soups", "ctwa merge", "", SOUPS)


def losses() -> Iterator[Entry]:
    """The losses of `ctwa prefer`, of which the first line of the docstring says what they are."""
    for name, loss in LOSSES.items():
        summary = (inspect.getdoc(loss) or "").partition("\n")[0].removesuffix(".").replace("``", "")
        passes = "1 forward of the reference, once" if loss.needs_reference else "none"
        yield Entry(
            name, f"ctwa prefer loss={name}", "ctwa.loss", MethodInfo(loss, summary, level="loss", passes=passes)
        )


def tables() -> Iterator[tuple[str, Table]]:
    """What there is, a line each, under its title."""
    for command in ("train", "prefer"):
        table = Table("method", "level", "extra passes a step", "extra memory", "what it does", "source", box=None)
        for each in methods():
            if ("train" in each.usage) == (command == "train"):
                info = each.info
                table.add_row(each.name, info.level, info.passes, info.memory, info.summary, info.source)
        yield {"train": "from rewards: ctwa train", "prefer": "from preferences"}[command], table
    table = Table("loss", "extra passes", "what it is", box=None)
    for each in losses():
        table.add_row(each.name, each.info.passes, each.info.summary)
    yield "losses of ctwa prefer", table


def describe(name: str) -> str:
    """All that is to be said of what has this name: what it is and costs, and its options.

    Raises:
        CtwaError: nothing has.
    """
    entries = [*methods(), *losses()]
    found = [each for each in entries if each.name == name]
    if name == "modpo":
        raise CtwaError(
            "modpo is no method but a setting: ctwa prefer method=linear 'ctwa.modpo={objective: NAME, policies: "
            "{NAME: FOLDER, ...}}' (docs/methods/modpo.md)"
        )
    if not found:
        near = did_you_mean(name, [each.name for each in entries])
        raise CtwaError(f"there is no method or loss '{name}'{near or '; ctwa methods lists them all'}")
    blocks = []
    for info in dict.fromkeys(each.info for each in found):  # one method may be of two commands
        of_it = [each for each in found if each.info == info]
        blocks.append(_text(of_it[0], [each.usage for each in of_it]))
    return "\n\n".join(blocks)


def _text(entry: Entry, usages: list[str]) -> str:
    info = entry.info
    lines = [f"{entry.name}: {info.summary}", "", *(f"    {usage}" for usage in usages), ""]
    if info.source != "-":
        lines.append(f"  source        {info.source}")
    lines.append(f"  level         {info.level}")
    lines += [f"  extra passes  {info.passes}", f"  extra memory  {info.memory}", ""]
    options = options_of(info.config)
    lines.append("  options:" if options else "  no options")
    for option in options:
        default = option.default if option.default == "required" else f"default {option.default}"
        lines.append(f"    {entry.key}.{option.name}=...  {option.kind}; {default}")
        lines.append(fill(option.meaning, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return "\n".join(lines)
