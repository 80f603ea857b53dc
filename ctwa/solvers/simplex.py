"""The point of the simplex that is nearest to a given one and meets linear conditions: a small quadratic programme.

C: conditions; V: the M variables, and what else a least-squares problem has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctwa.solvers.least_squares import nonnegative_least_squares

LEAST = 0.3  # of 1 / (1 + ||w - point||^2), whose w and point are of the simplex: at least a third
MET = 1e-9  # what a point may miss conditions by, relative to their terms


def nearest_on_simplex(point_M: Tensor, rows_CM: Tensor) -> Tensor | None:
    """The w of the simplex with ``rows w >= 0`` and the least ``||w - point||``, float64; None if there is none.

    A least-distance problem, which Lawson and Hanson (1974, chapter 23) turn into one of non-negative least squares:
    with w = point + Z y, the columns of Z an orthonormal basis of the vectors that sum to 0, ``||y||`` is to be least
    under ``E y >= f``. For the u >= 0 with the least ``||E' u||^2 + (f' u - 1)^2`` it is ``-r / r_1``, r the residual
    and ``r_1 = 1 / (1 + ||y||^2)`` its last entry, which is 0 where nothing meets the conditions.

    Args:
        point_M: of the simplex.
        rows_CM: the conditions; the largest entry of each should be near 1.
    """
    num = len(point_M)
    if num == 1:
        return point_M if bool((rows_CM @ point_M >= -MET * rows_CM.abs() @ point_M).all()) else None
    # Each column is orthogonal to the ones before it, and to the vector of ones.
    basis_MV = torch.linalg.qr(torch.ones(num, 1, dtype=torch.float64), mode="complete")[0][:, 1:]
    conditions_CM = torch.cat([torch.eye(num, dtype=torch.float64), rows_CM])
    least_C = -conditions_CM @ point_M
    matrix_VC = torch.cat([(conditions_CM @ basis_MV).T, least_C[None]])
    target_V = torch.zeros(num, dtype=torch.float64)
    target_V[-1] = 1
    multipliers_C = nonnegative_least_squares(matrix_VC, target_V)
    residual_V = target_V - matrix_VC @ multipliers_C
    if residual_V[-1] < LEAST:
        return None
    found_M = (point_M + basis_MV @ (-residual_V[:-1] / residual_V[-1])).clamp(min=0)
    found_M = found_M / found_M.sum()
    return found_M if bool((rows_CM @ found_M >= -MET * rows_CM.abs() @ found_M).all()) else None


def least_violation(rows_CM: Tensor) -> tuple[Tensor, Tensor]:
    """A w of the simplex with the least sum of squares of ``min(rows w, 0)``, (M,), and these values there, (C,).

    The values are the same for every such w, and ``-values' rows <= -||values||^2`` in each entry: weighed so, the
    conditions ``rows w >= 0`` contradict one another wherever they are not all 0.

    Args:
        rows_CM: the conditions; their entries should be near 1.
    """
    num, conditions = rows_CM.shape[1], len(rows_CM)
    # The least ||rows w - s||^2 + (sum w - 1)^2 over w, s >= 0 has the shape of the least ||rows w - s||^2 with sum 1.
    excess_CC = -torch.eye(conditions, dtype=torch.float64)
    sums_1V = torch.cat([torch.ones(num), torch.zeros(conditions)]).double()[None]
    matrix_CV = torch.cat([torch.cat([rows_CM, excess_CC], dim=1), sums_1V])
    target_C = torch.zeros(conditions + 1, dtype=torch.float64)
    target_C[-1] = 1
    found_V = nonnegative_least_squares(matrix_CV, target_C)
    found_M = found_V[:num] / found_V[:num].sum()
    return found_M, (rows_CM @ found_M).clamp(max=0)
