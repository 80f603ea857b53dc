"""What is written down of a configuration: everything but secrets that it takes from the environment.

A judge's key is given as ``${oc.env:NAME}``. The run's folder, its loggers and whoever gets them see that expression;
so they do where another key follows from it (``${.key}``, ``${ctwa.objectives.judge}``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env

from ctwa.errors import names_secret

Path = tuple[str | int, ...]

_asked: list[str] = []
"""The variables that resolutions have asked for, the last one at the end."""


def _noted_env(name: str, *default: str | None) -> str | None:
    _asked.append(name)
    return env(name, *default)


OmegaConf.register_new_resolver("oc.env", _noted_env, replace=True)


def written_config(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration, of plain dicts, lists, strings and numbers; its secrets stay expressions."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    keep_expressions(resolved, secret_expressions(config))
    return resolved


def secret_expressions(config: DictConfig) -> dict[Path, str]:
    """The interpolations of a configuration by which a secret comes into it from the environment, by their places.

    Such is a text that asks for a variable whose name says that it is a secret (``WANDB_API_KEY``); a number is none,
    such as that of the ranks for the model at a path. Where anything may be written, in the arguments of a reward and
    the environment of Ray's processes, it is what asks for any variable.
    """
    if "oc.env" not in repr(OmegaConf.to_container(config, resolve=False)):
        return {}  # reading every interpolation once more would take as long as composing
    return dict(_expressions(config, ()))


def keep_expressions(resolved: Any, expressions: dict[Path, str]) -> None:
    """Put expressions back into a resolved configuration, which is changed in place."""
    for (*sections, name), expression in expressions.items():
        node = resolved
        for section in sections:
            node = node[section]
        node[name] = expression


def _expressions(node: DictConfig | ListConfig, at: Path) -> Iterator[tuple[Path, str]]:
    names: Sequence[Any] = list(node) if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        value, variables = None, []
        with suppress(OmegaConfBaseException):  # what has no value is refused elsewhere
            del _asked[:]
            value, variables = node[name], list(_asked)
        path = (*at, name)
        if isinstance(value, DictConfig | ListConfig):
            yield from _expressions(value, path)  # of an interpolation, where it leads to
        elif variables and (_is_open(path) or (isinstance(value, str) and any(map(names_secret, variables)))):
            text: Any = OmegaConf.to_container(node, resolve=False)
            yield path, text[name]


def _is_open(path: Path) -> bool:
    in_reward = path[:2] == ("ctwa", "objectives") and path[3:4] == ("kwargs",)
    return in_reward or path[:3] == ("ray_kwargs", "ray_init", "runtime_env")
