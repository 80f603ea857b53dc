"""What comparing runs takes: intervals, paired differences, Pareto fronts, hypervolumes.

Objectives are better when higher. Letters: R runs, P problems, S values, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # it imports `special` when that is first asked for
from numpy.typing import NDArray

from ctwa.solvers.volumes import dominated_volume, not_dominated

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
# A hypervolume's cost grows with the number of points to the power of the number of objectives: for more points than
# this an even choice of them is taken.
_MOST_POINTS = {1: 10_000, 2: 10_000, 3: 2_000, 4: 400, 5: 60, 6: 40}
_MOST_POINTS_BEYOND = 24


class Interval(NamedTuple):
    """A mean and where it is; without an interval where there are fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    num: int


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of at least one value and Student's 95 % interval of it.

    It is wide for few values, as it has to be: of two it is nine of their standard deviations to each side. Resamples
    of two to five values would tell one of four to one of seven differences that are none from 0.
    """
    values_S = np.asarray(values, dtype=np.float64)
    mean, num = float(values_S.mean()), len(values_S)
    if num < 2:
        return Interval(mean, None, None, num)
    margin = float(scipy.special.stdtrit(num - 1, (1 + CONFIDENCE) / 2) * values_S.std(ddof=1)) / math.sqrt(num)
    return Interval(mean, mean - margin, mean + margin, num)


def clustered_error(values_N: Floats, group_N: NDArray[np.int64]) -> float:
    """The standard error of the mean of N values, of which those of a group (the completions of a problem) go together.

    The groups are what is independent: what a group's values are above the mean of all is summed, and the sums' squares
    are averaged over the groups (the ratio estimator of cluster sampling: Cochran, Sampling Techniques, 9.3 and 6.4).
    With one value a group it is the standard deviation over the root of N. NaN of fewer than two groups.
    """
    values_N = np.asarray(values_N, dtype=np.float64)
    _, place_N = np.unique(group_N, return_inverse=True)
    sums_G = np.bincount(place_N, weights=values_N - values_N.mean())
    num = len(sums_G)
    if num < 2:
        return math.nan
    return float(np.sqrt(num / (num - 1) * np.sum(sums_G**2)) / len(values_N))


class Difference(NamedTuple):
    """A mean difference, its standard error, and how often one as far from 0 comes by chance where there is none.

    Both are None where a single run leaves the error over runs unknown: where it has no degrees of freedom.
    """

    mean: float
    standard_error: float | None
    p_value: float | None
    num_runs: int
    degrees: int


def paired_difference(differences_RP: Floats, strata_R: Sequence[Hashable] | None = None) -> Difference:
    """The mean over runs and problems of paired differences, with an error that holds for new runs and new problems.

    Runs and problems are crossed: each run is measured on the same problems, and a problem that is kinder to one of two
    methods is so in every run. With the mean squares of a two-way analysis of variance without replication (between
    runs, between problems, and what is left) the variance of the mean is (MS_R + MS_P - MS_E) / (R P), with
    Satterthwaite's degrees of freedom (Searle, Casella & McCulloch, Variance Components, 1992, chapters 2 and 4).

    A few runs may be alike by chance, and the sum of the squares then has the degrees of the many problems: of nulls
    that only runs make vary, ten times too many had a p-value below .0024 over three runs. So the error is no smaller
    than that of the runs alone and that of the problems alone, and the p-value is the largest of the three. Over three
    runs few differences are beyond chance therefore, whatever the number of problems.

    Args:
        differences_RP: one number for each run and problem; with one column, of runs that are one number each, the
            error is that of the runs.
        strata_R: of each run, what the statement is to hold for as it is (a base model) and not for others like it:
            runs are compared within theirs. None, or one run in each: the runs stand for all that could have been.
    """
    d_RP = np.asarray(differences_RP, dtype=np.float64)
    num_runs, num_problems = d_RP.shape
    mean = float(d_RP.mean())
    strata = list(strata_R) if strata_R is not None else [0] * num_runs
    if len(set(strata)) == num_runs:
        strata = [0] * num_runs
    between = num_runs - len(set(strata))  # degrees of freedom between the runs
    if between < 1:
        return Difference(mean, None, None, num_runs, 0)
    same_RR = np.array([[one == other for other in strata] for one in strata], dtype=np.float64)
    of_stratum_RP = same_RR @ d_RP / same_RR.sum(1, keepdims=True)
    runs_R, stratum_R, problems_P = d_RP.mean(1), of_stratum_RP.mean(1), d_RP.mean(0)
    of_runs = num_problems * np.sum((runs_R - stratum_R) ** 2) / between, between
    estimates = [[of_runs]]
    if num_problems > 1:
        of_problems = num_runs * np.sum((problems_P - mean) ** 2) / (num_problems - 1), num_problems - 1
        left_RP = d_RP - runs_R[:, None] - of_stratum_RP + stratum_R[:, None]
        rest = between * (num_problems - 1)
        estimates += [[of_problems], [of_runs, of_problems, (-np.sum(left_RP**2) / rest, rest)]]
    errors, p_values = zip(*(_error_of_mean(mean, each, d_RP.size) for each in estimates), strict=True)
    return Difference(mean, max(errors), max(p_values), num_runs, between)


def _error_of_mean(mean: float, squares: Sequence[tuple[float, int]], size: int) -> tuple[float, float]:
    """The standard error by a sum of mean squares with their degrees of freedom, and the p-value of the mean by it."""
    total = sum(square for square, _ in squares)
    if total <= 0:
        return 0.0, float(mean == 0)
    degrees = total**2 / sum(square**2 / freedom for square, freedom in squares)
    error = math.sqrt(total / size)
    return error, float(2 * scipy.special.stdtr(degrees, -abs(mean) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, adjusted so that of many true nulls one is rejected by chance no more often than of one.

    Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure: it supposes nothing of how the tests depend.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


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
