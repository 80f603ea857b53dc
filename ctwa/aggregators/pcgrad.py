"""PCGrad, projecting conflicting gradients (Yu et al. 2020, arXiv 2001.06782)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import unit_scale
from ctwa.errors import CtwaError
from ctwa.method_info import Options

MOST_AVERAGED = 8  # objectives: 8 times 7! orders take a tenth of a second


class PcGradConfig(Options):
    """The options of PCGrad.

    Attributes:
        order: ``average`` takes the mean over all orders in which a gradient can be projected, ``random`` draws one
            for each gradient in each step, as published.
        seed: of the drawn orders.
    """

    type: Literal["pcgrad"] = "pcgrad"
    order: Literal["average", "random"] = "average"
    seed: Annotated[int, Field(ge=0)] = 0

    def idle(self) -> Mapping[str, str]:
        """The mean over all orders draws none."""
        return {"seed": "order=average"} if self.order == "average" else {}


class PCGrad(Aggregator):
    """Every gradient loses, one after the other, its components against the gradients it conflicts with.

    With x starting at g_m: for every other j in turn, where ``<x, g_j> < 0``, ``x -= <x, g_j> / ||g_j||^2 g_j``. The
    preference weighs the results, so without conflicts the method is linear. For two objectives the result harms
    neither; for more it may, because a later projection can undo an earlier one.

    The result depends on the order. The mean over all orders is the expectation of the published method: it has no
    noise of its own, nothing to save, and does not depend on how the objectives are called.

    Raises:
        CtwaError: there are too many objectives to average over all orders.
    """

    info = gradient_level(
        PcGradConfig, "takes conflicting components out, pair by pair", "Yu et al. 2020, arXiv 2001.06782"
    )
    STATE = ("num_drawn",)  # the next draw depends on the seed and on it alone

    def __init__(self, config: PcGradConfig, preference: Mapping[str, float]) -> None:
        super().__init__(config, preference)
        if config.order == "average" and len(self.names) > MOST_AVERAGED:
            raise CtwaError(
                f"pcgrad cannot average over all orders of {len(self.names)} objectives, {MOST_AVERAGED} is the most; "
                "write order: random"
            )
        self.num_drawn = 0

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the projected gradients, as weights of the gradients."""
        gram_MM = unit_scale(gradients.gram_MM)
        generator = np.random.default_rng([self.config.seed, self.num_drawn])
        weights_M = torch.zeros_like(self.preference_M)
        for objective, preference in enumerate(self.preference_M):
            others = [other for other in range(len(gram_MM)) if other != objective]
            if self.config.order == "average":
                order_PJ = torch.tensor(list(permutations(others)), dtype=torch.int64)
            else:
                order_PJ = torch.from_numpy(generator.permutation(np.array(others, dtype=np.int64)))[None]
            weights_M += preference * projected(gram_MM, objective, order_PJ).mean(0)
        self.num_drawn += self.config.order == "random"
        return weights_M, {}


def projected(gram_MM: Tensor, objective: int, order_PJ: Tensor) -> Tensor:
    """One gradient after its projections in each of P orders, as weights of the gradients: float64 (P, M)."""
    weights_PM = gram_MM.new_zeros(len(order_PJ), len(gram_MM))
    weights_PM[:, objective] = 1
    rows_P = torch.arange(len(order_PJ))
    for other_P in order_PJ.T:
        inner_P = (weights_PM * gram_MM[other_P]).sum(1)
        squared_P = gram_MM.diagonal()[other_P]
        conflict_P = (inner_P < 0) & (squared_P > 0)
        weights_PM[rows_P, other_P] -= torch.where(conflict_P, inner_P / squared_P, 0.0)
    return weights_PM
