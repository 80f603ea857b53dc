"""Measuring on the engine what each step did to each objective: where a probe's completions and log-probs come from.

``backward``: the next batch, under a copy (in main memory) of the weights before the update: one forward pass.
``minibatch``: the last mini-batch of an update, with the log-probs of its own forward pass, under the policy that the
others left: nothing.
``held_out``: prompts whose advantages are 0, with the pass after the update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import Rollout, Update
from ctwa.covariance.probe import Agreement, Progress, backward_probe, forward_probe
from ctwa.engine.settings import ProbeSource, Settings
from ctwa.gradients.store import local_part
from ctwa.scalarizers.base import Scalarizer
from ctwa.state import Stateful


class ProbeMeter(Stateful):
    """The probe of a run: what it measures, and how often CTWA's covariance agreed with it.

    Args:
        source: where measurements come from; ``none`` for no probe.
        names: the objectives.
        num_seen_prompts: how many of a step's prompts come before its last mini-batch.
        num_held_out: the prompts held out of an update, the last of the step.

    Attributes:
        has_weights: whether the workers hold a copy of the weights before the last update, and that was made whole.
    """

    STATE = ("has_weights", "_agreement", "_covariance")  # the copy of the weights is the workers'

    def __init__(
        self, source: ProbeSource, names: tuple[str, ...], *, num_seen_prompts: int, num_held_out: int
    ) -> None:
        self.source = source
        self.has_weights = False
        self._names = tuple(sorted(names))
        self._num_seen_prompts = num_seen_prompts
        self._num_held_out = num_held_out
        self._agreement = Agreement(self._names)
        self._covariance: dict[str, float] = {}

    def held_out(self, rollout: Rollout) -> Tensor:
        """Bool (N,): the completions that no advantage may reach."""
        if self.source != "held_out":
            return torch.zeros_like(rollout.group_N, dtype=torch.bool)
        return rollout.group_N > int(rollout.group_N.max()) - self._num_held_out

    def backward(self, rollout: Rollout, log_probs_now_NT: Tensor, log_probs_before_NT: Tensor) -> Progress:
        """What the last step did, on this step's completions."""
        rewards = rollout.rewards.select(self._names)
        return backward_probe(
            rewards.rewards_NM,
            rewards.scored_NM,
            log_probs_now_NT,
            log_probs_before_NT,
            rollout.mask_NT,
            rollout.group_N,
            names=self._names,
        )

    def forward(self, update: Update) -> Progress | None:
        """What this step (``minibatch``: all of it but the last mini-batch) did; None where the source is another."""
        rollout = update.rollout
        if self.source == "held_out":
            rows_N = self.held_out(rollout)
        elif self.source == "minibatch":
            rows_N = rollout.group_N >= self._num_seen_prompts
        else:
            return None
        rewards = rollout.rewards.select(self._names)
        return forward_probe(
            rewards.rewards_NM,
            rewards.scored_NM,
            update.log_probs_new_NT,
            update.log_probs_old_NT,
            rollout.mask_NT,
            rollout.group_N,
            names=self._names,
            rows_N=rows_N,
        )

    def step_covariance(self, metrics: Mapping[str, Any]) -> None:
        """Remember the covariances of the step, to be compared with what the probe says of it."""
        found = {name: metrics.get(key_of.covariance(name)) for name in self._names}
        self._covariance = {name: value for name, value in found.items() if value is not None}

    def metrics(self, progress: Progress) -> dict[str, float]:
        """``probe/{gain,standard_error,agreement}/<name>`` and the rest of ``Progress.metrics``."""
        return progress.metrics() | self._agreement.observe(self._covariance, progress)


def build_probe(config: DictConfig, settings: Settings, scalarizer: Scalarizer) -> ProbeMeter:
    """The probe that a method or the diagnostics ask for.

    Args:
        config: verl's part of the settings, for the sizes of a step.
        settings: ours.
        scalarizer: the method.
    """
    return ProbeMeter(
        settings.probe_source(scalarizer.requirements),
        tuple(settings.trained),
        num_seen_prompts=config.data.train_batch_size - config.actor_rollout_ref.actor.ppo_mini_batch_size,
        num_held_out=settings.diagnostics.held_out_prompts,
    )


class PreviousWeights:
    """A copy of this rank's shards of what is trained, as they were before the last update.

    Args:
        parameters: what the optimizer holds; their shards may move between devices.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self.copies: list[Tensor] = []
        """In main memory; empty before the first ``keep``."""

    def keep(self) -> None:
        """Copy the weights as they are."""
        if not self.copies:
            self.copies = [torch.empty_like(_shard(parameter), device="cpu") for parameter in self._parameters]
        for copy, parameter in zip(self.copies, self._parameters, strict=True):
            copy.copy_(_shard(parameter))

    def swap(self) -> None:
        """Exchange the weights with their copy; twice is as if nothing had been."""
        for copy, parameter in zip(self.copies, self._parameters, strict=True):
            shard = _shard(parameter)
            current = shard.to("cpu", copy=True)
            shard.copy_(copy)
            copy.copy_(current)


def _shard(parameter: torch.nn.Parameter) -> Tensor:
    return local_part(parameter).detach()
