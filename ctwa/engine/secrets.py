"""What is written down of a configuration: everything but the values that a reward takes from the environment.

A judge's key is given as ``${oc.env:NAME}``. The run's folder, its loggers and whoever gets them see that expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

_FROM_ENVIRONMENT = "oc.env"


def written_config(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration, of plain dicts, lists, strings and numbers; rewards' secrets stay expressions."""
    resolved = OmegaConf.to_container(config, resolve=True)
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(resolved, dict)
    assert isinstance(raw, dict)
    for name, kwargs in _arguments(raw):
        written = resolved["ctwa"]["objectives"][name]
        written["kwargs"] = _written(kwargs, written["kwargs"])
    return resolved


def keep_expressions(config: DictConfig, raw: Mapping[str, Any]) -> None:
    """Put back into a configuration, whose interpolations were resolved, those of rewards' secrets.

    Args:
        config: changed in place.
        raw: what it was before.
    """
    for name, kwargs in _arguments(raw):
        objective = config.ctwa.objectives[name]
        kept = _written(kwargs, OmegaConf.to_container(objective.kwargs))
        OmegaConf.update(objective, "kwargs", kept, merge=False, force_add=True)


def _arguments(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of each objective that has some, with its name."""
    for name, objective in ((raw.get("ctwa") or {}).get("objectives") or {}).items():
        if isinstance(objective, Mapping) and objective.get("kwargs"):
            yield name, objective["kwargs"]


def _written(raw: Any, resolved: Any) -> Any:
    if isinstance(raw, dict) and isinstance(resolved, dict):
        return {key: _written(raw[key], value) for key, value in resolved.items()}
    if isinstance(raw, list) and isinstance(resolved, list):
        return [_written(one, other) for one, other in zip(raw, resolved, strict=True)]
    return raw if isinstance(raw, str) and _FROM_ENVIRONMENT in raw else resolved
