"""The probe method: weights that follow what each step is measured to have done to each objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import finite
from ctwa.covariance.probe import Progress, mean_rewards
from ctwa.errors import CtwaError
from ctwa.scalarizers.base import Estimate, Requirements, Scalarizer, weighted_scores
from ctwa.scalarizers.relative_controller import RelativeController
from ctwa.strict import StrictModel

ProbeSource = Literal["backward", "minibatch", "held_out"]


class ProbeConfig(StrictModel):
    """The options of the probe method; docs/methods.md says what each does.

    Attributes:
        signal: ``probe`` steers by the probe covariance; ``slope``, the control, by the difference of the mean rewards
            of the last two batches, which costs nothing and needs no source.
        source: the completions the probe is measured on. ``backward``: the next batch, under a copy of the previous
            weights. ``minibatch``: the last mini-batch of the same update. ``held_out``: prompts kept out of it.
        tau: the weight of a new measurement in the moving average.
        theta: the share of the largest gain below which an objective has a deficit.
        eta: the step size of the log-weights; 0 is linear weighting.
        kappa: the share of a log-weight's growth that leaks away each step: time constant 1 / kappa steps.
        clip: bound on the growth of a log-weight.
        gate: an objective whose mean reward has reached this value has no deficit: one number, or numbers by name for
            some objectives; null for none. Meant for rewards in [0, 1].
        gate_tau: the weight of a new batch in the gate's moving average.
        warmup: the number of measurements that are only averaged.
    """

    type: Literal["probe"] = "probe"
    signal: Literal["probe", "slope"] = "probe"
    source: ProbeSource = "backward"
    tau: Annotated[float, Field(gt=0, le=1)] = 0.1
    theta: Annotated[float, Field(ge=-1, le=1)] = 0.1
    eta: Annotated[float, Field(ge=0)] = 0.1
    kappa: Annotated[float, Field(ge=0, le=1)] = 0.03
    clip: Annotated[float, Field(gt=0)] = 1.2
    gate: float | dict[str, float] | None = 0.95
    gate_tau: Annotated[float, Field(gt=0, le=1)] = 0.2
    warmup: Annotated[int, Field(ge=0)] = 3


class Probe(Scalarizer):
    """Gives weight to the objectives that the last steps are measured to have moved least, or down.

    Args:
        config: the options.
        weights: the initial weights by name, all above 0.
        scale_invariant: of no account: the sum of the weights never changes.

    Raises:
        CtwaError: a weight is 0, or the gate names what is no objective.
    """

    method: ClassVar[str] = "probe"

    def __init__(self, config: ProbeConfig, weights: Mapping[str, float], *, scale_invariant: bool) -> None:
        del scale_invariant  # every method is built alike
        super().__init__(weights)
        # All arithmetic is in alphabetical order: the order of the objectives in the config changes no bit.
        self._names = sorted(weights)
        if zero := [name for name in self._names if weights[name] == 0]:
            raise CtwaError(
                f"{zero} have the weight 0, which the method can never raise; write a small positive weight"
            )
        gates = config.gate if isinstance(config.gate, dict) else dict.fromkeys(self._names, config.gate)
        if unknown := sorted(gates.keys() - set(self._names)):
            raise CtwaError(f"the method's gate names {unknown}, which are not objectives; write some of {self._names}")
        self.config = config
        self.requirements = Requirements(probe=self.probe_source or "none")
        self._previous: tuple[Tensor, Tensor] | None = None  # the last batch's mean rewards and their errors
        solved_at = {name: math.inf if (gate := gates.get(name)) is None else gate for name in self._names}
        self._controller = RelativeController(
            self._by_name(weights),
            self._by_name(solved_at),
            **config.model_dump(include={"tau", "theta", "eta", "kappa", "clip", "warmup", "gate_tau"}),
        )

    @property
    def probe_source(self) -> ProbeSource | None:
        """What ``measured`` is to be given; None where the slope of the rewards is the signal."""
        return self.config.source if self.config.signal == "probe" else None

    @property
    def weights(self) -> dict[str, float]:
        """The weights, with the sum of the initial ones."""
        weights = self._named(self._controller.weights_M)
        return {name: weights[name] for name in self.initial_weights}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum."""
        return estimate(weighted_scores(rollout, self.weights))

    def measured(self, progress: Progress) -> dict[str, float]:
        """Learn from a probe measurement, as soon as there is one; set the weights of the next rollout.

        Returns:
            The measurement's own metrics (``Progress.metrics``) and ``probe/{ema,ema_error,relative_gain,deficit,
            weight,log_weight,num_held}/<name>``: what was not measured is left out. Nothing with ``signal: slope``.
        """
        if self.probe_source is None:
            return {}
        progress = progress.select(self._names)
        return progress.metrics() | self._step(progress.gain_M, progress.standard_error_M)

    def observe(self, update: Update) -> dict[str, float]:
        """Take in the batch's mean rewards: for the gate, and with ``signal: slope`` for the weights.

        Returns:
            ``probe/mean_reward/<name>``, the gate's moving average. With ``signal: slope`` also ``probe/slope/<name>``,
            ``probe/slope_error/<name>`` and, from the second batch on, what ``measured`` returns of the controller.
        """
        rewards = update.rollout.rewards.select(self._names)
        mean_M, error_M = mean_rewards(rewards.rewards_NM, rewards.scored_NM, update.rollout.group_N)
        self._controller.observe_rewards(mean_M)
        metrics = self._metrics(mean_reward=self._controller.mean_reward_M)
        if self.config.signal == "slope":
            if self._previous is not None:
                slope_M, slope_error_M = mean_M - self._previous[0], torch.hypot(error_M, self._previous[1])
                metrics |= self._metrics(slope=slope_M, slope_error=slope_error_M) | self._step(slope_M, slope_error_M)
            self._previous = mean_M, error_M
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The controller's state and the last batch's mean rewards, by name; None for what was not observed."""
        controller = self._controller
        return super().state_dict() | {
            "growth": self._named(controller.growth_M),
            "average": self._named(controller.average_M),
            "variance": self._named(controller.variance_M),
            "reward": self._named(controller.reward_M),
            "num_measured": self._named(controller.num_measured_M),
            "num_held": self._named(controller.num_held_M),
            "num_rewards": self._named(controller.num_rewards_M),
            "previous": [self._named(values_M) for values_M in self._previous or ()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it to the last bit. Raises CtwaError for a state of another method or objectives."""
        super().load_state_dict(state)
        controller = self._controller
        controller.growth_M = self._by_name(state["growth"])
        controller.average_M = self._by_name(state["average"])
        controller.variance_M = self._by_name(state["variance"])
        controller.reward_M = self._by_name(state["reward"])
        controller.num_measured_M = self._by_name(state["num_measured"], torch.int64)
        controller.num_held_M = self._by_name(state["num_held"], torch.int64)
        controller.num_rewards_M = self._by_name(state["num_rewards"], torch.int64)
        previous = [self._by_name(values) for values in state["previous"]]
        self._previous = (previous[0], previous[1]) if previous else None

    def _step(self, gain_M: Tensor, standard_error_M: Tensor) -> dict[str, float]:
        controller = self._controller
        deficit_M = controller.step(gain_M, standard_error_M)
        return self._metrics(
            ema=controller.ema_M,
            ema_error=controller.standard_error_M,
            relative_gain=controller.relative_gain_M,
            deficit=deficit_M,
            weight=controller.weights_M,
            log_weight=controller.log_weights_M,
            num_held=controller.num_held_M,
        )

    def _metrics(self, **columns: Tensor) -> dict[str, float]:
        return finite(
            {
                f"probe/{key}/{name}": float(value)
                for key, values_M in columns.items()
                for name, value in zip(self._names, values_M.tolist(), strict=True)
            }
        )

    def _by_name(self, values: Mapping[str, Any], dtype: torch.dtype = torch.float64) -> Tensor:
        values_M = [math.nan if (value := values[name]) is None else value for name in self._names]
        return torch.tensor(values_M, dtype=dtype)

    def _named(self, values_M: Tensor) -> dict[str, Any]:
        values = [None if isinstance(value, float) and math.isnan(value) else value for value in values_M.tolist()]
        return dict(zip(self._names, values, strict=True))
