"""CLAMP: weighted Chebyshev scalarization with a common descent direction, for preference losses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import has_gradient
from ctwa.errors import CtwaError
from ctwa.method_info import Options

MOST_OBJECTIVES = 14  # 2^14 faces take about a tenth of a second
ROUNDING = 1e-12  # of conditions whose largest term is 1
REFINEMENTS = 2  # of every face's solution: one brings it to rounding, the second is for badly conditioned faces


class ClampConfig(Options):
    """The options of CLAMP. The defaults are the paper's.

    Attributes:
        mu: what the objectives' losses count beside the squared norm of the step: 0 is MGDA on the gradients times the
            preference, a large one trains the objective with the largest weighted loss alone.
        relative: mu is in units of the mean squared norm of the gradients, so that it means the same for another model
            or another share of its parameters. Otherwise it is a squared gradient norm over a loss, as published.
        literal: Eq. 6 over the whole simplex, as printed: an objective of weight 0, or without a gradient, then takes
            multiplier from the others and makes the step shorter, down to none.
    """

    type: Literal["clamp"] = "clamp"
    mu: Annotated[float, Field(ge=0)] = 100.0
    relative: bool = False
    literal: bool = False

    def idle(self) -> Mapping[str, str]:
        """0 is 0 in all units."""
        return {"relative": "mu=0"} if self.mu == 0 else {}


class Clamp(Aggregator):
    """Weighs the gradients by preference times multiplier: ``a = p * lambda``, with CLAMP's Eq. 6 for lambda.

    ``lambda = argmin ||sum_m lambda_m p_m g_m||^2 - mu sum_m lambda_m p_m F_m`` over the simplex, F the losses of the
    gradients' own batches, all of one kind and 0 or more. The minimiser is exact: the quadratic programme has a
    closed-form solution on every face of the simplex.

    The weights sum to ``<p, lambda>``, at most the largest preference, and the step is as much shorter than linear's.
    With mu = 0 and orthogonal gradients of one length the weights go as ``1 / p``: against the preference.

    Objectives of weight 0, without a gradient, or whose loss is not finite have no part in the step.

    Raises:
        CtwaError: there are too many objectives for the exact solution.
    """

    info = gradient_level(ClampConfig, "the largest weighted loss, by a common descent direction", "CLAMP")
    for_rewards = False
    needs_losses = True

    def __init__(self, config: ClampConfig, preference: Mapping[str, float]) -> None:
        super().__init__(config, preference)
        if len(self.names) > MOST_OBJECTIVES:
            raise CtwaError(
                f"clamp is solved exactly for up to {MOST_OBJECTIVES} objectives, and here are {len(self.names)}; "
                "leave some out"
            )

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]
        """Not as printed."""
        return not self.config.literal

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The preference times the multipliers; the last weights where no objective can have a part."""
        gram_MM, losses_M = gradients.gram_MM, gradients.losses_M
        takes_part_M = losses_M.isfinite()
        if not self.config.literal:
            takes_part_M &= has_gradient(gram_MM) & (self.preference_M > 0)
        index_S = takes_part_M.nonzero()[:, 0]
        if not len(index_S):
            return self.last_weights_M, {}
        squared = float(gram_MM.diagonal()[index_S].mean())
        mu = self.config.mu * squared if self.config.relative else self.config.mu
        preference_S = self.preference_M[index_S]
        quadratic_SS = preference_S[:, None] * gram_MM[index_S][:, index_S] * preference_S
        linear_S = mu * preference_S * losses_M[index_S]
        multiplier_M = torch.zeros_like(self.preference_M)
        multiplier_M[index_S] = simplex_minimum(quadratic_SS, -linear_S)
        weights_M = self.preference_M * multiplier_M
        trace = float(quadratic_SS.trace())
        metrics = {
            "clamp/mu": mu,
            "clamp/relative_mu": mu / squared if squared else 0.0,
            "clamp/loss_share": float(linear_S.norm()) / trace if trace else 0.0,
            "clamp/weight_sum": float(weights_M.sum()),
            "clamp/left_out": float(len(self.names) - len(index_S)),
        }
        metrics |= {f"clamp/multiplier/{name}": value for name, value in self.named(multiplier_M).items()}
        return weights_M, metrics


def simplex_minimum(quadratic_MM: Tensor, linear_M: Tensor) -> Tensor:
    """The x of the simplex with the least ``x' quadratic x + linear' x``, for a positive semidefinite matrix: exactly.

    The minimum lies inside one face, and there the gradient is the same number in all of the face's directions: one
    linear system a face. All faces are tried. Of the points that violate the conditions of Karush, Kuhn and Tucker as
    little as any, up to rounding, the one with the least value is chosen: the value alone would not tell points that
    are nearly minima, and the conditions, in units of the longest vector, say little of much shorter ones. A face whose
    system is singular has no minimum that a smaller face does not have too. Where many points are minima, equal shares
    are chosen if they are one of them.
    """
    num = len(linear_M)
    linear_M = linear_M - linear_M.max()  # the same for all of them, it says nothing
    scale = max(float(quadratic_MM.diagonal().max()), float(linear_M.abs().max()))
    if scale > 0:
        quadratic_MM, linear_M = quadratic_MM / scale, linear_M / scale
    # The shortest vector of a face is its origin: differences to it lose the fewest digits.
    order_M = quadratic_MM.diagonal().argsort(descending=True, stable=True)
    quadratic_MM, linear_M = quadratic_MM[order_M][:, order_M], linear_M[order_M]
    equal_M = torch.full((1, num), 1 / num, dtype=torch.float64)
    vertices_MM = torch.eye(num, dtype=torch.float64)
    candidates_CM = torch.cat([equal_M, vertices_MM, *_face_minima(quadratic_MM, linear_M)])
    violation_C = kkt_violation(quadratic_MM, linear_M, candidates_CM)
    value_C = ((candidates_CM @ quadratic_MM) * candidates_CM).sum(1) + candidates_CM @ linear_M
    value_C = torch.where(violation_C <= violation_C.min() + ROUNDING, value_C, torch.inf)
    least = value_C.min()
    chosen = (value_C <= least + 4 * torch.finfo(torch.float64).eps * least.abs()).nonzero()[0, 0]
    minimum_M = torch.empty_like(linear_M)
    minimum_M[order_M] = candidates_CM[chosen]
    return minimum_M


def kkt_violation(quadratic_MM: Tensor, linear_M: Tensor, points_CM: Tensor) -> Tensor:
    """By how much points of the simplex miss the conditions for a minimum of ``x' quadratic x + linear' x``: (C,).

    The slope must be the same, nu, for every m with x_m > 0 and not below nu for the others. What is given is the
    largest of the shortfalls and of the ``x_m |slope_m - nu|``.
    """
    slope_CM = 2 * points_CM @ quadratic_MM + linear_M
    excess_CM = slope_CM - (points_CM * slope_CM).sum(1, keepdim=True)
    return torch.maximum(-excess_CM, points_CM * excess_CM.abs()).amax(1).clamp(min=0)


def _face_minima(quadratic_MM: Tensor, linear_M: Tensor) -> list[Tensor]:
    """For every size of face from 2, the minima inside the faces of that size: float64 (C, M) each."""
    num = len(linear_M)
    minima = []
    for size in range(2, num + 1):
        face_FS = torch.tensor(list(combinations(range(num), size)))
        quadratic_FSS = quadratic_MM[face_FS[:, :, None], face_FS[:, None, :]]
        # x = origin + edges y: every column of the edges leads from the face's last vertex to another.
        edges_SD = torch.cat([torch.eye(size - 1, dtype=torch.float64), -torch.ones(1, size - 1, dtype=torch.float64)])
        curvature_FDD = 2 * edges_SD.T @ quadratic_FSS @ edges_SD
        diagonal_FD = curvature_FDD.diagonal(dim1=1, dim2=2)
        inverse_FD = torch.where(diagonal_FD > 0, diagonal_FD.clamp(min=0).rsqrt(), 0.0)
        factor_FDD, failed_F = torch.linalg.cholesky_ex(inverse_FD[:, :, None] * curvature_FDD * inverse_FD[:, None, :])
        solvable_F = failed_F == 0
        face_FS, quadratic_FSS = face_FS[solvable_F], quadratic_FSS[solvable_F]
        factor_FDD, inverse_FD = factor_FDD[solvable_F], inverse_FD[solvable_F]
        point_FS = torch.zeros(len(face_FS), size, dtype=torch.float64)
        point_FS[:, -1] = 1
        for _ in range(1 + REFINEMENTS):
            slope_FS = 2 * (quadratic_FSS @ point_FS[..., None])[..., 0] + linear_M[face_FS]
            side_FD = inverse_FD * (slope_FS @ edges_SD)
            step_FD = inverse_FD * torch.cholesky_solve(side_FD[..., None], factor_FDD)[..., 0]
            point_FS = point_FS - step_FD @ edges_SD.T
        inside_F = point_FS.isfinite().all(1) & (point_FS >= 0).all(1)
        point_CM = torch.zeros(int(inside_F.sum()), num, dtype=torch.float64)
        point_CM.scatter_(1, face_FS[inside_F], point_FS[inside_F])
        minima.append(point_CM / point_CM.sum(1, keepdim=True))
    return minima
