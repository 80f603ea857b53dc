"""Lagrangian primal-dual: one objective is maximised while the others are held at targets.

As in the baselines of CTWA (Lu & Jiang 2026, arXiv 2602.06869, appendix A.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout, Update, slack
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, objective_advantages
from ctwa.scalarizers.per_objective import batch_means, check_names, trained_objectives


class LagrangianConfig(Options):
    """The options of the Lagrangian method. The defaults are the paper's.

    Attributes:
        objective: the name of the objective that is maximised.
        targets: the mean reward that every other objective is to reach, by name; of one in ``at_least`` the share of
            completions.
        at_least: the reward from which a completion satisfies the objective, by name. Such an objective counts as 1
            where it is satisfied and as 0 elsewhere, so that its target is a rate (1 less the violation rate), as in
            Constrained GRPO (Girgis et al. 2026).
        one_sided: a reward above its target counts as the target in the advantages, so that more than enough earns
            nothing. The multipliers move by the rewards as they are. An objective in ``at_least`` stays as it is, for
            its target is no reward. LACONIC (Liu et al. 2026) and Leash (Li et al. 2025) charge for tokens beyond a
            budget so.
        eta: the step size of the multipliers, which begin at 0.
        cap: the most a multiplier may become; null for no cap, and then one whose target cannot be reached grows
            without end.
        normalize: divide the advantages by ``1 + the sum of the multipliers``, as PPO-Lagrangian of Safe RLHF
            (Dai et al. 2023) does, so that growing multipliers are no growing learning rate.
    """

    type: Literal["lagrangian"] = "lagrangian"
    objective: str
    targets: dict[str, float]
    at_least: dict[str, float] | None = None
    one_sided: bool = False
    eta: Annotated[float, Field(ge=0)] = 0.01
    cap: Annotated[float, Field(gt=0)] | None = None
    normalize: bool = False

    def idle(self) -> Mapping[str, str]:
        """Multipliers that do not grow need no bound; of what is satisfied or not, nothing is too much."""
        idle = {"cap": "eta=0"} if self.eta == 0 else {}
        every_rate = not self.targets.keys() - (self.at_least or {}).keys()
        return idle | ({"one_sided": "at_least for every target"} if every_rate else {})


class Lagrangian(Scalarizer):
    """The main objective's advantage plus each other's times its multiplier, which grows while its target is missed.

    The objectives' own weights play no part, except that one of weight 0 is neither maximised nor constrained.

    Raises:
        CtwaError: fewer than two objectives of weight above 0, ``objective`` and ``targets`` are not all of them, or
            ``at_least`` names one without a target or with a target that is no rate.
    """

    info = MethodInfo(
        LagrangianConfig, "one objective under constraints on the others", "primal-dual ascent", level="advantage"
    )
    goes_by_weights = False
    STATE = ("_multipliers", "_num_held")
    config: LagrangianConfig

    def __init__(self, config: LagrangianConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        trained = trained_objectives(weights)
        if len(trained) < 2:
            raise CtwaError(
                f"the method lagrangian needs an objective to maximise and at least one to hold at its target, got "
                f"{list(trained)} with a weight above 0; add an objective, or use method linear"
            )
        check_names("the method's objective", [config.objective], weights)
        check_names("the method's targets", config.targets, weights)
        self.names = tuple(sorted(config.targets))
        if sorted([config.objective, *self.names]) != list(trained):
            raise CtwaError(
                f"the method maximises '{config.objective}' and has targets for {list(self.names)}, but the objectives "
                f"with a weight above 0 are {list(trained)}; write one target for each of them except the maximised one"
            )
        self._at_least = config.at_least or {}
        if without := sorted(set(self._at_least) - set(config.targets)):
            raise CtwaError(f"the method's at_least names {without}, which have no target; write some of {self.names}")
        if no_rate := {name: config.targets[name] for name in self._at_least if not 0 <= config.targets[name] <= 1}:
            raise CtwaError(
                f"the method has the targets {no_rate} for objectives in at_least, whose targets are shares of "
                "completions; write a number from 0 to 1"
            )
        self._multipliers = dict.fromkeys(self.names, 0.0)
        self._num_held = dict.fromkeys(self.names, 0)
        self._growth = dict.fromkeys(self.names, 0.0)

    @property
    def weights(self) -> dict[str, float]:
        """1 for the main objective, the multipliers for the others; divided by their sum where ``normalize`` is on."""
        weights = dict.fromkeys(self.initial_weights, 0.0) | {self.config.objective: 1.0} | self._multipliers
        return {name: weight / self._divisor for name, weight in weights.items()}

    @property
    def mean_targets(self) -> dict[str, float]:
        """The targets that are no rates."""
        return {name: target for name, target in self.config.targets.items() if name not in self._at_least}

    @property
    def in_units(self) -> dict[str, str]:
        """The targets; of a rate, the reward that a completion has to reach."""
        return {"targets": ""}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """Those that have a target."""
        return self.names

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """Move the multipliers by the mean rewards of this rollout, then combine the objectives' advantages (N, T)."""
        rewards = self._satisfied(rollout.rewards)
        self._dual_step(batch_means(rewards, self.names))
        if self.config.one_sided:
            # Of a rate the target is a share of completions, which no completion's 1 is held against.
            rewards = _changed(
                rewards, {name: partial(torch.clamp, max=target) for name, target in self.mean_targets.items()}
            )
        rollout = replace(rollout, rewards=rewards)
        main_NT, *others_NT = objective_advantages(rollout, estimate, [self.config.objective, *self.names])
        total_NT = main_NT
        for name, advantages_NT in zip(self.names, others_NT, strict=True):
            total_NT = total_NT + self._multipliers[name] * advantages_NT
        return total_NT / self._divisor

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn: the multipliers moved before this update.

        Returns:
            ``lagrangian/{multiplier,growth,target,shortfall,capped,num_held}/<name>``: the multiplier, what this step
            added to it, the target and what the batch's mean lacked of it, whether the multiplier is at its cap (1)
            and the number of batches so far that could not move it. A batch without a scored entry has no shortfall.
        """
        means = batch_means(self._satisfied(update.rollout.rewards), self.names)
        metrics: dict[str, float] = {}
        for name in self.names:
            metrics |= {
                f"lagrangian/multiplier/{name}": self._multipliers[name],
                f"lagrangian/growth/{name}": self._growth[name],
                f"lagrangian/target/{name}": self.config.targets[name],
                f"lagrangian/capped/{name}": float(self._multipliers[name] == self.config.cap),
                f"lagrangian/num_held/{name}": float(self._num_held[name]),
            }
            if name in means:
                metrics[f"lagrangian/shortfall/{name}"] = self.config.targets[name] - means[name]
        return metrics

    def _read(self, state: Mapping[str, Any]) -> list[tuple[Any, str, Any]]:
        """The multipliers too. Raises CtwaError for a state of another method or objectives, or other targets."""
        read = super()._read(state)
        if sorted(state["multipliers"]) != list(self.names):
            raise CtwaError(
                f"the checkpoint has multipliers for {sorted(state['multipliers'])} but this run has targets for "
                f"{list(self.names)}; resume with the config the checkpoint was made with, or start a new run"
            )
        return read

    @property
    def _divisor(self) -> float:
        return 1.0 + sum(self._multipliers[name] for name in self.names) if self.config.normalize else 1.0

    def _satisfied(self, rewards: RewardMatrix) -> RewardMatrix:
        """The rewards, with 1 or 0 for whether a completion satisfies an objective of ``at_least``."""
        return _changed(
            rewards, {name: partial(torch.ge, other=least - slack(least)) for name, least in self._at_least.items()}
        )

    def _dual_step(self, means: Mapping[str, float]) -> None:
        """``lam = clamp(lam + eta (target - mean), 0, cap)``; a multiplier whose objective was not scored is held."""
        cap = float("inf") if self.config.cap is None else self.config.cap
        for name in self.names:
            before = self._multipliers[name]
            if name in means:
                after = before + self.config.eta * (self.config.targets[name] - means[name])
                self._multipliers[name] = min(max(after, 0.0), cap)
            else:
                self._num_held[name] += 1
            self._growth[name] = self._multipliers[name] - before


def _changed(rewards: RewardMatrix, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> RewardMatrix:
    """The rewards with some objectives' columns made into others."""
    rewards_NM = rewards.rewards_NM.clone()
    for name, change in changes.items():
        column = rewards.names.index(name)
        rewards_NM[:, column] = change(rewards_NM[:, column]).double()
    return replace(rewards, rewards_NM=rewards_NM)
