"""The functions that the configuration's YAML files use: ``${ctwa_...:...}``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import ctwa.config
from ctwa.engine.checks.keys import verl_files
from ctwa.engine.cores import threads_of_a_rank
from ctwa.errors import CtwaError
from ctwa.models.size import is_small


def register_resolvers() -> None:
    """Let OmegaConf know them."""
    resolvers = {
        "ctwa_by_size": _by_size,
        "ctwa_config_dir": lambda: str(Path(ctwa.config.__file__).parent),
        "ctwa_equal": _equal,
        "ctwa_max": _max,
        "ctwa_required": _required,
        "ctwa_sum": _sum,
        "ctwa_threads": lambda model, num_ranks: threads_of_a_rank(str(model), num_ranks),
        "ctwa_verl_config_dir": lambda: str(verl_files()),
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _by_size(model: str, small: Any, large: Any) -> Any:
    """``${ctwa_by_size:${actor_rollout_ref.model.path},2,1}``: the first for a small model, the second for others."""
    return small if is_small(str(model)) else large


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
