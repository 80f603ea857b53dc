"""Dominated volumes, by moocore, and box by box where moocore's answer is not believed."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

from ctwa.solvers.fallbacks import note_fallback

Floats = NDArray[np.float64]

ROUNDING = 1e-9  # what a volume may be outside its bounds, relative to them


def dominated_volume(points_PM: Floats, reference_M: Floats) -> float:
    """The volume that P points dominate above the reference, exactly; every objective is to be large.

    With moocore. It is no less than any point's box, and no more than the sum of the boxes or the box around them.

    Args:
        points_PM: finite. One that is not above the reference in every objective adds nothing.
        reference_M: finite.
    """
    sides_PM = points_PM - reference_M
    sides_PM = sides_PM[(sides_PM > 0).all(axis=1)]
    if not len(sides_PM):
        return 0.0
    volume = float(moocore.hypervolume(points_PM, ref=reference_M, maximise=True))
    boxes_P = sides_PM.prod(axis=1)
    least, most = boxes_P.max(), min(boxes_P.sum(), sides_PM.max(axis=0).prod())
    if least * (1 - ROUNDING) <= volume <= most * (1 + ROUNDING):
        return volume
    note_fallback()
    return _volume(sides_PM)


def not_dominated(points_PM: Floats) -> NDArray[np.bool_]:
    """Which of P finite points no other dominates, (P,): is at least as good everywhere and better somewhere."""
    at_least_PP = (points_PM[:, None] >= points_PM).all(axis=2)  # [p, q]: p is at least as good as q everywhere
    better_PP = (points_PM[:, None] > points_PM).any(axis=2)
    return np.asarray(~(at_least_PP & better_PP).any(axis=0))


def _volume(sides_PM: Floats) -> float:
    """The volume of a union of boxes with one corner in common: what each has alone, of those that are left."""
    total = 0.0
    for index, side_M in enumerate(sides_PM):
        shared_PM = np.unique(np.minimum(sides_PM[index + 1 :], side_M), axis=0)
        total += float(side_M.prod()) - _volume(shared_PM[not_dominated(shared_PM)])
    return total
