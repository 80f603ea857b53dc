"""What is optimised: objectives, the reward function contract, guarded evaluation.

Names are imported when first used: the worker processes import this package, and need neither torch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctwa.objectives.check import check_reward
    from ctwa.objectives.completion import Completion
    from ctwa.objectives.config import ObjectiveConfig, Objectives, parse_objectives
    from ctwa.objectives.evaluator import Evaluation, Failure, RewardEvaluator
    from ctwa.objectives.reference import ReferenceConfig, ReferenceLength, build_reference

_MODULES = {
    "check_reward": "check",
    "Completion": "completion",
    "ObjectiveConfig": "config",
    "Objectives": "config",
    "parse_objectives": "config",
    "Evaluation": "evaluator",
    "Failure": "evaluator",
    "RewardEvaluator": "evaluator",
    "ReferenceConfig": "reference",
    "ReferenceLength": "reference",
    "build_reference": "reference",
}

__all__ = [
    "Completion",
    "Evaluation",
    "Failure",
    "ObjectiveConfig",
    "Objectives",
    "ReferenceConfig",
    "ReferenceLength",
    "RewardEvaluator",
    "build_reference",
    "check_reward",
    "parse_objectives",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
