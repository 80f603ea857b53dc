"""The groups of each command's configuration, as far as files say what they are: torch need not be imported for it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

MODULES = {"train": "ctwa.config", "prefer": "ctwa.config.prefer", "caid": "ctwa.config"}
"""The package of each command's configuration, of the command's name."""

OURS = ("method", "loss")
"""The keys of the ``ctwa`` node that a group fills: the class of the group's choice says what is in them."""


@cache
def main_file(command: str) -> dict[str, Any]:
    """The file that a command's configuration begins with."""
    content: dict[str, Any] = yaml.safe_load((files(MODULES[command]) / f"{command}.yaml").read_text())
    return content


def default_choices(command: str) -> dict[str, str]:
    """The groups of a command, in the order in which they are composed, each with what it is by default."""
    entries = [entry for entry in main_file(command)["defaults"] if isinstance(entry, dict)]
    return {group: name for entry in entries for group, name in entry.items()}


def folder_of(group: str, command: str) -> Traversable:
    """The folder with a file for each choice of a group."""
    folder: Traversable = files(MODULES[command]) / group
    return folder if folder.is_dir() else files("ctwa.config") / group


def choices_in_files(group: str, command: str) -> list[str]:
    """The choices of a group that has a file for each."""
    return sorted(Path(each.name).stem for each in folder_of(group, command).iterdir() if each.name.endswith(".yaml"))
