"""The controller of the probe method: measured gains in, weights out. It knows neither rewards nor tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ctwa.method_info import Options


class RelativeOptions(Options):
    """The options of the controller of the probe method.

    Attributes:
        tau: the weight of a new measurement in the moving average.
        theta: the share of the largest gain below which an objective has a deficit.
        eta: the step size of the log-weights; 0 is linear weighting.
        kappa: the share of a log-weight's growth that leaks away each step: time constant 1 / kappa steps.
        clip: bound on the growth of a log-weight, up or down.
        gate_tau: the weight of a new batch in the moving average of the mean rewards.
        warmup: the number of measurements of an objective that are only averaged.
    """

    tau: Annotated[float, Field(gt=0, le=1)] = 0.1
    theta: Annotated[float, Field(ge=-1, le=1)] = 0.1
    eta: Annotated[float, Field(ge=0)] = 0.1
    kappa: Annotated[float, Field(ge=0, le=1)] = 0.03
    clip: Annotated[float, Field(gt=0)] = 1.2
    gate_tau: Annotated[float, Field(gt=0, le=1)] = 0.2
    warmup: Annotated[int, Field(ge=0)] = 3

    def unreached(self, num_steps: int) -> Iterator[str]:
        """A warm-up that does not end; the first measurement comes with the second step."""
        if self.warmup >= num_steps - 1:
            yield f"warmup={self.warmup}: the weights do not move in {num_steps} steps"


class RelativeController:
    """Raises the weight of every objective whose measured gain falls behind that of the one that moves most.

    With ``p`` the moving average of the gains and ``s`` its standard error, each step has

        relative gain  g = p / max(max_j |p_j|, mean_j s_j)        in [-1, 1]; near 0 while all is noise
        deficit        d = clip(theta - g, 0, 1), and 0 where the objective is solved
        growth         v = (1 - kappa) v + eta d                   then centred over objectives, clipped to +-clip

    and weights proportional to ``lam_0 exp(v)``. The leak kappa lets a weight return once its objective rises.

    What is kept is the growth, in float64: where it is 0 the weights are ``lam_0`` to the last bit.

    Args:
        options: tau, theta and the rest.
        initial_M: lam_0, all above 0.
        solved_at_M: the mean reward from which on an objective counts as solved; infinite for none.

    Attributes:
        growth_M: v.
        average_M, variance_M, num_measured_M: moving averages of gain and squared standard error, both before
            debiasing, and their length.
        reward_M, num_rewards_M: the same of the mean reward.
        num_held_M: measurements that did not say anything of this objective.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        *("growth_M", "average_M", "variance_M", "reward_M"),
        *("num_measured_M", "num_held_M", "num_rewards_M"),
    )

    def __init__(self, options: RelativeOptions, initial_M: Tensor, solved_at_M: Tensor) -> None:
        self.options = options
        self.initial_M = initial_M.double()
        self.solved_at_M = solved_at_M.double()
        zeros_M = torch.zeros_like(self.initial_M)
        self.growth_M, self.average_M, self.variance_M, self.reward_M = (zeros_M.clone() for _ in range(4))
        counts_M = torch.zeros_like(zeros_M, dtype=torch.int64)
        self.num_measured_M, self.num_held_M, self.num_rewards_M = (counts_M.clone() for _ in range(3))

    @property
    def ema_M(self) -> Tensor:
        """The moving average p of the gains; NaN for an objective that was never measured."""
        return self.average_M / self._debias(self.options.tau, self.num_measured_M)

    @property
    def standard_error_M(self) -> Tensor:
        """The standard error s of ``ema_M``, with measurements independent of one another; NaN where it is."""
        kept_M = (1 - self.options.tau) ** self.num_measured_M.double()
        # The weights of the moving average, squared and summed.
        factor_M = self.options.tau / (2 - self.options.tau) * (1 - kept_M.square()) / (1 - kept_M).square()
        return (self.variance_M / self._debias(self.options.tau, self.num_measured_M) * factor_M).sqrt()

    @property
    def mean_reward_M(self) -> Tensor:
        """The moving average of the mean rewards; NaN for an objective that was never scored."""
        return self.reward_M / self._debias(self.options.gate_tau, self.num_rewards_M)

    @property
    def solved_M(self) -> Tensor:
        """Bool, the objectives whose mean reward has reached the gate."""
        return self.mean_reward_M >= self.solved_at_M

    @property
    def relative_gain_M(self) -> Tensor:
        """The gains g in [-1, 1]; NaN for an objective that was never measured."""
        ema_M, measured_M = self.ema_M, self.num_measured_M > 0
        if not measured_M.any():
            return ema_M
        scale = max(float(ema_M[measured_M].abs().max()), float(self.standard_error_M[measured_M].mean()))
        return ema_M / scale if scale > 0 else ema_M  # all 0: nothing moved

    @property
    def log_weights_M(self) -> Tensor:
        """The log-weights u; ``weights_M`` is their softmax, scaled."""
        return self.initial_M.log() + self.growth_M

    @property
    def weights_M(self) -> Tensor:
        """The weights, with the sum of lam_0; lam_0 itself while nothing has grown."""
        weights_M = self.initial_M * self.growth_M.exp()
        return weights_M * (self.initial_M.sum() / weights_M.sum())

    def observe_rewards(self, mean_M: Tensor) -> None:
        """Take in the mean rewards of a batch; an objective whose value is not finite keeps its average."""
        observed_M = mean_M.isfinite()
        average_M = (1 - self.options.gate_tau) * self.reward_M + self.options.gate_tau * mean_M
        self.reward_M = torch.where(observed_M, average_M, self.reward_M)
        self.num_rewards_M = self.num_rewards_M + observed_M

    def step(self, gain_M: Tensor, standard_error_M: Tensor) -> Tensor:
        """Take in one measurement and move the weights.

        Args:
            gain_M: the measured gains.
            standard_error_M: their standard errors. An objective whose gain or error is not finite was not measured:
                its averages and its growth stay as they are, and ``num_held_M`` counts it.

        Returns:
            The deficits that moved the weights; 0 where an objective was not measured, is in its warm-up or solved.
        """
        measured_M = gain_M.isfinite() & standard_error_M.isfinite()
        average_M = (1 - self.options.tau) * self.average_M + self.options.tau * gain_M
        variance_M = (1 - self.options.tau) * self.variance_M + self.options.tau * standard_error_M.square()
        self.average_M = torch.where(measured_M, average_M, self.average_M)
        self.variance_M = torch.where(measured_M, variance_M, self.variance_M)
        self.num_measured_M = self.num_measured_M + measured_M
        self.num_held_M = self.num_held_M + ~measured_M

        options = self.options
        moves_M = measured_M & (self.num_measured_M > options.warmup)
        deficit_M = (options.theta - self.relative_gain_M).clamp(0, 1)
        deficit_M = torch.where(moves_M & ~self.solved_M, deficit_M, 0.0)
        growth_M = torch.where(moves_M, (1 - options.kappa) * self.growth_M + options.eta * deficit_M, self.growth_M)
        # Only what moves is shifted: an objective that was not measured keeps its place.
        growth_M = growth_M - torch.where(moves_M, growth_M.sum() / moves_M.sum().clamp(min=1), 0.0)
        self.growth_M = growth_M.clamp(-options.clip, options.clip)
        return deficit_M

    @staticmethod
    def _debias(tau: float, num_M: Tensor) -> Tensor:
        """What an average that started at 0 lacks after so many values; NaN before the first."""
        return torch.where(num_M > 0, 1 - (1 - tau) ** num_M.double(), math.nan)
