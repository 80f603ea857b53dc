"""Nash-MTL, the Nash bargaining solution among the objectives (Navon et al. 2022, arXiv 2202.01017), exactly."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import RESOLUTION, has_gradient, min_norm_point, norms, unit_scale
from ctwa.method_info import Options

STEPS = 100  # of Newton's method: some ten are needed, and one for each doubling where there is no agreement
ROUNDING = 1e-12  # of conditions that are shares of 1, whose terms are no larger
EPSILON = 1e-15  # of float64, with room for a few of its roundings
SMALLEST = 1e-6  # of the share of a step


class NashMtlConfig(Options):
    """Nothing to configure: the problem is convex, and solved to rounding."""

    type: Literal["nash_mtl"] = "nash_mtl"


class NashMTL(Aggregator):
    """The step on which the objectives agree: no other of its length has a larger product of their improvements.

    The weights solve ``w_m <g_m, x> = p_m s`` with ``x = sum_m w_m g_m``, for one s: every objective improves, and what
    it gets is in proportion to its preference p (its bargaining power) over what it pays. The scale of a gradient does
    not matter: the step is the same for ``2 g_m``.

    An objective without a gradient has its preference for weight, and the others share the rest; one of weight 0 has no
    part. Where no step improves all that take part there is nothing to agree on: the step is MGDA's on the unit
    gradients, which is 0 there.
    """

    info = gradient_level(
        NashMtlConfig, "the step on which all objectives agree, as bargainers do", "Navon et al. 2022, arXiv 2202.01017"
    )

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The bargaining solution, summing to 1; reports whether there was an agreement."""
        index_S = (has_gradient(gradients.gram_MM) & (self.preference_M > 0)).nonzero()[:, 0]
        if not len(index_S):
            return self.last_weights_M, {}
        gram_SS = unit_scale(gradients.gram_MM[index_S][:, index_S])
        lengths_S, preference_S = norms(gram_SS), self.preference_M[index_S]
        cosine_SS = gram_SS / lengths_S[:, None] / lengths_S
        shares_S = bargain(cosine_SS, preference_S / preference_S.sum())
        agreement = shares_S is not None
        scaled_S = (min_norm_point(cosine_SS) if shares_S is None else shares_S) / lengths_S
        weights_M = self.preference_M.clone()
        weights_M[index_S] = scaled_S / scaled_S.sum() * preference_S.sum()
        return weights_M, {"nash_mtl/agreement": float(agreement)}


def bargain(cosine_MM: Tensor, preference_M: Tensor) -> Tensor | None:
    """The w > 0 with ``w_m (cosine w)_m = preference_m``, or None where no step improves all objectives.

    It is the minimum of the convex ``w' cosine w / 2 - sum_m preference_m log w_m``, by Newton's method with steps that
    keep w above 0. Without an agreement w grows without end: what is left of the sum of the unit gradients is then
    nothing but rounding.

    Args:
        cosine_MM: the cosines between the gradients, float64.
        preference_M: all above 0, to the sum of 1.
    """

    def value(weights_M: Tensor) -> float:
        return float(weights_M @ cosine_MM @ weights_M) / 2 - float(preference_M @ weights_M.log())

    weights_M = preference_M.sqrt()
    for _ in range(STEPS):
        # At the solution the sum of the unit gradients has length 1, of terms whose lengths add up to this.
        length = float(weights_M.sum())
        if length * RESOLUTION > 1:
            break
        rounding = ROUNDING + EPSILON * length**2  # opposite gradients cancel, and what they round stays
        # In relative steps, whose system is well conditioned however different the weights are.
        slope_M = weights_M * (cosine_MM @ weights_M) - preference_M
        if float(slope_M.abs().max()) < rounding:
            return weights_M
        curvature_MM = weights_M[:, None] * cosine_MM * weights_M + preference_M.diag()
        change_M = torch.linalg.solve(curvature_MM, -slope_M)
        size = min(1.0, 0.9 / max(float(-change_M.min()), 0.9))
        while size > SMALLEST and value(weights_M * (1 + size * change_M)) > value(weights_M) + rounding:
            size /= 2
        weights_M = weights_M * (1 + size * change_M)
    return None
