"""Our part of what Hydra composes: the ``ctwa`` node's defaults, its methods and its losses, as their classes say.

The YAML files of ``ctwa.config`` say what is verl's, and what a task is.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from pydantic import BaseModel

from ctwa.data.settings import DataSettings
from ctwa.engine.caid_settings import CaidSettings
from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.settings import Settings
from ctwa.preference.registry import LOSSES, PREFERENCE_METHODS
from ctwa.scalarizers.registry import METHODS
from ctwa.strict import defaults_of

Choices = dict[str, type[BaseModel]]

MODULES = {"train": "ctwa.config", "prefer": "ctwa.config.prefer", "caid": "ctwa.config"}
"""The package of each command's configuration, of the command's name."""

SETTINGS: dict[str, type[BaseModel]] = {"train": Settings, "prefer": PreferenceSettings, "caid": CaidSettings}
"""The model of each command's ``ctwa`` node."""

OURS = ("method", "loss")
"""The keys of the ``ctwa`` node that a group fills: the class of the group's choice says what is in them."""

METHODS_OF_TRAIN: Choices = {name: method.info.config for name, method in METHODS.items()}
CLASSES: dict[str, dict[str, Choices]] = {
    "train": {"method": METHODS_OF_TRAIN},
    "prefer": {
        "method": {name: method.info.config for name, method in PREFERENCE_METHODS.items()},
        "loss": dict(LOSSES),
    },
    "caid": {"method": METHODS_OF_TRAIN},
}
"""By command and group, the classes that there are to choose from."""


def register(command: str) -> None:
    """Tell Hydra of a command's own groups and of the defaults of its ``ctwa`` node, in place of another command's."""
    store = ConfigStore.instance()
    for group in OURS:
        store.repo.pop(group, None)
        for name, model in CLASSES[command].get(group, {}).items():
            store.store(name, defaults_of(model), group, package=f"ctwa.{group}", provider="ctwa")
    store.store("ctwa_node", {"ctwa": node_of(command), "data": data_node_of(command)}, provider="ctwa")


def node_of(command: str) -> dict[str, Any]:
    """Every key of a command's ``ctwa`` node with its default, but for those that a group fills."""
    return {key: default for key, default in defaults_of(SETTINGS[command]).items() if key not in OURS}


def data_node_of(command: str) -> dict[str, Any]:
    """Our keys of verl's ``data`` node, each with its default; a training on pairs has none of them."""
    return {} if command == "prefer" else defaults_of(DataSettings)


@cache
def main_file(command: str) -> dict[str, Any]:
    """The file that a command's configuration begins with."""
    content: dict[str, Any] = yaml.safe_load((files(MODULES[command]) / f"{command}.yaml").read_text())
    return content


def default_choices(command: str) -> dict[str, str]:
    """The groups of a command, in the order in which they are composed, each with what it is by default."""
    entries = [entry for entry in main_file(command)["defaults"] if isinstance(entry, dict)]
    return {group: name for entry in entries for group, name in entry.items()}


@cache
def groups_of(command: str) -> dict[str, list[str]]:
    """The groups of a command, with their choices."""
    return {group: _choices(command, group) for group in default_choices(command)}


def _choices(command: str, group: str) -> list[str]:
    if group in CLASSES[command]:
        return sorted(CLASSES[command][group])
    folder: Traversable = files(MODULES[command]) / group
    if not folder.is_dir():
        folder = files("ctwa.config") / group
    return sorted(Path(each.name).stem for each in folder.iterdir() if each.name.endswith(".yaml"))
