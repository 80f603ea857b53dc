"""Linear programmes, by HiGHS, whose answer has to agree with its dual."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # it imports `optimize`, which takes long, when that is first asked for
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ctwa.solvers.fallbacks import note_fallback

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

Floats = NDArray[np.float64]

LINEAR = 1e-6  # what a linear programme's answer may miss its conditions by, in units of its terms: HiGHS asks for 1e-7
_METHODS = ("highs", "highs-ipm", "highs-ds")


def linear_programme(cost_V: Floats, matrix_XV: csr_array, bound_X: Floats, *, num_free: int) -> float | None:
    """The least ``cost x`` where ``matrix x <= bound``, the first ``num_free`` x are free and the others 0 or more.

    With HiGHS, whose tolerances are absolute: the terms should be near 1. An answer has to agree with its dual.

    Returns:
        The value; -inf where there is no least one; None where no method's answer was right.
    """
    bounds = [(None, None)] * num_free + [(0, None)] * (len(cost_V) - num_free)
    for method in _METHODS:
        result = scipy.optimize.linprog(cost_V, A_ub=matrix_XV, b_ub=bound_X, bounds=bounds, method=method)
        if result.status == 3:
            return -np.inf
        if result.status == 0 and _dual_miss(result, cost_V, matrix_XV, bound_X, num_free) <= LINEAR:
            return float(result.fun)
        note_fallback()
    return None


def _dual_miss(result: OptimizeResult, cost_V: Floats, matrix_XV: csr_array, bound_X: Floats, num_free: int) -> float:
    """By how much a solution and its multipliers miss their conditions: both feasible, and of one value."""
    multiplier_X = -result.ineqlin.marginals
    slope_V = cost_V + matrix_XV.T @ multiplier_X
    gap = cost_V @ result.x + bound_X @ multiplier_X
    size = max(1.0, float(np.abs(cost_V) @ np.abs(result.x)))
    return max(
        float((matrix_XV @ result.x - bound_X).max()) / size,
        float(-result.x[num_free:].min(initial=0.0)) / size,
        float(-multiplier_X.min()),
        float(np.abs(slope_V[:num_free]).max(initial=0.0)),
        float(-slope_V[num_free:].min(initial=0.0)),
        abs(float(gap)) / size,
    )
