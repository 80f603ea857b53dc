"""Our part of what Hydra composes: the ``ctwa`` node's defaults, its methods and its losses, as their classes say.

The YAML files of ``ctwa.config`` say what is verl's, and what a task is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from pydantic import BaseModel

from ctwa.data.settings import DataSettings
from ctwa.engine.caid_settings import CaidSettings
from ctwa.engine.choices import OURS, choices_in_files, default_choices
from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.settings import Settings
from ctwa.preference.registry import LOSSES, PREFERENCE_METHODS
from ctwa.scalarizers.registry import METHODS
from ctwa.strict import defaults_of

Choices = dict[str, type[BaseModel]]

SETTINGS: dict[str, type[BaseModel]] = {"train": Settings, "prefer": PreferenceSettings, "caid": CaidSettings}
"""The model of each command's ``ctwa`` node."""

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
def groups_of(command: str) -> dict[str, list[str]]:
    """The groups of a command, with their choices."""
    return {group: _choices(command, group) for group in default_choices(command)}


def _choices(command: str, group: str) -> list[str]:
    return sorted(CLASSES[command][group]) if group in CLASSES[command] else choices_in_files(group, command)
