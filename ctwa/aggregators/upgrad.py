"""UPGrad, unconflicting projection of gradients (Quinton & Rey 2024, arXiv 2406.16232)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import RESOLUTION, has_gradient, norms, unit_factor, unit_scale
from ctwa.method_info import Options
from ctwa.solvers.least_squares import nonnegative_least_squares


class UpGradConfig(Options):
    """Nothing to configure."""

    type: Literal["upgrad"] = "upgrad"


class UPGrad(Aggregator):
    """Every gradient is projected onto the cone of steps that harm no objective; the projections are averaged.

    The projection of g_m onto ``{x: <g_j, x> >= 0 for all j}`` is ``g_m + sum_j v_j g_j`` with the v >= 0 of least
    ``||g_m + sum_j v_j g_j||``. The preference weighs the projections, so without conflicts the method is linear, and
    with them no objective's loss rises, to first order: also not that of an objective whose weight is 0.
    """

    info = gradient_level(
        UpGradConfig, "the mean of the gradients, each made to harm none", "Quinton & Rey 2024, arXiv 2406.16232"
    )

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the projections, as weights of the gradients; their sum is 1 or more."""
        gram_MM = unit_scale(gradients.gram_MM)
        factor_MM = unit_factor(gram_MM)
        lengths_M = norms(gram_MM)
        inverse_M = torch.where(has_gradient(gram_MM), 1 / lengths_M, 0.0)
        weights_M = self.preference_M.clone()
        for objective, preference in enumerate(self.preference_M):
            added_M = nonnegative_least_squares(factor_MM, -factor_MM[:, objective], resolution=RESOLUTION)
            weights_M += preference * lengths_M[objective] * added_M * inverse_M
        return weights_M, {}
