"""Constrained alignment in one shot: the multipliers of the constraints, from samples of the reference policy alone.

Among all policies, not only those of a model, the one that maximises ``E r - beta KL(pi || reference)`` while each
constraint's score g_j rises over the reference's mean by its threshold b_j is a tilt of the reference,
``pi = reference * exp((r + sum_j lambda_j g_j) / beta) / Z``. Its multipliers minimise the convex dual

    D(lambda) = beta E_x log E_{y ~ reference} exp((r + lambda'g) / beta) - lambda'(mean g + b),    lambda >= 0

whose gradient is the slack of the constraints, ``u_j = E_pi g_j - mean g_j - b_j`` (Huang et al. 2024, one-shot safety
alignment; it starts CAID, arXiv 2505.19387). Here the expectations are over P prompts with S samples each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, hstack
from torch import Tensor

from ctwa.errors import CtwaError
from ctwa.solvers.programmes import linear_programme

MOST_STEPS = 100  # of Newton: some ten are usual
MOST_HALVINGS = 60
CONVERGED = 1e-9  # slack over the range of the score
EXACT = 1e-15
COOLING = 3.0  # by which beta is lowered at a time
SUFFICIENT = 1e-4  # share of the decrease that the slope promises


class InfeasibleError(CtwaError):
    """Thresholds that no reweighting of the samples reaches, or none with multipliers within the cap.

    Attributes:
        largest: for each constraint that cannot be met the threshold below which it can, the others as they are;
            NaN where it cannot, because the others cannot be met either.
    """

    def __init__(self, message: str, largest: Mapping[str, float]) -> None:
        super().__init__(message)
        self.largest = dict(largest)


@dataclass(frozen=True)
class DualSolution:
    """The multipliers, and what the tilted reference that they belong to would do.

    Attributes:
        multipliers: by constraint.
        value: of the dual; also that of the primal, ``reward - beta * kl`` at the tilted policy.
        slack: by constraint: the predicted rise of its score less the threshold; 0 where the multiplier is positive.
        curvature: by constraint, the sum of the absolute second derivatives in its row: how fast the slack rises with
            the multipliers, at most.
        reward: predicted mean reward.
        reward_change: that less the reference's.
        score_changes: by constraint, the predicted rise of its score.
        kl: mean divergence of the tilted policy from the reference.
        effective_samples_P: of every prompt, how many samples the tilted weights amount to, between 1 and S. Near 1
            the tilt is the best of S samples, and multipliers and predictions are those of S, not of the policy.
    """

    multipliers: dict[str, float]
    value: float
    slack: dict[str, float]
    curvature: dict[str, float]
    reward: float
    reward_change: float
    score_changes: dict[str, float]
    kl: float
    effective_samples_P: Tensor

    def metrics(self) -> dict[str, float]:
        """What to report, by constraint."""
        by_name = {"multiplier": self.multipliers, "slack": self.slack, "predicted_change": self.score_changes}
        metrics = {f"dual/{key}/{name}": value for key, values in by_name.items() for name, value in values.items()}
        return metrics | {
            "dual/value": self.value,
            "dual/predicted_reward_change": self.reward_change,
            "dual/predicted_kl": self.kl,
            "dual/effective_samples": float(self.effective_samples_P.mean()),
            "dual/effective_samples_lowest": float(self.effective_samples_P.amin()),
        }


class Dual:
    """The dual function on samples of the reference.

    Args:
        rewards_PS: the reward r of S responses to each of P prompts, drawn from the reference.
        scores_PS: the constraints' scores g of the same responses, by name; larger is better.
        thresholds: by how much each score's mean is to exceed the reference's, by name, in the score's own units.
        beta: the price of divergence from the reference, in units of the reward.

    Attributes:
        names: the constraints, in alphabetical order: that of every vector and matrix here.
        reference_mean_C: the reference's mean scores.

    Raises:
        CtwaError: scores and thresholds are not of the same constraints, or of another shape than the rewards; a value
            is not finite; beta is not positive.
    """

    def __init__(
        self, rewards_PS: Tensor, scores_PS: Mapping[str, Tensor], thresholds: Mapping[str, float], *, beta: float
    ) -> None:
        if not 0 < beta < math.inf:
            raise CtwaError(f"beta is {beta}; write a positive number")
        if not thresholds or scores_PS.keys() != thresholds.keys():
            raise CtwaError(
                f"there are scores of {sorted(scores_PS)} and thresholds of {sorted(thresholds)}; give both for every "
                "constraint, and at least one"
            )
        self.beta = beta
        self.names = tuple(sorted(thresholds))
        self.rewards_PS = check_scores("the reward", rewards_PS, rewards_PS.shape)
        scores_PS = {name: check_scores(name, each_PS, rewards_PS.shape) for name, each_PS in scores_PS.items()}
        if infinite := [name for name in self.names if not math.isfinite(thresholds[name])]:
            raise CtwaError(f"the thresholds of {infinite} are not finite; write numbers")
        self.scores_PSC = torch.stack([scores_PS[name] for name in self.names], 2)
        self.thresholds_C = torch.tensor([thresholds[name] for name in self.names], dtype=torch.float64)
        self.reference_mean_C = self.scores_PSC.mean((0, 1))
        # Constants of a prompt change nothing; without them large scores lose no digits.
        self._centred_PSC = self.scores_PSC - self.scores_PSC.mean(1, keepdim=True)
        self._scale_C = self._centred_PSC.abs().amax((0, 1)) + self.thresholds_C.abs()

    def value(self, multipliers_C: Tensor) -> float:
        """D."""
        free_energy_P = torch.logsumexp(self._logits_PS(multipliers_C), 1) - math.log(self.rewards_PS.shape[1])
        return float(self.beta * free_energy_P.mean() - multipliers_C @ self.thresholds_C)

    def weights(self, multipliers_C: Tensor) -> Tensor:
        """The samples' weights under the tilted policy, summing to 1 for every prompt: (P, S)."""
        return torch.softmax(self._logits_PS(multipliers_C), 1)

    def gradient(self, multipliers_C: Tensor) -> Tensor:
        """The slack u of the constraints under the tilted policy, (C,); non-decreasing in its own multiplier."""
        weights_PS = self.weights(multipliers_C)
        return torch.einsum("ps,psc->c", weights_PS, self._centred_PSC) / len(weights_PS) - self.thresholds_C

    def hessian(self, multipliers_C: Tensor) -> Tensor:
        """``E_x Cov_pi(g) / beta``, (C, C)."""
        weights_PS = self.weights(multipliers_C)
        mean_PC = torch.einsum("ps,psc->pc", weights_PS, self._centred_PSC)
        deviation_PSC = self._centred_PSC - mean_PC[:, None]
        return torch.einsum("ps,psc,psd->cd", weights_PS, deviation_PSC, deviation_PSC) / len(mean_PC) / self.beta

    def solve(self, *, cap: float = 50.0) -> DualSolution:
        """The multipliers that minimise D: by bisection of the slack for one constraint, by Newton's method for more.

        Args:
            cap: the largest multiplier. A threshold that needs a larger one is refused, like one that none reaches.

        Raises:
            InfeasibleError: a CtwaError that names the thresholds, and for each the largest that can be reached.
            CtwaError: rounding errors leave the multipliers open.
        """
        if not 0 < cap < math.inf:
            raise CtwaError(f"the cap on the multipliers is {cap}; write a positive number")
        zero_C = torch.zeros_like(self.thresholds_C)
        best_C = self._centred_PSC.amax(1).mean(
            0
        )  # every prompt's best sample: reached by no multiplier, only ever nearer
        unmet_C = (self.gradient(zero_C) < 0) & (self.thresholds_C >= best_C)
        if unmet_C.any():
            raise self._infeasible(cap, best_C - self.thresholds_C, unmet_C)
        multipliers_C = self._bisect(cap) if len(self.names) == 1 else self._minimise(cap)
        slack_C = self.gradient(multipliers_C)
        unmet_C = (multipliers_C >= cap) & (slack_C < 0)
        if unmet_C.any():
            raise self._infeasible(cap, slack_C, unmet_C)
        return self.describe(multipliers_C)

    def describe(self, multipliers_C: Tensor) -> DualSolution:
        """What any multipliers would do."""
        weights_PS = self.weights(multipliers_C)
        slack_C = self.gradient(multipliers_C)
        reward = float((weights_PS * self.rewards_PS).sum(1).mean())
        entropy_P = -torch.special.xlogy(weights_PS, weights_PS).sum(1)
        return DualSolution(
            multipliers=self.named(multipliers_C),
            value=self.value(multipliers_C),
            slack=self.named(slack_C),
            curvature=self.named(self.hessian(multipliers_C).abs().sum(1)),
            reward=reward,
            reward_change=reward - float(self.rewards_PS.mean()),
            score_changes=self.named(slack_C + self.thresholds_C),
            kl=float((math.log(weights_PS.shape[1]) - entropy_P).mean()),
            effective_samples_P=1 / weights_PS.square().sum(1),
        )

    def largest_thresholds(self) -> dict[str, float]:
        """For every constraint the threshold below which it can be met, the others as they are; NaN where it cannot.

        It is the largest mean score that any weights of the samples have, within the others' thresholds, less the
        reference's: a linear programme, of which the dual is solved, with a variable a prompt and one a constraint.
        """
        num_prompts, num_samples, num = self._centred_PSC.shape
        if num == 1:
            return {self.names[0]: float(self._centred_PSC.amax(1).mean())}
        rows = np.arange(num_prompts * num_samples)
        of_prompt = csr_array((-np.ones(len(rows)), (rows, rows // num_samples)), shape=(len(rows), num_prompts))
        # In units of each score's range, so that the solver's tolerances mean the same for all.
        unit_C = torch.where(self._scale_C > 0, self._scale_C, 1.0)
        scores_XC = (self._centred_PSC / unit_C).reshape(-1, num).numpy()
        thresholds_C = (self.thresholds_C / unit_C).numpy()
        largest = {}
        for index, name in enumerate(self.names):
            others = [other for other in range(num) if other != index]
            # The least mean t_p less the others' multipliers times thresholds, where t_p >= g + multipliers @ others' g
            # for all samples of the prompt.
            value = linear_programme(
                np.concatenate([np.full(num_prompts, 1 / num_prompts), -thresholds_C[others]]),
                hstack([of_prompt, csr_array(scores_XC[:, others])], format="csr"),
                -scores_XC[:, index],
                num_free=num_prompts,
            )
            if value is None:  # without the others' thresholds it is never less
                value = float(scores_XC[:, index].reshape(num_prompts, num_samples).max(1).mean())
            largest[name] = value * float(unit_C[index]) if math.isfinite(value) else math.nan
        return largest

    def named(self, values_C: Tensor) -> dict[str, float]:
        """A vector in alphabetical order as values by name."""
        return dict(zip(self.names, values_C.tolist(), strict=True))

    def _logits_PS(self, multipliers_C: Tensor) -> Tensor:
        return (self.rewards_PS + self._centred_PSC @ multipliers_C) / self.beta

    def _bisect(self, cap: float) -> Tensor:
        """Where the slack turns from negative to 0 or more, to the last bit; 0 or the cap where it does not."""
        low, high = 0.0, cap

        def slack(multiplier: float) -> float:
            return float(self.gradient(torch.tensor([multiplier], dtype=torch.float64)))

        if slack(low) >= 0:
            return torch.zeros(1, dtype=torch.float64)
        if slack(high) >= 0:
            while low < (middle := (low + high) / 2) < high:
                low, high = (low, middle) if slack(middle) >= 0 else (middle, high)
        return torch.tensor([high], dtype=torch.float64)

    def _minimise(self, cap: float) -> Tensor:
        """The least D in the box [0, cap]^C, by Newton's method.

        Where the weights have collapsed, D is nearly a polyhedron, and Newton's steps are lost on its edges. Then beta
        is lowered to its value from one where all is smooth, and each solution starts the next.
        """
        multipliers_C = self._newton(torch.zeros_like(self.thresholds_C), cap)
        if self._violation(multipliers_C, cap) <= CONVERGED:
            return multipliers_C
        smooth = float(self.rewards_PS.abs().max() + cap * self._scale_C.sum())
        multipliers_C = torch.zeros_like(self.thresholds_C)
        for step in reversed(range(math.ceil(math.log(max(smooth / self.beta, 1), COOLING)))):
            smoothed = copy(self)
            smoothed.beta = self.beta * COOLING**step
            multipliers_C = smoothed._newton(multipliers_C, cap)
        if (violation := self._violation(multipliers_C, cap)) > CONVERGED:
            raise CtwaError(
                f"the multipliers cannot be told to the last digits that matter (a slack of {violation:.1e} of its "
                "score's range is left): bring the reward and the scores to one scale, or raise beta"
            )
        return multipliers_C

    def _newton(self, multipliers_C: Tensor, cap: float) -> Tensor:
        """Newton steps among the multipliers that no bound holds, until they lead no further."""
        value = self.value(multipliers_C)
        for _ in range(MOST_STEPS):
            slack_C = self.gradient(multipliers_C)
            if self._violation(multipliers_C, cap) <= EXACT:
                break
            free = (~_held(multipliers_C, slack_C, cap)).nonzero()[:, 0]
            hessian_FF = self.hessian(multipliers_C)[free][:, free]
            # In units of each score's range, so that none is lost beside one of large numbers; a trace of the diagonal
            # keeps the system solvable where the weights have collapsed.
            unit_F = self._scale_C[free].clamp(min=torch.finfo(torch.float64).tiny)
            hessian_FF = hessian_FF / unit_F / unit_F[:, None]
            damping = 1e-12 * hessian_FF.diagonal().amax() + torch.finfo(torch.float64).tiny
            direction_C = torch.zeros_like(multipliers_C)
            direction_C[free] = (
                -torch.linalg.solve(
                    hessian_FF + damping * torch.eye(len(free), dtype=torch.float64), slack_C[free] / unit_F
                )
                / unit_F
            )
            moved = self._line_search(multipliers_C, direction_C, slack_C, value, cap)
            if moved is None:
                break
            multipliers_C, value = moved
        return multipliers_C

    def _line_search(
        self, multipliers_C: Tensor, direction_C: Tensor, slack_C: Tensor, value: float, cap: float
    ) -> tuple[Tensor, float] | None:
        """The longest halving of the step, cut off at the bounds, that lowers D; None where none does.

        Where D can no longer tell, because of rounding, the slack has to become smaller.
        """
        size = abs(value) + float(multipliers_C @ self.thresholds_C.abs()) + float(self.rewards_PS.abs().mean())
        rounding = 8 * torch.finfo(torch.float64).eps * size
        step = 1.0
        for _ in range(MOST_HALVINGS):
            moved_C = (multipliers_C + step * direction_C).clamp(0, cap)
            if torch.equal(moved_C, multipliers_C):
                return None
            promised = float(slack_C @ (moved_C - multipliers_C))
            new = self.value(moved_C)
            if promised < 0 and new <= value + SUFFICIENT * promised:
                return moved_C, new
            if abs(promised) <= rounding and self._violation(moved_C, cap) < self._violation(multipliers_C, cap):
                return moved_C, new
            step /= 2
        return None

    def _violation(self, multipliers_C: Tensor, cap: float) -> float:
        """The largest slack, in units of its score's range, that no bound excuses: 0 at the least D in the box."""
        slack_C = self.gradient(multipliers_C)
        relative_C = slack_C.abs() / self._scale_C.clamp(min=torch.finfo(torch.float64).tiny)
        return float(torch.where(_held(multipliers_C, slack_C, cap), 0.0, relative_C).amax())

    def _infeasible(self, cap: float, slack_C: Tensor, unmet_C: Tensor) -> InfeasibleError:
        """Says which thresholds are too large, and what they may be."""
        largest = self.largest_thresholds()
        thresholds = self.named(self.thresholds_C)
        beyond = {name: bound for name, bound in largest.items() if not thresholds[name] < bound}
        if beyond:
            each = [
                f"'{name}' asks for {thresholds[name]:.6g} and "
                + (f"has to be below {bound:.6g}" if math.isfinite(bound) else "the others cannot be met either")
                for name, bound in beyond.items()
            ]
            together = " together" if len(beyond) > 1 else ""
            return InfeasibleError(
                f"no reweighting of the samples reaches the thresholds{together}: {'; '.join(each)}; lower one, or "
                "draw more samples a prompt",
                beyond,
            )
        reached = {
            name: float(slack + threshold)
            for name, slack, threshold, unmet in zip(self.names, slack_C, self.thresholds_C, unmet_C, strict=True)
            if unmet
        }
        each = [
            f"'{name}' asks for {thresholds[name]:.6g} and reaches {value:.6g}, of at most {largest[name]:.6g}"
            for name, value in reached.items()
        ]
        return InfeasibleError(
            f"the thresholds need a multiplier above the cap of {cap:g}: {'; '.join(each)}; lower them, or raise the "
            "cap",
            reached,
        )


def check_scores(name: str, values_PS: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Refuse scores of another shape than (P, S), and ones that are not finite.

    Returns:
        They, float64 on the CPU and without the graph that they were computed by.

    Raises:
        CtwaError: with the prompt's and the sample's index.
    """
    if values_PS.ndim != 2 or values_PS.shape != shape or not values_PS.numel():
        raise CtwaError(
            f"{name} has values of shape {tuple(values_PS.shape)} where {tuple(shape)} is expected: one for each "
            "sample of each prompt, as many for every prompt"
        )
    wrong_X2 = (~values_PS.isfinite()).nonzero()
    if len(wrong_X2):
        prompt, sample = wrong_X2[0].tolist()
        raise CtwaError(
            f"{name} is {float(values_PS[prompt, sample])} for prompt {prompt}, sample {sample} (counted from 0), and "
            f"not finite for {len(wrong_X2)} in all; score them, or leave their prompts out"
        )
    return values_PS.detach().to("cpu", torch.float64)


def _held(multipliers_C: Tensor, slack_C: Tensor, cap: float) -> Tensor:
    """Where a multiplier is at a bound, and D would only fall beyond it."""
    return ((multipliers_C <= 0) & (slack_C >= 0)) | ((multipliers_C >= cap) & (slack_C <= 0))
