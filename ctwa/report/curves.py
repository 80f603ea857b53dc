"""Curves of runs as arrays: averages over steps, means and ranges over seeds, and fewer points for a page or a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """Values over steps; with the lowest and highest over seeds where there are several."""

    steps: Steps
    values: Floats
    low: Floats | None = None
    high: Floats | None = None

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def points(self) -> list[tuple[int, float]]:
        """As (step, value)."""
        return list(zip(self.steps.tolist(), self.values.tolist(), strict=True))


EMPTY = Curve(np.zeros(0, np.int64), np.zeros(0))


def averaged(found: Curve, window: int) -> Curve:
    """The mean of the last `window` values at each step, of fewer at the beginning."""
    if window <= 1 or not len(found):
        return found
    sums = np.concatenate([[0.0], np.cumsum(found.values)])
    ends = np.arange(1, len(found) + 1)
    begins = np.maximum(ends - window, 0)
    return Curve(found.steps, (sums[ends] - sums[begins]) / (ends - begins))


def over_seeds(curves: Sequence[Curve]) -> Curve:
    """Mean, lowest and highest at the steps that all curves have; one curve alone is itself."""
    curves = [each for each in curves if len(each)]
    if not curves:
        return EMPTY
    if len(curves) == 1:
        return curves[0]
    steps = curves[0].steps
    for each in curves[1:]:
        steps = np.intersect1d(steps, each.steps, assume_unique=True)
    values_ST = np.array([each.values[np.isin(each.steps, steps)] for each in curves])
    return Curve(steps, values_ST.mean(axis=0), values_ST.min(axis=0), values_ST.max(axis=0))


def over_own_spans(curves: Sequence[Curve]) -> Curve:
    """The mean of the newest values at every step of any curve; those of one that ends before stay what they were.

    It begins with the mean of what the curves begin with and ends with the mean of what they end with, whichever steps
    those are.
    """
    curves = [each for each in curves if len(each)]
    if len(curves) < 2:
        return curves[0] if curves else EMPTY
    steps = np.unique(np.concatenate([each.steps for each in curves]))
    newest_CS = [each.values[np.maximum(np.searchsorted(each.steps, steps, "right") - 1, 0)] for each in curves]
    return Curve(steps, np.mean(newest_CS, axis=0))


def averaging_window(last_step: int) -> int:
    """Over how many steps curves are averaged: 5 in short runs, a fortieth of long ones."""
    return max(5, round(last_step / 40))


def thinned(found: Curve, most: int) -> Curve:
    """At most about `most` points that look like the curve: of each stretch of steps its lowest and highest value.

    The first and the last point stay. A curve with a range keeps that of the points that stay.
    """
    if len(found) <= most:
        return found
    edges = np.linspace(0, len(found), max(most // 2, 2)).astype(np.int64)
    kept = [0, len(found) - 1]
    for begin, end in pairwise(edges):
        stretch = found.values[begin:end]
        kept += [begin + int(stretch.argmin()), begin + int(stretch.argmax())]
    at = np.unique(kept)
    low, high = (None if side is None else side[at] for side in (found.low, found.high))
    return Curve(found.steps[at], found.values[at], low, high)


def resampled(found: Curve, first: int, last: int, width: int) -> list[float]:
    """A curve in `width` columns over the steps first..last: the mean of a column's points, or else the nearest one."""
    if not len(found):
        return []
    columns = np.round((found.steps - first) * ((width - 1) / max(last - first, 1))).astype(np.int64)
    counts, sums = np.bincount(columns, minlength=width), np.bincount(columns, found.values, width)
    filled = np.flatnonzero(counts)
    nearest = filled[np.abs(filled - np.arange(width)[:, None]).argmin(axis=1)]
    return (sums[nearest] / counts[nearest]).tolist()


def steps_between(steps: Sequence[int]) -> list[int]:
    """How many steps each of some records stands for: those since the one before, at least 1.

    What the first stands for is known where the run's start is no further away than the second.
    """
    gaps = [after - before for before, after in pairwise(steps)]
    first = [max(1, min([*steps[:1], *gaps[:1]]))] if steps else []
    return [*first, *gaps]
