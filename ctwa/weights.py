"""Weights by name, as shares."""

import math
from collections.abc import Mapping

from ctwa.errors import CtwaError


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights by name that say nothing.

    Raises:
        CtwaError: there is none, one is negative or not finite, all are 0, or their sum is not finite.
    """
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise CtwaError(f"'{name}' has the weight {weight}; write a finite number, 0 or more")
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
