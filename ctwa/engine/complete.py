"""What a shell may complete after `ctwa train`, `prefer` and `caid`: groups, and the choices of each.

Pressing a key waits for it, so nothing here imports torch: methods are found by the text of their classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from ctwa.engine.choices import OURS, choices_in_files, default_choices

PACKAGES = {
    ("train", "method"): ("scalarizers", "aggregators"),
    ("caid", "method"): ("scalarizers", "aggregators"),
    ("prefer", "method"): ("aggregators",),
    ("prefer", "loss"): ("preference",),
}
"""By command and group, the packages that the choices are classes in."""
OTHERS = ("caid", "soups")
"""What has a command of its own."""
_TYPE = re.compile(r'^    type: Literal\["(\w+)"\] = ', re.MULTILINE)
_PREFERENCE_NAME = re.compile(r'^    preference_name = "(\w+)"', re.MULTILINE)


def words(command: str, before: Sequence[str], incomplete: str) -> list[str]:
    """The words that may stand where one has been begun.

    Args:
        command: ``train``, ``prefer`` or ``caid``.
        before: the words of the line before it. Bash takes ``method=ct`` for three words.
        incomplete: what is written of it.
    """
    group, equals, begun = incomplete.partition("=")
    if not group and equals:  # right behind bash's equals sign
        return names(command, before[-1] if before else "")
    if before and before[-1] == "=":
        return _choices(command, before[-2] if len(before) > 1 else "", incomplete)
    if equals:
        return [f"{group}={choice}" for choice in _choices(command, group, begun)]
    return [f"{each}=" for each in default_choices(command) if each.startswith(incomplete)]


def methods_and_losses(incomplete: str) -> list[str]:
    """What `ctwa methods` says something of, where its name has been begun."""
    of_groups = {name for command, group in PACKAGES for name in names(command, group)}
    return sorted(name for name in {*of_groups, *OTHERS} if name.startswith(incomplete))


def _choices(command: str, group: str, begun: str) -> list[str]:
    """The choices of a group where one has been begun; `ctwa train` takes several methods, with commas."""
    named, comma, last = begun.rpartition(",")
    if comma and (command, group) != ("train", "method"):
        return []
    others = named.split(",")
    return [f"{named}{comma}{name}" for name in names(command, group) if name.startswith(last) and name not in others]


def names(command: str, group: str) -> list[str]:
    """The choices of a group; none of what is no group."""
    if group not in default_choices(command):
        return []
    if group not in OURS:
        return choices_in_files(group, command)
    sources = [each for part in PACKAGES[command, group] for each in (files("ctwa") / part).iterdir()]
    texts = [each.read_text() for each in sources if each.name.endswith(".py")]
    return sorted({name for text in texts for name in _named_in(text, command)})


def _named_in(text: str, command: str) -> list[str]:
    """The choices whose classes a module has; an aggregator says in its class for whom it is, and by what name."""
    if command != "prefer":
        return [] if "\n    for_rewards = False" in text else _TYPE.findall(text)
    return _PREFERENCE_NAME.findall(text) or _TYPE.findall(text)
