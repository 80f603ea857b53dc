"""Methods that turn M rewards a completion into the advantages of one policy update, a method a file."""

from ctwa.batch import ClipRange, Rollout, Update
from ctwa.scalarizers.base import Estimate, Requirements, Scalarizer
from ctwa.scalarizers.registry import METHODS, MethodConfig, build_scalarizer

__all__ = [
    "METHODS",
    "ClipRange",
    "Estimate",
    "MethodConfig",
    "Requirements",
    "Rollout",
    "Scalarizer",
    "Update",
    "build_scalarizer",
]
