"""CAID, constrained alignment by iterated dualization (arXiv 2505.19387): multipliers, labels, and when to stop.

The first multipliers are the one-shot ones (:mod:`ctwa.preference.dual`), and the policy trained with them is the
one-shot model. Every further iteration measures by how much that policy's own samples miss the thresholds, moves the
multipliers against it, and trains again, from the last policy and with the fixed reference, on the composite reward
``r + sum_j lambda_j g_j``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo
from ctwa.preference.dual import DualSolution, check_scores
from ctwa.state import Stateful
from ctwa.strict import StrictModel


class CaidConfig(StrictModel):
    """The options of CAID.

    Attributes:
        thresholds: by constraint, how much its mean score is to exceed the reference's, in the score's own units.
        beta: the price of divergence from the reference, of the dual and of DPO.
        iterations: policies trained at most, the one-shot one among them.
        eta: the step size of the multipliers, in units of multiplier per score. null takes ``damping`` over how fast
            the slack rises with the multipliers at the start: a damped Newton step.
        damping: of that step.
        stop_at: stop when every slack is within so many standard errors of 0.
        cap: the largest multiplier.
    """

    thresholds: Annotated[dict[str, float], Field(min_length=1)]
    beta: Annotated[float, Field(gt=0)] = 0.1
    iterations: Annotated[int, Field(ge=1)] = 4
    eta: Annotated[float, Field(gt=0)] | None = None
    damping: Annotated[float, Field(gt=0, le=1)] = 0.5
    stop_at: Annotated[float, Field(ge=0)] = 2.0
    cap: Annotated[float, Field(gt=0)] = 50.0

    def idle(self) -> Mapping[str, str]:
        """The multipliers move between iterations alone, by steps of one size."""
        if self.iterations == 1:
            return dict.fromkeys(("eta", "damping"), "iterations=1")
        return {} if self.eta is None else {"damping": "eta"}


CAID = MethodInfo(
    CaidConfig,
    "a reward under constraints on other scores, by iterated dualization",
    "arXiv 2505.19387",
    passes="sampling between policies",
)


@dataclass(frozen=True)
class Slack:
    """By how much a policy exceeds a threshold.

    Attributes:
        value: mean score of the policy less the reference's less the threshold; below 0 the constraint is violated.
        standard_error: of that, over prompts; the same prompts for both, so their difficulty cancels.
    """

    value: float
    standard_error: float


def measure_slack(policy_PS: Tensor, reference_PS: Tensor, threshold: float) -> Slack:
    """The slack of one constraint, from the scores of samples of both policies on the same prompts.

    Args:
        policy_PS: scores of the policy's samples, P prompts in the same order as the reference's.
        reference_PS: scores of the reference's samples; their number a prompt may be another.
        threshold: by how much the mean is to exceed the reference's.

    Raises:
        CtwaError: the prompts are not as many, fewer than two, or a score is not finite.
    """
    num_prompts = len(policy_PS)
    if num_prompts != len(reference_PS) or num_prompts < 2:
        raise CtwaError(
            f"there are {num_prompts} prompts with samples of the policy and {len(reference_PS)} with samples of the "
            "reference; score both on the same prompts, two or more"
        )
    policy_PS = check_scores("a constraint's score", policy_PS, policy_PS.shape)
    reference_PS = check_scores("a constraint's reference score", reference_PS, reference_PS.shape)
    change_P = policy_PS.mean(1) - reference_PS.mean(1)
    return Slack(float(change_P.mean()) - threshold, float(change_P.std()) / math.sqrt(num_prompts))


class Caid(Stateful):
    """The multipliers of CAID, iteration by iteration.

    ``start`` with the one-shot solution, train policy 0 with ``multipliers``; then, while not ``finished``, measure the
    last policy with ``observe`` and train the next one, if it is not ``finished`` now, with the new ``multipliers``.

    Attributes:
        multipliers: by constraint: what the composite reward is to be made with. None before the start.
        step_sizes: by constraint.
        num_policies: policies whose multipliers are known: trained, or to be trained now.
        converged: every slack was within its standard errors, or its constraint is met without a multiplier.
        history: for every policy measured, by constraint its multiplier, slack and standard error.
    """

    STATE = ("multipliers", "step_sizes", "num_policies", "converged", "history")

    def __init__(self, config: CaidConfig) -> None:
        self.config = config
        self.names = tuple(sorted(config.thresholds))
        self.multipliers: dict[str, float] | None = None
        self.step_sizes: dict[str, float] = {}
        self.num_policies = 0
        self.converged = False
        self.history: list[dict[str, dict[str, float]]] = []

    @property
    def finished(self) -> bool:
        """Whether the last policy measured is the result."""
        return self.converged or len(self.history) >= self.config.iterations

    @property
    def missed(self) -> dict[str, Slack]:
        """The constraints that the last policy measured misses by more than its standard errors."""
        slacks = {name: Slack(it["slack"], it["standard_error"]) for name, it in self.history[-1].items()}
        return {name: it for name, it in slacks.items() if it.value < -self.config.stop_at * it.standard_error}

    def start(self, solution: DualSolution) -> None:
        """Take over the one-shot multipliers, and the step sizes of the iterations.

        Raises:
            CtwaError: the solution is of other constraints, or a step size has to be written down, because no weights
                near the solution change the constraint's score.
        """
        if solution.multipliers.keys() != set(self.names):
            raise CtwaError(
                f"the one-shot solution is of {sorted(solution.multipliers)}, the thresholds of {list(self.names)}"
            )
        self.multipliers = {name: solution.multipliers[name] for name in self.names}
        self.num_policies = 1
        for name in self.names:
            if self.config.eta is None and solution.curvature[name] == 0:
                raise CtwaError(
                    f"the samples say nothing about how '{name}' follows its multiplier (each prompt's weights are on "
                    "samples of one score); draw more samples, raise beta, or write eta"
                )
            self.step_sizes[name] = self.config.eta or self.config.damping / solution.curvature[name]

    def observe(self, policy_PS: Mapping[str, Tensor], reference_PS: Mapping[str, Tensor]) -> dict[str, float]:
        """Measure the last policy, and where that does not finish the run move the multipliers: [lambda - eta u]_+.

        Args:
            policy_PS: scores of the last policy's samples on P prompts, by constraint.
            reference_PS: scores of the reference's samples on the same prompts, by constraint.

        Returns:
            What to report: by constraint the slack, its standard error and the next multiplier.

        Raises:
            CtwaError: scores of a constraint are missing, not finite, or not on the same prompts.
        """
        if self.multipliers is None or self.finished:
            raise RuntimeError("observe comes after start, and until the run is finished")
        if missing := set(self.names) - (policy_PS.keys() & reference_PS.keys()):
            raise CtwaError(f"no scores of {sorted(missing)}; score the samples of policy and reference with every one")
        slacks = {
            name: measure_slack(policy_PS[name], reference_PS[name], self.config.thresholds[name])
            for name in self.names
        }
        self.history.append(
            {
                name: {
                    "multiplier": self.multipliers[name],
                    "slack": slack.value,
                    "standard_error": slack.standard_error,
                }
                for name, slack in slacks.items()
            }
        )
        self.converged = all(
            abs(slack.value) <= self.config.stop_at * slack.standard_error
            or (slack.value > 0 and self.multipliers[name] == 0)
            for name, slack in slacks.items()
        )
        if not self.finished:
            self.multipliers = {
                name: next_multiplier(
                    self.multipliers[name], slacks[name].value, eta=self.step_sizes[name], cap=self.config.cap
                )
                for name in self.names
            }
            self.num_policies += 1
        metrics = {"caid/policies": float(self.num_policies), "caid/converged": float(self.converged)}
        for name, slack in slacks.items():
            metrics |= {
                f"caid/slack/{name}": slack.value,
                f"caid/slack_standard_error/{name}": slack.standard_error,
                f"caid/multiplier/{name}": self.multipliers[name],
            }
        return metrics

    def identity(self) -> dict[str, Any]:
        """Version, and what the multipliers were found for."""
        thresholds = {name: self.config.thresholds[name] for name in self.names}
        return {"version": 1, "thresholds": thresholds, "beta": self.config.beta}


def next_multiplier(multiplier: float, slack: float, *, eta: float, cap: float = math.inf) -> float:
    """One step of projected gradient descent on the dual, within [0, cap]."""
    return min(max(multiplier - eta * slack, 0.0), cap)


def composite_reward(reward: Tensor, scores: Mapping[str, Tensor], multipliers: Mapping[str, float]) -> Tensor:
    """``r + sum_j lambda_j g_j``, elementwise. A multiplier of 0 leaves the reward as it is, to the last bit.

    Raises:
        CtwaError: the scores of a constraint with a multiplier are missing.
    """
    total = reward
    for name, multiplier in sorted(multipliers.items()):
        if multiplier == 0:
            continue
        if name not in scores:
            raise CtwaError(f"no scores of '{name}', which has the multiplier {multiplier}")
        total = total + multiplier * scores[name]
    return total


def label_probability(first: Tensor, second: Tensor) -> Tensor:
    """The probability that the first response is preferred, by Bradley and Terry: sigma(first - second).

    The soft target of MoCAID's pairs, from composite rewards. Beta has no part in it: it is DPO's own.
    """
    return torch.sigmoid(first - second)


def implicit_reward(log_ratio: Tensor, beta: float, *, scale: Literal["paper", "published-code"] = "paper") -> Tensor:
    """The reward that a pre-aligned policy stands for: ``beta log(pi / reference)``, up to a constant of the prompt.

    PeCAID's r and g; thresholds are then in its units. ``published-code`` (of the one-shot paper) leaves out beta: its
    labels are 1 / beta times as sharp.
    """
    return log_ratio if scale == "published-code" else beta * log_ratio


def draw_pairs(num_prompts: int, num_samples: int, pairs_per_prompt: int, *, seed: int) -> Tensor:
    """Which samples to compare: int64 (num_prompts, pairs_per_prompt, 2), the pairs of a prompt all different.

    Raises:
        CtwaError: a prompt has not so many pairs.
    """
    num_possible = num_samples * (num_samples - 1) // 2
    if not 1 <= pairs_per_prompt <= num_possible:
        raise CtwaError(
            f"{num_samples} samples a prompt make {num_possible} pairs; {pairs_per_prompt} a prompt cannot be drawn"
        )
    generator = torch.Generator().manual_seed(seed)
    possible_X2 = torch.combinations(torch.arange(num_samples))
    drawn = torch.stack(
        [torch.randperm(num_possible, generator=generator)[:pairs_per_prompt] for _ in range(num_prompts)]
    )
    pairs_PQ2 = possible_X2[drawn]
    swap_PQ = torch.rand(drawn.shape, generator=generator) < 0.5
    return torch.where(swap_PQ[..., None], pairs_PQ2.flip(2), pairs_PQ2)
