"""CTWA, covariance-targeted weight adaptation (Lu & Jiang 2026, arXiv 2602.06869, section 5 and Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import finite
from ctwa.covariance.feasibility import reward_covariance, target_feasibility
from ctwa.covariance.weights import LengthNormalization, completion_weights, token_weights
from ctwa.covariance.within_prompt import within_prompt_covariance
from ctwa.errors import CtwaError
from ctwa.scalarizers.base import Estimate, Requirements, Scalarizer, weighted_scores
from ctwa.scalarizers.controller import EmaInit, WeightController
from ctwa.solvers.fallbacks import count_fallbacks
from ctwa.strict import StrictModel


class CtwaConfig(StrictModel):
    """The options of CTWA. The defaults are the paper's; docs/methods.md says when to leave them.

    Attributes:
        preset: ``published-code`` makes sure that the published code's solved-objective gate is on, which the paper
            does not have: ``gate_targets`` must then name every objective.
        eta: the step size of the log-weights; 0 is linear weighting.
        tau: the weight of a new observation in the moving average.
        ema_init: where the moving average starts: ``first`` observation, ``debiased``, or ``zero``.
        renormalize: keep the sum of the weights. ``auto`` does so exactly where the advantage estimator is not scale
            invariant, and must: there growing weights are a growing learning rate.
        gate_targets: an objective whose mean reward in the batch has reached this value gains no weight; by name, for
            some or all objectives.
        statistic: ``post_update`` measures under the updated policy, at the price of one more forward pass;
            ``in_update`` takes the log-probabilities that the update itself computed.
        measure: what is compared to the targets; ``correlation`` does not vanish as an objective saturates.
        ddof: 0 for the population covariance, 1 for the sample covariance (multiply the targets by K / (K - 1)).
        length: what a completion's token weights are divided by; see ``completion_weights``.
        weight_floor: the least weight, as a share of the largest.
    """

    type: Literal["ctwa"] = "ctwa"
    preset: Literal["paper", "published-code"] = "paper"
    eta: Annotated[float, Field(ge=0)] = 0.05
    tau: Annotated[float, Field(gt=0, le=1)] = 0.1
    ema_init: EmaInit = "first"
    renormalize: Literal["auto"] | bool = "auto"  # YAML reads on and off as booleans
    gate_targets: dict[str, float] | None = None
    statistic: Literal["post_update", "in_update"] = "post_update"
    measure: Literal["covariance", "correlation"] = "covariance"
    ddof: Literal[0, 1] = 0
    length: LengthNormalization = "mean"
    weight_floor: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _targets_are_the_objectives(cls, options: Any) -> Any:
        if isinstance(options, Mapping) and "targets" in options:
            raise CtwaError("a covariance target is its objective's: write ctwa.objectives.NAME.target, and no targets")
        return options


class CTWA(Scalarizer):
    """Raises the weight of the objectives whose covariance with the update is below their target.

    An objective improves, to first order, by its covariance with the clipped policy-gradient weight. CTWA measures
    that covariance after each update and gives weight to those that fall short, before they lose reward.

    Args:
        config: the options.
        weights: lam_0 by name, all above 0.
        targets: the covariance target c* of every objective, by name.
        scale_invariant: whether the advantage estimator is (``Estimate.scale_invariant``).

    Raises:
        CtwaError: targets and weights name different objectives, a weight is 0, or renormalisation is off where the
            advantages need it.
    """

    method: ClassVar[str] = "ctwa"
    takes_targets: ClassVar[bool] = True

    def __init__(
        self, config: CtwaConfig, weights: Mapping[str, float], *, targets: Mapping[str, float], scale_invariant: bool
    ) -> None:
        super().__init__(weights)
        # All arithmetic is in alphabetical order: the order of the objectives in the config changes no bit.
        self._names = sorted(weights)
        if self._names != sorted(targets):
            raise CtwaError(
                f"CTWA wants a covariance target of every objective, and those of {sorted(targets)} are given where "
                f"the objectives are {self._names}: write ctwa.objectives.NAME.target for each"
            )
        gates = config.gate_targets or {}
        if unknown := sorted(gates.keys() - targets.keys()):
            raise CtwaError(f"gate_targets names {unknown}, which are not objectives; write some of {list(targets)}")
        if config.preset == "published-code" and gates.keys() != targets.keys():
            raise CtwaError(
                f"the preset 'published-code' gates every objective; add gate_targets with {list(targets)} "
                "(the published code has 1.0 for accuracy, 0.95 for the others) or write preset: paper"
            )
        if zero := [name for name in self._names if weights[name] == 0]:
            raise CtwaError(f"{zero} have the weight 0, which CTWA can never raise; write a small positive weight")
        if config.renormalize is False and not scale_invariant:
            raise CtwaError(
                "renormalize is off, but the advantage estimator is not scale invariant, so growing weights would act "
                "as a growing learning rate; write renormalize: auto, or use an estimator that standardises advantages"
            )
        self.config = config
        self.requirements = Requirements(log_probs=config.statistic)
        self._scale_invariant = scale_invariant
        self._controller = WeightController(
            self._by_name(weights),
            self._by_name(targets),
            eta=config.eta,
            tau=config.tau,
            ema_init=config.ema_init,
            renormalize=not scale_invariant if config.renormalize == "auto" else config.renormalize,
            floor=config.weight_floor,
        )
        self._gates_M = self._by_name({name: gates.get(name, float("inf")) for name in self._names})

    @property
    def weights(self) -> dict[str, float]:
        """The weights lam: ``exp(u)`` as in the paper, or renormalised to the sum of the initial weights."""
        weights = self._named(self._controller.weights_M)
        return {name: weights[name] for name in self.initial_weights}

    @property
    def covariance_targets(self) -> dict[str, float]:
        """The targets, where it is the covariance that is compared to them."""
        return self._named(self._controller.targets_M) if self.config.measure == "covariance" else {}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum, with the weights of the last ``observe``."""
        controller = self._controller
        # Without renormalisation only ratios matter, and exp(u) may be too large for the estimator's precision.
        weights_M = controller.weights_M if controller.renormalize else controller.relative_weights_M
        return estimate(weighted_scores(rollout, self._named(weights_M)))

    def observe(self, update: Update) -> dict[str, float]:
        """Measure the covariances of this update and set the weights of the next rollout.

        Returns:
            ``covariance/<name>`` (or ``ctwa/correlation/<name>``), ``weight/<name>``,
            ``ctwa/{ema,deficit,log_weight,target,num_held}/<name>``, the last being the number of updates so far in
            which the objective could not be observed, and, where advantages are scale invariant, ``ctwa/feasibility``:
            v*, above 1 where no weights can meet the targets. Without an observation, a metric is left out.
        """
        config, controller, rollout = self.config, self._controller, update.rollout
        rewards = rollout.rewards.select(self._names)
        tokens = token_weights(
            update.log_probs_new_NT,
            update.log_probs_old_NT,
            update.advantages_NT,
            rollout.mask_NT,
            update.clip,
            rollout.correction_NT,
        )
        completions = completion_weights(tokens, config.length)
        statistic_M = within_prompt_covariance(
            rewards.rewards_NM,
            completions.weight_N[:, None],
            rewards.scored_NM & completions.valid_N[:, None],
            rollout.group_N,
            ddof=config.ddof,
            correlation=config.measure == "correlation",
        ).mean_D
        mean_M = rewards.rewards_NM.sum(0) / rewards.scored_NM.sum(0)
        deficit_M = controller.step(statistic_M, active_M=mean_M < self._gates_M)
        metrics: dict[str, float] = {}
        for key, values_M in {
            "covariance" if config.measure == "covariance" else "ctwa/correlation": statistic_M,
            "ctwa/ema": controller.ema_M,
            "ctwa/deficit": deficit_M,
            "weight": controller.weights_M,
            "ctwa/log_weight": controller.log_weights_M,
            "ctwa/target": controller.targets_M,
            "ctwa/num_held": controller.num_held_M,
        }.items():
            metrics |= {f"{key}/{name}": float(value) for name, value in self._named(values_M).items()}
        if self._scale_invariant:
            with count_fallbacks() as fallbacks:
                metrics[key_of.FEASIBILITY] = self._feasibility(rollout)
            metrics["ctwa/num_fallback"] = fallbacks.num
        return finite(metrics)

    def state_dict(self) -> dict[str, Any]:
        """The controller's state: log-weights relative to the initial weights, and the moving averages, by name."""
        controller = self._controller
        return super().state_dict() | {
            "growth": self._named(controller.growth_M),
            "average": self._named(controller.average_M),
            "num_observed": self._named(controller.num_observed_M),
            "num_held": self._named(controller.num_held_M),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the controller to the last bit. Raises CtwaError for a state of another method or objectives."""
        super().load_state_dict(state)
        controller = self._controller
        controller.growth_M = self._by_name(state["growth"])
        controller.average_M = self._by_name(state["average"])
        controller.num_observed_M = self._by_name(state["num_observed"], torch.int64)
        controller.num_held_M = self._by_name(state["num_held"], torch.int64)

    def _feasibility(self, rollout: Rollout) -> float:
        rewards = rollout.rewards.select(self._names)
        covariance_MM = reward_covariance(rewards.rewards_NM, rewards.scored_NM, rollout.group_N, ddof=self.config.ddof)
        if self.config.measure == "correlation":
            std_M = covariance_MM.diagonal().clamp(min=1e-12).sqrt()
            covariance_MM = covariance_MM / (std_M[:, None] * std_M)
        return target_feasibility(covariance_MM, self._controller.targets_M).value

    def _by_name(self, values: Mapping[str, float], dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor([values[name] for name in self._names], dtype=dtype)

    def _named(self, values_M: Tensor) -> dict[str, Any]:
        return dict(zip(self._names, values_M.tolist(), strict=True))
