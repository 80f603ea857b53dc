"""What is written down of a configuration: everything but the values that a reward takes from the environment.

A judge's key is given as ``${oc.env:NAME}``. The run's folder, its loggers and whoever gets them see that expression.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

_FROM_ENVIRONMENT = "oc.env"


def written_config(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration, of plain dicts, lists, strings and numbers; rewards' secrets stay expressions."""
    resolved = OmegaConf.to_container(config, resolve=True)
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(resolved, dict)
    assert isinstance(raw, dict)
    for name, objective in ((raw.get("ctwa") or {}).get("objectives") or {}).items():
        if "kwargs" in objective:
            written = resolved["ctwa"]["objectives"][name]
            written["kwargs"] = _written(objective["kwargs"], written["kwargs"])
    return resolved


def _written(raw: Any, resolved: Any) -> Any:
    if isinstance(raw, dict) and isinstance(resolved, dict):
        return {key: _written(raw[key], value) for key, value in resolved.items()}
    if isinstance(raw, list) and isinstance(resolved, list):
        return [_written(one, other) for one, other in zip(raw, resolved, strict=True)]
    return raw if isinstance(raw, str) and _FROM_ENVIRONMENT in raw else resolved
