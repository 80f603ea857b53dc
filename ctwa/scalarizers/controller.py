"""The controller of CTWA: covariances in, weights out. It knows neither rewards nor tokens.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.method_info import Options


class ControllerOptions(Options):
    """The options of the controller of CTWA.

    Attributes:
        eta: the step size of the log-weights; 0 is linear weighting.
        tau: the weight of a new observation in the moving average.
        ema_init: where the moving average starts. ``first``: at the first observation. ``debiased``: at 0, and what
            is read of it is divided by ``1 - (1 - tau)^t``. ``zero``: at 0, which makes deficits of objectives that
            have none.
        renormalize: keep the sum of the weights. ``auto`` does so exactly where the advantage estimator is not scale
            invariant, and must: there growing weights are a growing learning rate.
        weight_floor: the least weight, as a share of the largest. It bounds the weights in use, not their growth.
    """

    eta: Annotated[float, Field(ge=0)] = 0.05
    tau: Annotated[float, Field(gt=0, le=1)] = 0.1
    ema_init: Literal["first", "debiased", "zero"] = "first"
    renormalize: Literal["auto"] | bool = "auto"  # YAML reads on and off as booleans
    weight_floor: Annotated[float, Field(gt=0, lt=1)] | None = None

    def idle(self) -> Mapping[str, str]:
        """An average of the last observation alone has no start."""
        return {"ema_init": "tau=1"} if self.tau == 1 else {}


class WeightController:
    """Raises the weight of every objective whose smoothed covariance is below its target.

    With ``cbar`` the exponential moving average of the covariances: ``deficit = max(c* - cbar, 0)``,
    ``u += eta deficit``, ``lam = exp(u)``, from ``u = log lam_0``.

    What is kept is the growth ``u - log lam_0``, in float64: where it is 0 the weights are ``lam_0`` to the last bit.

    Args:
        options: the step size and the rest; ``renormalize: auto`` renormalises, which is right for every estimator.
        initial_M: lam_0, all above 0.
        targets_M: the covariance targets c*.

    Attributes:
        growth_M, average_M, num_observed_M, num_held_M: the state; ``average_M`` is the average before debiasing.
    """

    STATE: ClassVar[tuple[str, ...]] = ("growth_M", "average_M", "num_observed_M", "num_held_M")

    def __init__(self, options: ControllerOptions, initial_M: Tensor, targets_M: Tensor) -> None:
        self.options = options
        self.initial_M = initial_M.double()
        self.targets_M = targets_M.double()
        self.growth_M = torch.zeros_like(self.initial_M)
        self.average_M = torch.zeros_like(self.initial_M)
        self.num_observed_M = torch.zeros_like(self.initial_M, dtype=torch.int64)
        self.num_held_M = torch.zeros_like(self.num_observed_M)

    @property
    def renormalize(self) -> bool:
        """Whether the sum of the weights stays that of lam_0."""
        return self.options.renormalize is not False

    @property
    def log_weights_M(self) -> Tensor:
        """The log-weights u."""
        return self.initial_M.log() + self.growth_M

    @property
    def ema_M(self) -> Tensor:
        """The moving average of the covariances; NaN for an objective that was never observed."""
        ema_M = self.average_M
        if self.options.ema_init == "debiased":
            ema_M = ema_M / (1 - (1 - self.options.tau) ** self.num_observed_M.double())
        return torch.where(self.num_observed_M > 0, ema_M, math.nan)

    @property
    def relative_weights_M(self) -> Tensor:
        """The weights up to a factor that keeps them from overflowing; lam_0 itself while nothing has grown."""
        return self._floored(self.initial_M * (self.growth_M - self.growth_M.max()).exp())

    @property
    def weights_M(self) -> Tensor:
        """The weights lam: ``exp(u)``, or that scaled to the sum of lam_0; always finite."""
        if self.renormalize:
            weights_M = self.relative_weights_M
            return weights_M * (self.initial_M.sum() / weights_M.sum())
        weights_M = self._floored(self.initial_M * self.growth_M.exp())
        return weights_M.clamp(max=torch.finfo(torch.float64).max)

    def step(self, statistic_M: Tensor, active_M: Tensor | None = None) -> Tensor:
        """Take in one observation of the covariances and move the weights.

        Args:
            statistic_M: the covariances. An objective whose value is not finite was not observed: its average and its
                weight stay as they are, and ``num_held_M`` counts it.
            active_M: bool, False for objectives that must not gain weight now (the solved-objective gate).

        Returns:
            The deficits that moved the weights; 0 where an objective was not observed or not active.
        """
        observed_M = statistic_M.isfinite()
        tau_M = torch.full_like(self.average_M, self.options.tau)
        if self.options.ema_init == "first":
            tau_M = torch.where(self.num_observed_M == 0, 1.0, tau_M)
        average_M = (1 - tau_M) * self.average_M + tau_M * statistic_M
        self.average_M = torch.where(observed_M, average_M, self.average_M)
        self.num_observed_M = self.num_observed_M + observed_M
        self.num_held_M = self.num_held_M + ~observed_M
        moves_M = observed_M if active_M is None else observed_M & active_M
        deficit_M = torch.where(moves_M, (self.targets_M - self.ema_M).clamp(min=0), 0.0)
        self.growth_M = self.growth_M + self.options.eta * deficit_M
        return deficit_M

    def _floored(self, weights_M: Tensor) -> Tensor:
        floor = self.options.weight_floor
        return weights_M if floor is None else weights_M.clamp(min=floor * float(weights_M.max()))
