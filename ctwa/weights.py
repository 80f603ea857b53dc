"""Weights by name, as shares."""

import math
from collections.abc import Mapping

from ctwa.arguments import is_finite
from ctwa.errors import CtwaError, shown


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights by name that say nothing.

    Raises:
        CtwaError: they are not by name, there is none, one is no number, negative or not finite, all are 0, or their
            sum is not finite.
    """
    if not isinstance(weights, Mapping):
        raise CtwaError(f"the weights are {shown(weights)}; write one by name for each: {{'NAME': 0.5, ...}}")
    for name, weight in weights.items():
        if not is_finite(weight) or weight < 0:
            raise CtwaError(f"'{name}' has the weight {shown(weight)}; write a finite number, 0 or more")
    if math.isinf(sum(weights.values())):
        raise CtwaError(
            f"the weights {dict(weights)} add up to more than a number can hold; only their ratios matter: write "
            "smaller ones"
        )
    if not any(weights.values()):
        raise CtwaError(f"none of {list(weights)} has a weight above 0; give at least one of them one")


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights scaled to a sum of 1, in alphabetical order of their names, so that their order changes no bit.

    Raises:
        CtwaError: the weights say nothing (``check_weights``).
    """
    check_weights(weights)
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in sorted(weights.items())}
