"""MGDA, the multiple-gradient descent algorithm (Desideri 2012; Sener & Koltun 2018, arXiv 1810.04650)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import has_gradient, min_norm_point, unit_scale
from ctwa.method_info import Options


class MgdaConfig(Options):
    """Nothing to configure: MGDA has neither a step size nor, here, a tolerance."""

    type: Literal["mgda"] = "mgda"


class MGDA(Aggregator):
    """The shortest vector in the convex hull of the gradients, ``min ||sum_m w_m g_m||`` over the simplex, exactly.

    That vector x satisfies ``<g_m, x> >= ||x||^2`` for every m: along it no objective's loss rises, to first order. The
    preference plays no part, but an objective whose weight is 0 is not trained.

    An objective whose gradient is zero is left out. The shortest vector would be that zero, and one objective without a
    signal in the batch would stop the training of all.
    """

    info = gradient_level(
        MgdaConfig, "the shortest combination of the gradients", "Desideri 2012; Sener & Koltun 2018, arXiv 1810.04650"
    )

    goes_by_weights = False
    leaves_out = True

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The weights of the shortest convex combination; the last ones where no trained objective has a gradient."""
        gram_MM = gradients.gram_MM
        index_S = (has_gradient(gram_MM) & (self.preference_M > 0)).nonzero()[:, 0]
        if not len(index_S):
            return self.last_weights_M, {}
        weights_M = gram_MM.new_zeros(len(gram_MM))
        weights_M[index_S] = min_norm_point(unit_scale(gram_MM[index_S][:, index_S]))
        return weights_M, {}
