"""How far a curve's end may be from its start by chance: by standard errors, or by how the curve scatters.

Letters: S results of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from ctwa.report.curves import averaging_window
from ctwa.statistics import CONFIDENCE

FEWEST_RESULTS = 4  # that tell how a curve scatters


class Noise(NamedTuple):
    """The error of a change: its variance, and how well that is known."""

    variance: float
    degrees: float  # of freedom; infinite where standard errors were recorded

    def margin(self, num_changes: int = 1) -> float:
        """What a change exceeds by chance in one of twenty curves; the largest of several, with Bonferroni's bound.

        Standard errors that were recorded are of the same problems at every step and partly cancel in a change. By them
        one margin does for several.
        """
        tail = (1 - CONFIDENCE) / 2 / (num_changes if math.isfinite(self.degrees) else 1)
        return float(scipy.special.stdtrit(self.degrees, 1 - tail)) * math.sqrt(self.variance)


def noise_of_errors(steps: Sequence[int], errors: Mapping[int, float]) -> Noise | None:
    """The noise of the change from the first to the last step; None where no standard error is above 0.

    A standard error of 0 is that of problems which were all solved, or none: the next ones need not be. The largest of
    the curve stands for it, and for one that was not recorded.

    Args:
        steps: of the results, in their order.
        errors: the standard error of a result, by step.
    """
    largest = max(errors.values(), default=0.0)
    if largest <= 0:
        return None
    return Noise(sum((errors.get(step) or largest) ** 2 for step in (steps[0], steps[-1])), math.inf)


def noise_of_scatter(values: Sequence[float], window: int) -> Noise | None:
    """The noise of the change between the means of the first and of the last `window` results, from their scatter.

    The variance of a result is half the mean square of the first differences less their mean (von Neumann 1941, The
    Distribution of the Ratio of the Mean Square Successive Difference to the Variance): what the curve rises or falls
    does not count. Degrees of freedom are Satterthwaite's.

    Returns:
        None of fewer than `FEWEST_RESULTS` results.
    """
    if len(values) < FEWEST_RESULTS:
        return None
    steps_S = np.diff(np.asarray(values, dtype=np.float64))
    num = len(steps_S)
    # The squares' sum has this mean and this variance (over 2), in units of a result's variance and of its square.
    expected = 2 * num - 2 / num
    spread = 6 * num - 2 - 4 / num + 4 / num**2
    variance = float(np.sum((steps_S - steps_S.mean()) ** 2)) / expected
    return Noise(2 * variance / window, expected**2 / spread)


def end_window(num_results: int) -> int:
    """Over how many results a curve's start and end are averaged, where a result has no standard error.

    It is no more than a quarter of them, so that start and end share none.
    """
    return max(1, min(averaging_window(num_results), num_results // 4))


def combined(noises: Sequence[Noise | None]) -> Noise | None:
    """The noise of the mean of independent changes; None where that of one is unknown."""
    known = [each for each in noises if each is not None]
    if not known or len(known) < len(noises):
        return None
    total = sum(each.variance for each in known)
    squares = sum(each.variance**2 / each.degrees for each in known)
    return Noise(total / len(known) ** 2, total**2 / squares if squares > 0 else math.inf)
