"""What several methods need to know of a Gram matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctwa.solvers.least_squares import nonnegative_least_squares

# A gradient this much shorter than the longest is no gradient: its objective had nothing to learn from the batch.
ZERO_NORM = 1e-12
# Inner products in float64 tell the direction of a gradient, and columns of ``unit_factor``, from another to this.
RESOLUTION = 1e-7


def unit_scale(gram_MM: Tensor) -> Tensor:
    """The matrix times a power of two that brings its largest diagonal entry to [1/2, 1): this rounds nothing.

    For methods whose weights do not depend on the scale of the gradients.
    """
    _, exponent = math.frexp(float(gram_MM.diagonal().max()))
    half = exponent // 2  # in two steps: the power itself may overflow
    return gram_MM * 2.0**-half * 2.0 ** (half - exponent)


def norms(gram_MM: Tensor) -> Tensor:
    """The norms of the gradients (M,)."""
    return gram_MM.diagonal().clamp(min=0).sqrt()


def has_gradient(gram_MM: Tensor) -> Tensor:
    """Bool (M,): the objectives whose gradient is not zero."""
    norms_M = norms(gram_MM)
    return norms_M > ZERO_NORM * norms_M.max()


def unit_factor(gram_MM: Tensor) -> Tensor:
    """Columns with the same angles as the gradients, of length 1 (0 for a zero gradient): float64 (M, M).

    Taking the norms out first keeps the small gradients as exact as the large ones. Eigenvalues of the matrix of
    cosines that rounding alone could have made are 0 here, negative ones among them.
    """
    known_M = has_gradient(gram_MM)
    inverse_M = torch.where(known_M, 1 / norms(gram_MM), 0.0)
    eigenvalues_M, vectors_MM = torch.linalg.eigh(inverse_M[:, None] * gram_MM * inverse_M)
    eigenvalues_M = torch.where(eigenvalues_M > 1e-15 * len(gram_MM), eigenvalues_M, 0.0)
    # An eigenvector is 0 at a zero gradient but for rounding, of which no direction may be made.
    return torch.where(known_M, eigenvalues_M.sqrt()[:, None] * vectors_MM.T, 0.0)


def min_norm_point(gram_MM: Tensor) -> Tensor:
    """The w of the simplex with the least ``w' gram w``: the shortest vector in the convex hull of the gradients.

    Two gradients have a closed form. For more, the minimiser of ``||sum_m u_m g_m||^2 + (sum_m u_m - 1)^2`` over
    u >= 0 is w up to its sum, which makes the problem one of non-negative least squares, and its solution exact.
    """
    if len(gram_MM) == 1:
        return torch.ones(1, dtype=torch.float64)
    if len(gram_MM) == 2:
        (first, inner), (_, second) = gram_MM.tolist()
        pulls_M = torch.tensor([second - inner, first - inner], dtype=torch.float64).clamp(min=0)
        return pulls_M / pulls_M.sum() if pulls_M.any() else torch.full_like(pulls_M, 0.5)
    norms_M = norms(gram_MM)
    if not norms_M.all():
        return (norms_M == 0).double() / (norms_M == 0).sum()
    # In the variables u_m ||g_m||, and with the shortest gradient as the unit of length.
    relative_M = norms_M.min() / norms_M
    matrix_DM = torch.cat([unit_factor(gram_MM), relative_M[None]])
    target_D = torch.zeros(len(matrix_DM), dtype=torch.float64)
    target_D[-1] = 1
    weights_M = nonnegative_least_squares(matrix_DM, target_D) * relative_M
    return weights_M / weights_M.sum()
