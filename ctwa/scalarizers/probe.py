"""The probe method: weights that follow what each step is measured to have done to each objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import finite
from ctwa.covariance.probe import Progress, mean_rewards
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo
from ctwa.scalarizers.base import Estimate, Requirements, Scalarizer, weighted_advantages
from ctwa.scalarizers.per_objective import check_names
from ctwa.scalarizers.relative_controller import RelativeController, RelativeOptions

ProbeSource = Literal["backward", "minibatch", "held_out"]


class ProbeConfig(RelativeOptions):
    """The options of the probe method; docs/methods/probe.md says what each does.

    Attributes:
        signal: ``probe`` steers by the probe covariance; ``slope``, the control, by the difference of the mean rewards
            of the last two batches, which costs nothing and needs no source.
        source: the completions the probe is measured on. ``backward``: the next batch, under a copy of the previous
            weights. ``minibatch``: the last mini-batch of the same update. ``held_out``: prompts kept out of it.
        gate: an objective whose mean reward has reached this value has no deficit: one number, or numbers by name for
            some objectives; null for none. Meant for rewards in [0, 1].
    """

    type: Literal["probe"] = "probe"
    signal: Literal["probe", "slope"] = "probe"
    source: ProbeSource = "backward"
    gate: float | dict[str, float] | None = 0.95

    def idle(self) -> Mapping[str, str]:
        """The slope of the rewards has no source, and what has no gate needs no average for it."""
        idle = {"source": "signal=slope"} if self.signal == "slope" else {}
        return idle | ({"gate_tau": "no gate"} if self.gate in (None, {}) else {})


class Probe(Scalarizer):
    """Gives weight to the objectives that the last steps are measured to have moved least, or down.

    Args:
        config: the options.
        weights: the initial weights by name, all above 0.

    Raises:
        CtwaError: a weight is 0, or the gate names what is no objective.
    """

    info = MethodInfo(
        ProbeConfig,
        "raises the weight of what the last steps moved least",
        "this project",
        passes="1 forward, or none by minibatch",
        memory="1 copy of the weights",
    )
    STATE = (*(f"_controller.{each}" for each in RelativeController.STATE), "_previous_M")
    config: ProbeConfig

    def __init__(self, config: ProbeConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        if zero := [name for name in self.names if weights[name] == 0]:
            raise CtwaError(
                f"{zero} have the weight 0, which the method can never raise; write a small positive weight"
            )
        gates = config.gate if isinstance(config.gate, dict) else dict.fromkeys(self.names, config.gate)
        check_names("the method's gate", gates, weights)
        self._gated = tuple(name for name in self.names if gates.get(name) is not None)
        self.requirements = Requirements(probe=self.probe_source or "none")
        self._previous_M: list[Tensor] = []  # the last batch's mean rewards and their errors, where there was one
        solved_at = {name: math.inf if (gate := gates.get(name)) is None else gate for name in self.names}
        self._controller = RelativeController(config, self.by_name(weights), self.by_name(solved_at))

    @property
    def probe_source(self) -> ProbeSource | None:
        """What ``observe_probe`` is to be given; None where the slope of the rewards is the signal."""
        return self.config.source if self.config.signal == "probe" else None

    @property
    def weights(self) -> dict[str, float]:
        """The weights, with the sum of the initial ones."""
        return self._in_order(self._controller.weights_M)

    @property
    def in_units(self) -> dict[str, str]:
        """The gate."""
        return {"gate": "gate=null" if self.probe_source else ""} if self._gated else {}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """Those that have a gate; all, where the slope of their mean is the signal."""
        return self._gated if self.probe_source else self.names

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum."""
        return weighted_advantages(rollout, estimate, self.weights)

    def observe_probe(self, progress: Progress) -> dict[str, float]:
        """Learn from a probe measurement, as soon as there is one; set the weights of the next rollout.

        Returns:
            The measurement's own metrics (``Progress.metrics``) and ``probe/{ema,ema_error,relative_gain,deficit,
            weight,log_weight,num_held}/<name>``: what was not measured is left out. Nothing with ``signal: slope``.
        """
        if self.probe_source is None:
            return {}
        progress = progress.select(self.names)
        return progress.metrics() | self._step(progress.gain_M, progress.standard_error_M)

    def observe_update(self, update: Update) -> dict[str, float]:
        """Take in the batch's mean rewards: for the gate, and with ``signal: slope`` for the weights.

        Returns:
            ``probe/mean_reward/<name>``, the gate's moving average. With ``signal: slope`` also ``probe/slope/<name>``,
            ``probe/slope_error/<name>`` and, from the second batch on, the controller's metrics of ``observe_probe``.
        """
        rewards = update.rollout.rewards.select(self.names)
        mean_M, error_M = mean_rewards(rewards.rewards_NM, rewards.scored_NM, update.rollout.group_N)
        self._controller.observe_rewards(mean_M)
        metrics = self._metrics(mean_reward=self._controller.mean_reward_M)
        if self.config.signal == "slope":
            if self._previous_M:
                slope_M, slope_error_M = mean_M - self._previous_M[0], torch.hypot(error_M, self._previous_M[1])
                metrics |= self._metrics(slope=slope_M, slope_error=slope_error_M) | self._step(slope_M, slope_error_M)
                # What this batch says nothing of is compared with the last batch that did.
                is_new_M = mean_M.isfinite()
                mean_M, error_M = (
                    torch.where(is_new_M, new_M, old_M)
                    for new_M, old_M in zip((mean_M, error_M), self._previous_M, strict=True)
                )
            self._previous_M = [mean_M, error_M]
        return metrics

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
                for name, value in zip(self.names, values_M.tolist(), strict=True)
            }
        )
