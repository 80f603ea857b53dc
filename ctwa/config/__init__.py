"""The Hydra configuration of `ctwa train`, composed over verl's own, and the functions its YAML files use."""

from typing import Any

from omegaconf import OmegaConf

from ctwa.errors import CtwaError


def _sum(*numbers: int) -> int:
    """``${ctwa_sum:${data.max_prompt_length},${data.max_response_length}}``: YAML has no arithmetic."""
    return sum(numbers)


def _required(what: str, *, _node_: Any) -> None:
    """``${ctwa_required:a parquet file}``: for a key that has a default of verl's, which ??? would not undo."""
    raise CtwaError(f"{_node_._get_full_key(None)} is missing: give {what}")


def _equal(one: Any, other: Any) -> bool:
    """``${ctwa_equal:${trainer.device},cpu}``: YAML has no comparison either."""
    return bool(one == other)


def _max(*numbers: int) -> int:
    """``${ctwa_max:1024,${data.max_prompt_length}}``."""
    return max(numbers)


OmegaConf.register_new_resolver("ctwa_max", _max, replace=True)
OmegaConf.register_new_resolver("ctwa_equal", _equal, replace=True)
OmegaConf.register_new_resolver("ctwa_sum", _sum, replace=True)
OmegaConf.register_new_resolver("ctwa_required", _required, replace=True)
