"""What comparing runs takes: intervals over seeds, Pareto fronts, hypervolumes. Objectives are better when higher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctwa.solvers.volumes import dominated_volume, not_dominated

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
_EXACT_UP_TO = 5  # values: 5^5 resamples are enumerated, more values are drawn from
_NUM_DRAWS = 10_000
# A hypervolume's cost grows with the number of points to the power of the number of objectives: for more points than
# this an even choice of them is taken.
_MOST_POINTS = {1: 10_000, 2: 10_000, 3: 2_000, 4: 400, 5: 60, 6: 40}
_MOST_POINTS_BEYOND = 24


class Interval(NamedTuple):
    """A mean and where it is by the bootstrap; without an interval where there are fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    num: int


def bootstrap(values: Sequence[float]) -> Interval:
    """The mean of at least one value and its 95 % percentile bootstrap interval.

    The values are resampled with replacement: all resamples where there are at most five values, so that the interval
    of a few seeds is exact and the same everywhere; else 10,000 drawn from a fixed seed. The interval of three seeds
    spans at most their range and is narrower than a t interval: `num` says how many there were.
    """
    values_S = np.asarray(values, dtype=np.float64)
    num = len(values_S)
    if num < 2:
        return Interval(float(values_S.mean()), None, None, num)
    if num <= _EXACT_UP_TO:
        rows_DS = np.array(list(product(range(num), repeat=num)))
    else:
        rows_DS = np.random.default_rng(0).integers(num, size=(_NUM_DRAWS, num))
    means_D = values_S[rows_DS].mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means_D, (tail, 1 - tail), method="inverted_cdf")
    return Interval(float(values_S.mean()), float(low), float(high), num)


def on_front(points_PM: Floats) -> list[bool]:
    """Which of P points no other dominates: is at least as good in all M objectives and better in one.

    A point with a NaN is not on the front and dominates none.
    """
    points_PM = np.asarray(points_PM, dtype=np.float64)
    front_P = np.asarray(np.isfinite(points_PM).all(axis=1))
    front_P[front_P] = not_dominated(points_PM[front_P])
    return front_P.tolist()


def hypervolume(points_PM: Floats, reference_M: Floats) -> float:
    """The volume that P points dominate above the reference point; points with a NaN are left out."""
    points_PM = np.asarray(points_PM, dtype=np.float64)
    points_PM = points_PM[np.isfinite(points_PM).all(axis=1)]
    if not len(points_PM):
        return 0.0
    points_PM = points_PM[on_front(points_PM)]
    most = _MOST_POINTS.get(points_PM.shape[1], _MOST_POINTS_BEYOND)
    if len(points_PM) > most:
        points_PM = points_PM[np.linspace(0, len(points_PM) - 1, most).round().astype(int)]
    return dominated_volume(points_PM, np.asarray(reference_M, dtype=np.float64))


def reference_value(values: Sequence[float]) -> float:
    """Where hypervolumes are measured from in one objective.

    It is 0 where the values are at least 0 and one is above. Else it is a tenth of their range below the lowest, and 1
    below where all are equal: measured from the lowest itself, a penalty that ends at 0 would make every volume 0.

    Args:
        values: those that were measured of it; NaNs are left out. Without any it is 0.
    """
    known = [value for value in values if np.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low >= 0 and high > 0:
        return 0.0
    return low - ((high - low) / 10 or 1.0)
