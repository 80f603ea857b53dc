"""CAGrad, conflict-averse gradient descent (Liu et al. 2021, arXiv 2110.14048), for weighted objectives."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import has_gradient, min_norm_point, norms, unit_scale
from ctwa.errors import CtwaError
from ctwa.method_info import Options

MOST_OBJECTIVES = 14  # 2^14 faces take about a tenth of a second
ZERO = 1e-12  # relative length of a combination of gradients that is no direction


class CAGradOptions(Options):
    """The options of CAGrad and CAGrad-Clip.

    Attributes:
        c: the radius of the ball around the weighted gradient in which the step is sought, as a share of its length;
            0 is linear.
        rescale: ``none`` takes the step of the method. ``published-code`` divides it by 1 + c^2.
    """

    c: Annotated[float, Field(ge=0, lt=1)] = 0.4
    rescale: Literal["none", "published-code"] = "none"

    def idle(self) -> Mapping[str, str]:
        """A step that is not lengthened need not be shortened."""
        return {"rescale": "c=0"} if self.c == 0 else {}


class CAGradConfig(CAGradOptions):
    """The options of CAGrad."""

    type: Literal["cagrad"] = "cagrad"


class CAGrad(Aggregator):
    """The step near the weighted gradient along which the objective that fares worst fares best.

    With g_0 the gradient of the preference-weighted loss, the method maximises ``min_m <g_m, d>`` over the ball
    ``||d - g_0|| <= c ||g_0||``. Its dual has M variables: p in the simplex with the least ``<g_p, g_0> + c ||g_0||
    ||g_p||``, where ``g_p = sum_m p_m g_m``, and the step is ``g_0 + c ||g_0|| g_p / ||g_p||``.

    Where g_p is zero (the gradients balance out) there is no direction to correct towards: the step is g_0. An
    objective without a gradient asks for nothing, and is left out of p.

    Raises:
        CtwaError: there are too many objectives for the exact solution.
    """

    info = gradient_level(
        CAGradConfig, "near the weighted gradient, best for the worst off", "Liu et al. 2021, arXiv 2110.14048"
    )
    preference_name = "raco_unclipped"

    def __init__(self, config: CAGradOptions, preference: Mapping[str, float]) -> None:
        super().__init__(config, preference)
        if len(self.names) > MOST_OBJECTIVES:
            raise CtwaError(
                f"{self.method} is solved exactly for up to {MOST_OBJECTIVES} objectives, and here are "
                f"{len(self.names)}; choose upgrad or mgda"
            )

    @property
    def has_fixed_weights(self) -> bool:
        """Without a radius the step is linear's, to the last bit."""
        return bool(self.config.c == 0)

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The preference plus the correction; the weights sum to more than 1."""
        gram_MM = unit_scale(gradients.gram_MM)
        radius = self.config.c * length(gram_MM, self.preference_M)
        mixture_M = worst_mixture(gram_MM, self.preference_M, radius)
        direction_M, metrics = self.correction(mixture_M, has_gradient(gram_MM))
        norm = length(gram_MM, direction_M)
        fallback = norm <= ZERO * float(norms(gram_MM).square().sum().sqrt())
        weights_M = self.preference_M.clone()
        if not fallback:
            weights_M += radius / norm * direction_M
        if self.config.rescale == "published-code":
            weights_M = weights_M / (1 + self.config.c**2)
        metrics["cagrad/fallback"] = float(fallback)
        return weights_M, metrics | {f"cagrad/mixture/{name}": share for name, share in self.named(mixture_M).items()}

    def correction(self, mixture_M: Tensor, has_gradient_M: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The combination of gradients whose direction is added to the weighted gradient, p itself; and metrics."""
        del has_gradient_M
        return mixture_M, {}


def length(gram_MM: Tensor, weights_M: Tensor) -> float:
    """The norm of a combination of the gradients."""
    return float((weights_M @ gram_MM @ weights_M).clamp(min=0).sqrt())


def worst_mixture(gram_MM: Tensor, preference_M: Tensor, radius: float) -> Tensor:
    """The p of the simplex with the least ``b' p + radius * sqrt(p' gram p)``, ``b = gram @ preference``: exactly.

    A second-order cone programme whose minimum lies inside one face of the simplex. There the gradient is the same
    number nu in all directions, so p is a multiple of ``H^-1 (nu - b)``, and ``(nu - b)' H^-1 (nu - b) = radius^2``
    is a quadratic equation for nu, with H and b those of the face. All faces are tried. A face whose H is singular has
    no such point that another face does not offer too, except where p's combination is zero: that is the shortest one.
    Where the preference itself is a minimum, it is chosen.
    """
    if radius == 0:
        return preference_M
    index_R = has_gradient(gram_MM).nonzero()[:, 0]
    slope_R = (gram_MM @ preference_M)[index_R]
    gram_RR = gram_MM[index_R][:, index_R]
    vertices_RR = torch.eye(len(gram_RR), dtype=torch.float64)
    shortest_R = min_norm_point(gram_RR)
    candidates_CR = torch.cat([vertices_RR, shortest_R[None], *_face_minima(gram_RR, slope_R, radius)])
    own_R = preference_M[index_R]
    if own_R.any():
        candidates_CR = torch.cat([own_R[None] / own_R.sum(), candidates_CR])
    squared_C = ((candidates_CR @ gram_RR) * candidates_CR).sum(1).clamp(min=0)
    value_C = candidates_CR @ slope_R + radius * squared_C.sqrt()
    least = value_C.min()
    chosen = (value_C <= least + 4 * torch.finfo(torch.float64).eps * least.abs()).nonzero()[0, 0]
    mixture_M = torch.zeros_like(preference_M)
    mixture_M[index_R] = candidates_CR[chosen]
    return mixture_M


def _face_minima(gram_RR: Tensor, slope_R: Tensor, radius: float) -> list[Tensor]:
    """For every size of face from 2, the stationary points inside the faces of that size: float64 (C, R) each."""
    num_objectives = len(gram_RR)
    inverse_R = 1 / norms(gram_RR)
    cosine_RR = inverse_R[:, None] * gram_RR * inverse_R
    sides_R2 = torch.stack([inverse_R, inverse_R * slope_R], 1)
    minima = []
    for size in range(2, num_objectives + 1):
        face_FS = torch.tensor(list(combinations(range(num_objectives), size)))
        factor_FSS, failed_F = torch.linalg.cholesky_ex(cosine_RR[face_FS[:, :, None], face_FS[:, None, :]])
        face_FS, factor_FSS = face_FS[failed_F == 0], factor_FSS[failed_F == 0]
        side_FS2 = sides_R2[face_FS]
        solved_FS2 = torch.cholesky_solve(side_FS2, factor_FSS)
        (a_F, b_F), (_, c_F) = (side_FS2.mT @ solved_FS2).permute(1, 2, 0)
        root_F = (b_F.square() - a_F * (c_F - radius**2)).clamp(min=0).sqrt()
        for level_F in ((b_F - root_F) / a_F, (b_F + root_F) / a_F):
            point_FS = inverse_R[face_FS] * (level_F[:, None] * solved_FS2[..., 0] - solved_FS2[..., 1])
            inside_F = point_FS.isfinite().all(1) & (point_FS >= 0).all(1) & (point_FS.sum(1) > 0)
            point_CR = gram_RR.new_zeros(int(inside_F.sum()), num_objectives)
            point_CR.scatter_(1, face_FS[inside_F], point_FS[inside_F])
            minima.append(point_CR / point_CR.sum(1, keepdim=True))
    return minima
