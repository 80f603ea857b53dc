"""Non-negative least squares, by scipy, and on every support where scipy's answer is not believed."""

from __future__ import annotations

import logging
from itertools import combinations

import scipy  # it imports `optimize`, which takes long, when that is first asked for
import torch
from torch import Tensor

from ctwa.solvers.fallbacks import note_fallback

ROUNDING = 1e-12  # of conditions whose terms are of length 1: an answer that misses them by more is not believed
UNSOLVED = 1e-6  # what no way of solving may miss them by
MOST_ENUMERATED = 12  # columns: 2^12 supports take some 20 ms
REFINEMENTS = 2  # of every support's solution: one brings it to rounding, the second is for badly conditioned ones


_logger = logging.getLogger(__name__)


def nonnegative_least_squares(matrix_DM: Tensor, target_D: Tensor, *, resolution: float = 1e-14) -> Tensor:
    """The x >= 0 (M,) with the least ``||matrix x - target||``, in float64; 0 for a column of zeros.

    Lawson and Hanson's active-set method, of scipy; see ``ctwa.solvers`` for what is made of its answer.

    Args:
        matrix_DM: the columns.
        target_D: what they are to combine to.
        resolution: what the columns are known to, relative to their lengths. A column that is nearer than this to what
            others span depends on them. An answer that needs the difference, and is as large as its inverse, is made
            of rounding errors, and not believed either.

    Raises:
        ValueError: a number is not finite.
    """
    if not (matrix_DM.isfinite().all() and target_D.isfinite().all()):
        raise ValueError("a least-squares problem of numbers that are not finite")
    length_M, length = matrix_DM.norm(dim=0), float(target_D.norm())
    solution_M = torch.zeros_like(length_M)
    index_S = length_M.nonzero()[:, 0]
    if not length or not len(index_S):
        return solution_M
    # In columns and a target of length 1 the conditions, and what rounding may do to them, have one scale.
    unit_DS = matrix_DM[:, index_S] / length_M[index_S]
    unit_D = target_D / length
    solved_S = _scipy_nnls(unit_DS, unit_D)
    if solved_S is None or not _believed(unit_DS, unit_D, solved_S, resolution):
        note_fallback()
        solved_S = _without_nnls(unit_DS, unit_D, resolution)
    solution_M[index_S] = solved_S * length / length_M[index_S]
    return solution_M


def kkt_violation(matrix_DM: Tensor, target_D: Tensor, points_CM: Tensor) -> Tensor:
    """By how much points x >= 0 miss the conditions for the least ``||matrix x - target||``: (C,).

    With columns and a target of length 1. The columns' products with the residual may not be positive, and are 0 where
    x is not. What is given is the largest of the products, and of their absolute values times the share of x, relative
    to the terms that the residual is the difference of: rounding leaves no less than some 1e-16.
    """
    slope_CM = (target_D - points_CM @ matrix_DM.T) @ matrix_DM
    size_C1 = 1 + points_CM.sum(1, keepdim=True)
    violation_C = torch.maximum(slope_CM, points_CM / size_C1 * slope_CM.abs()).amax(1).clamp(min=0) / size_C1[:, 0]
    return torch.where(violation_C.isfinite(), violation_C, torch.inf)


def _scipy_nnls(unit_DS: Tensor, unit_D: Tensor) -> Tensor | None:
    try:
        return torch.from_numpy(scipy.optimize.nnls(unit_DS.numpy(), unit_D.numpy())[0]).clamp(min=0)
    except (RuntimeError, ValueError):  # it stopped before it was done
        return None


def _believed(unit_DS: Tensor, unit_D: Tensor, solved_S: Tensor, resolution: float) -> bool:
    violation = float(kkt_violation(unit_DS, unit_D, solved_S[None]))
    return violation <= ROUNDING and float(solved_S.sum()) <= 1 / resolution


def _without_nnls(unit_DS: Tensor, unit_D: Tensor, resolution: float) -> Tensor:
    """The best of the solutions on every support; of another solver's where there are too many supports."""
    num = unit_DS.shape[1]
    candidates = [torch.zeros(1, num, dtype=torch.float64)]
    if num <= MOST_ENUMERATED:
        candidates += _on_every_support(unit_DS, unit_D, resolution)
    else:
        bounds = (0, 1 / resolution)
        solved = scipy.optimize.lsq_linear(unit_DS.numpy(), unit_D.numpy(), bounds, method="bvls", tol=1e-15)
        candidates.append(torch.from_numpy(solved.x).clamp(min=0)[None])
    candidates_CS = torch.cat(candidates)
    violation_C = kkt_violation(unit_DS, unit_D, candidates_CS)
    # The least distance among those that rounding does not tell apart.
    distance_C = (candidates_CS @ unit_DS.T - unit_D).norm(dim=1)
    distance_C = torch.where(violation_C <= violation_C.min() + ROUNDING, distance_C, torch.inf)
    best = int(distance_C.argmin())
    if violation_C[best] > UNSOLVED:
        _logger.warning("a least-squares problem of %d columns is solved to %.1e only", num, float(violation_C[best]))
    return candidates_CS[best]


def _on_every_support(unit_DS: Tensor, unit_D: Tensor, resolution: float) -> list[Tensor]:
    """The least-squares solutions on every support of independent columns that are not negative: float64 (C, S) each.

    One of them is the minimum: where columns depend on one another, a smaller support has it too.
    """
    dim, num = unit_DS.shape
    found = []
    for size in range(1, min(num, dim) + 1):
        support_FK = torch.tensor(list(combinations(range(num), size)))
        q_FDK, r_FKK = torch.linalg.qr(unit_DS.T[support_FK].mT)
        independent_F = (r_FKK.diagonal(dim1=1, dim2=2).abs() > resolution).all(1)
        support_FK, q_FDK, r_FKK = support_FK[independent_F], q_FDK[independent_F], r_FKK[independent_F]
        point_FK = torch.zeros(support_FK.shape, dtype=torch.float64)
        for _ in range(1 + REFINEMENTS):
            missing_FD = unit_D - (unit_DS.T[support_FK].mT @ point_FK[..., None])[..., 0]
            side_FK1 = q_FDK.mT @ missing_FD[..., None]
            point_FK = point_FK + torch.linalg.solve_triangular(r_FKK, side_FK1, upper=True)[..., 0]
        inside_F = point_FK.isfinite().all(1) & (point_FK >= 0).all(1)
        point_CS = torch.zeros(int(inside_F.sum()), num, dtype=torch.float64)
        found.append(point_CS.scatter_(1, support_FK[inside_F], point_FK[inside_F]))
    return found
