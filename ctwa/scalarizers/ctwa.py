"""CTWA, covariance-targeted weight adaptation (Lu & Jiang 2026, arXiv 2602.06869, section 5 and Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.arguments import check_kind, is_finite
from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import finite
from ctwa.covariance.feasibility import reward_covariance, target_feasibility
from ctwa.covariance.weights import LengthNormalization, completion_weights, update_weights
from ctwa.covariance.within_prompt import within_prompt_covariance
from ctwa.errors import CtwaError, shown
from ctwa.method_info import MethodInfo
from ctwa.scalarizers.base import Estimate, Requirements, Scalarizer, weighted_advantages
from ctwa.scalarizers.controller import ControllerOptions, WeightController
from ctwa.scalarizers.per_objective import check_names
from ctwa.solvers.fallbacks import count_fallbacks

_ROUNDING = 1e-12  # of a variance, to the mean square of the rewards


class CtwaConfig(ControllerOptions):
    """The options of CTWA. The defaults are the paper's; docs/methods/ctwa.md says when to leave them.

    Attributes:
        preset: ``published-code`` makes sure that the published code's solved-objective gate is on, which the paper
            does not have: ``gate_targets`` must then name every objective.
        gate_targets: an objective whose mean reward in the batch has reached this value gains no weight; by name, for
            some or all objectives.
        statistic: ``post_update`` measures under the updated policy, at the price of one more forward pass;
            ``in_update`` takes the log-probabilities that the update itself computed.
        measure: what is compared to the targets; ``correlation`` does not vanish as an objective saturates.
        ddof: 0 for the population covariance, 1 for the sample covariance (multiply the targets by K / (K - 1)).
        length: what the sum of a completion's token weights is divided by. ``mean``: its own number of tokens. ``sum``:
            1. ``max_length``: the padded length. ``mean_unclipped``: its number of tokens that were not clipped.
    """

    type: Literal["ctwa"] = "ctwa"
    preset: Literal["paper", "published-code"] = "paper"
    gate_targets: dict[str, float] | None = None
    statistic: Literal["post_update", "in_update"] = "post_update"
    measure: Literal["covariance", "correlation"] = "covariance"
    ddof: Literal[0, 1] = 0
    length: LengthNormalization = "mean"

    def idle(self) -> Mapping[str, str]:
        """In a correlation the degrees of freedom cancel."""
        return {**super().idle(), **({"ddof": "measure=correlation"} if self.measure == "correlation" else {})}

    def fitted(self, *, scale_invariant: bool) -> Self:
        """With ``auto`` decided. Raises CtwaError where renormalisation is off and the advantages need it."""
        if self.renormalize is False and not scale_invariant:
            raise CtwaError(
                "renormalize is off, but larger scores make other advantages (the estimator does not standardise, or a "
                "KL penalty is in the reward), so growing weights would act as a growing learning rate; write "
                "renormalize: auto, or use an estimator that standardises advantages, without such a penalty"
            )
        return self.model_copy(update={"renormalize": not scale_invariant}) if self.renormalize == "auto" else self

    @model_validator(mode="before")
    @classmethod
    def _targets_are_the_objectives(cls, options: Any) -> Any:
        if isinstance(options, Mapping) and "targets" in options:
            raise CtwaError(
                "a covariance target is its objective's and no option of the method: write ctwa.objectives.NAME.target "
                "in a configuration, and in Python build_scalarizer(..., targets={'NAME': 0.1, ...})"
            )
        return options


class CTWA(Scalarizer):
    """Raises the weight of the objectives whose covariance with the update is below their target.

    An objective improves, to first order, by its covariance with the clipped policy-gradient weight. CTWA measures
    that covariance after each update and gives weight to those that fall short, before they lose reward.

    Args:
        config: the options.
        weights: lam_0 by name, all above 0.
        targets: the covariance target c* of every objective, by name.

    Raises:
        CtwaError: targets and weights name different objectives, a target is not finite, or a weight is 0.
    """

    info = MethodInfo(
        CtwaConfig,
        "raises the weight of what the update's covariance leaves behind",
        "Lu & Jiang 2026, arXiv 2602.06869",
        passes="1 forward, or none in_update",
    )
    takes_targets = True
    STATE = tuple(f"_controller.{each}" for each in WeightController.STATE)
    config: CtwaConfig

    def __init__(self, config: CtwaConfig, weights: Mapping[str, float], *, targets: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        _check_targets(targets, weights)
        gates = config.gate_targets or {}
        check_names("gate_targets", gates, targets)
        if config.preset == "published-code" and gates.keys() != targets.keys():
            raise CtwaError(
                f"the preset 'published-code' gates every objective; add gate_targets with {list(targets)} "
                "(the published code has 1.0 for accuracy, 0.95 for the others) or write preset: paper"
            )
        if zero := [name for name in self.names if weights[name] == 0]:
            raise CtwaError(f"{zero} have the weight 0, which CTWA can never raise; write a small positive weight")
        self.requirements = Requirements(log_probs=config.statistic, token_weights=True)
        self._scale_invariant = False  # until there are advantages
        self._controller = WeightController(config, self.by_name(weights), self.by_name(targets))
        self._gates_M = self.by_name({name: gates.get(name, float("inf")) for name in self.names})

    @property
    def weights(self) -> dict[str, float]:
        """The weights lam: ``exp(u)`` as in the paper, or renormalised to the sum of the initial weights."""
        return self._in_order(self._controller.weights_M)

    @property
    def covariance_targets(self) -> dict[str, float]:
        """The targets, where it is the covariance that is compared to them."""
        return self.named(self._controller.targets_M) if self.config.measure == "covariance" else {}

    @property
    def mean_targets(self) -> dict[str, float]:
        """The gates."""
        return dict(self.config.gate_targets or {})

    @property
    def in_units(self) -> dict[str, str]:
        """The gates. (The covariance targets are, too, and covariances are of one batch.)"""
        return {"gate_targets": ""} if self.config.gate_targets else {}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """Those that have a gate."""
        return tuple(self.config.gate_targets or ())

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum, with the weights of the last ``observe_update``."""
        controller = self._controller
        # Without renormalisation only ratios matter, and exp(u) may be too large for the estimator's precision.
        weights_M = controller.weights_M if controller.renormalize else controller.relative_weights_M
        advantages_NT = weighted_advantages(rollout, estimate, self.named(weights_M))
        self._scale_invariant = estimate.scale_invariant
        return advantages_NT

    def observe_update(self, update: Update) -> dict[str, float]:
        """Measure the covariances of this update and set the weights of the next rollout.

        Returns:
            ``covariance/<name>`` (or ``ctwa/correlation/<name>``), ``weight/<name>``,
            ``ctwa/{ema,deficit,log_weight,target,num_held}/<name>``, the last being the number of updates so far in
            which the objective could not be observed, and, where advantages are scale invariant, ``ctwa/feasibility``:
            v*, above 1 where no weights can meet the targets. Without an observation, a metric is left out.
        """
        config, controller, rollout = self.config, self._controller, update.rollout
        rewards = rollout.rewards.select(self.names)
        if update.loss is None:
            raise CtwaError(
                "CTWA has to know how the loss weighs a token, and the loss of this update is None: pass the one "
                "that comes nearest, such as Vanilla()"
            )
        tokens = update_weights(update, update.loss)
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
            metrics |= {f"{key}/{name}": float(value) for name, value in self.named(values_M).items()}
        if self._scale_invariant:
            with count_fallbacks() as fallbacks:
                metrics[key_of.FEASIBILITY] = self._feasibility(rollout, solved_M=mean_M >= self._gates_M)
            metrics["ctwa/num_fallback"] = fallbacks.num
        return finite(metrics)

    def _feasibility(self, rollout: Rollout, *, solved_M: Tensor) -> float:
        """v* of the objectives that ask for something and that completions differ in.

        One that has reached its gate asks for nothing. One whose rewards are all alike has no covariance with any
        update, which is saturation and no conflict between targets.
        """
        rewards = rollout.rewards.select(self.names)
        covariance_MM = reward_covariance(rewards.rewards_NM, rewards.scored_NM, rollout.group_N, ddof=self.config.ddof)
        variance_M = covariance_MM.diagonal()
        square_M = rewards.rewards_NM.square().sum(0) / rewards.scored_NM.sum(0)
        taken_M = ~solved_M & ~(variance_M <= _ROUNDING * square_M)  # a NaN, which was not observed, stays
        covariance_MM = covariance_MM[taken_M][:, taken_M]
        if self.config.measure == "correlation":
            std_M = covariance_MM.diagonal().sqrt()
            covariance_MM = covariance_MM / (std_M[:, None] * std_M)
        return target_feasibility(covariance_MM, self._controller.targets_M[taken_M]).value if taken_M.any() else 0.0


def _check_targets(targets: Mapping[str, float], weights: Mapping[str, float]) -> None:
    """Refuse what is not a finite target of every objective."""
    check_kind("targets", targets, Mapping, "a number for each objective, by name")
    check_names("targets", targets, weights)
    if without := [name for name in weights if name not in targets]:
        raise CtwaError(
            f"ctwa wants a covariance target of every objective, and {', '.join(without)} "
            f"{'has' if len(without) == 1 else 'have'} none: write ctwa.objectives.{without[0]}.target in a "
            f"configuration, and in Python targets={{'{without[0]}': 0.1, ...}}. `ctwa suggest-targets` has "
            "them from a run with method=linear, which needs none"
        )
    for name, target in targets.items():
        if not is_finite(target):
            raise CtwaError(f"the covariance target of '{name}' is {shown(target)}; write a finite number")
