"""Methods that turn M rewards a completion into the advantages of one policy update, a method a file."""

from ctwa.scalarizers.base import Estimate, Requirements, Scalarizer
from ctwa.scalarizers.registry import METHODS, MethodConfig, build_scalarizer, method_options

__all__ = ["METHODS", "Estimate", "MethodConfig", "Requirements", "Scalarizer", "build_scalarizer", "method_options"]
