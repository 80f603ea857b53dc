"""GradNorm, gradient normalization (Chen et al. 2018, arXiv 1711.02257)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import has_gradient, norms, unit_scale
from ctwa.errors import CtwaError
from ctwa.method_info import Options

LOSS_FLOOR = 1e-3  # of the first losses: a loss that starts at 0 has no training rate
WEIGHT_FLOOR = 1e-3  # of weights whose mean is 1: one that reaches 0 would turn its gradient around


class GradNormConfig(Options):
    """The options of GradNorm. The defaults are those of the CTWA paper's baseline.

    Attributes:
        alpha: how strongly the objectives that train slowly are favoured; 0 asks for equal gradient norms, and no loss.
        eta: the step size of the weights.
        raw: step by the gradient norms as they are, as published. Otherwise each is divided by their mean, so that eta
            means the same whatever the scale of the gradients.
    """

    type: Literal["gradnorm"] = "gradnorm"
    alpha: Annotated[float, Field(ge=0)] = 1.5
    eta: Annotated[float, Field(ge=0)] = 0.025
    raw: bool = False

    def idle(self) -> Mapping[str, str]:
        """Weights that do not step go by no rates and no norms."""
        return dict.fromkeys(("alpha", "raw"), "eta=0") if self.eta == 0 else {}


class GradNorm(Aggregator):
    """Moves the weights so that the weighted gradient norms follow the objectives' training rates.

    With ``G_m = w_m ||g_m||`` and rel_m the objective's remaining share of its first loss over the mean share,
    ``w_m -= eta sign(G_m - mean(G) rel_m^alpha) ||g_m||``, then all are scaled to a sum of M. The update uses the new
    weights; they are handed out divided by M, so that a step is as long as under the other methods.

    An objective without a gradient has nothing to be compared by: its weight stays, and the others share theirs as they
    would without it.

    The losses must be positive and fall as an objective is learned: for a reward, its largest value minus its mean. (A
    policy-gradient loss is near 0 with either sign, and its ratios are noise.)

    Raises:
        CtwaError: a weight is 0; GradNorm would raise it.
    """

    info = gradient_level(GradNormConfig, "gradient norms follow training rates", "Chen et al. 2018, arXiv 1711.02257")
    needs_semi_definite = False  # it looks at norms alone
    STATE = ("first_losses_M",)

    def __init__(self, config: GradNormConfig, preference: Mapping[str, float]) -> None:
        super().__init__(config, preference)
        if zero := [name for name in self.names if preference[name] == 0]:
            raise CtwaError(
                f"{zero} have the weight 0, but GradNorm raises every weight that is too low for its gradient; "
                "write a positive weight, or leave the objective out"
            )
        self.first_losses_M = torch.full_like(self.preference_M, math.nan)

    @property
    def needs_losses(self) -> bool:  # type: ignore[override]
        """Whether the training rates play a part."""
        return self.config.alpha > 0

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The new weights, summing to 1."""
        gram_MM = gradients.gram_MM
        compared_M = has_gradient(gram_MM)
        index_S = compared_M.nonzero()[:, 0]
        rate_S = self._training_rates(gradients.losses_M, compared_M)[index_S]
        norms_S = norms(gram_MM if self.config.raw else unit_scale(gram_MM))[index_S]
        if not self.config.raw:
            norms_S = norms_S / norms_S.mean()
        mean = self.last_weights_M[index_S].mean()
        weights_S = self.last_weights_M[index_S] / mean
        weighted_S = weights_S * norms_S
        target_S = weighted_S.mean() * rate_S**self.config.alpha
        moved_S = (weights_S - self.config.eta * (weighted_S - target_S).sign() * norms_S).clamp(min=WEIGHT_FLOOR)
        columns = {"norm": weighted_S, "target": target_S} | ({"rate": rate_S} if self.needs_losses else {})
        metrics = {
            f"gradnorm/{key}/{self.names[m]}": value
            for key, values_S in columns.items()
            for m, value in zip(index_S.tolist(), values_S.tolist(), strict=True)
        }
        weights_M = self.last_weights_M.clone()
        weights_M[index_S] = moved_S / moved_S.mean() * mean
        return weights_M, metrics

    def _training_rates(self, losses_M: Tensor, compared_M: Tensor) -> Tensor:
        """Each objective's share of its first loss, over the mean share of the compared; 1 where it says nothing."""
        first_M = self.first_losses_M
        self.first_losses_M = torch.where(
            first_M.isnan() & losses_M.isfinite(), losses_M.clamp(min=LOSS_FLOOR), first_M
        )
        share_M = losses_M / self.first_losses_M
        counts_M = compared_M & share_M.isfinite() & (share_M >= 0)
        rate_M = share_M / share_M[counts_M].mean()
        return torch.where(rate_M.isfinite() & (rate_M > 0), rate_M, 1.0)
