"""Methods that weigh M gradients by their Gram matrix, a method a file."""

from ctwa.aggregators.base import Aggregator, Gradients, Solution
from ctwa.aggregators.registry import AGGREGATORS, AggregatorConfig, build_aggregator

__all__ = ["AGGREGATORS", "Aggregator", "AggregatorConfig", "Gradients", "Solution", "build_aggregator"]
