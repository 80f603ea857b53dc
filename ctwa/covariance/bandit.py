"""The covariance law where everything can be computed: two modes, a categorical bandit, and interference in it.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), section 4. A policy over A arms with probabilities p that takes a
natural-gradient step of size eta on a score s moves to ``p exp(eta s) / Z``, exactly, and the expected value of any
reward r moves by ``eta Cov(r, s)`` to first order: r rises when it goes with the score and falls when it goes against.

    >>> p, r, s = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    >>> first, second = covariance_law(p, r, s, step_size=0.1)
    >>> round(first, 6), round(float(tilt(p, s, 0.1) @ r - p @ r), 6)
    (-0.015, -0.015293)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ctwa.covariance.feasibility import target_feasibility

_MIN_STD = 1e-12


@dataclass(frozen=True)
class TwoModes:
    """A policy with a good and a bad mode (Eq. 4-5): the smallest example of interference.

    Each mode has a scalar score, which the policy climbs, and the reward of one objective. When the bad mode scores
    higher, the objective falls although the score rises.

        >>> modes = TwoModes(p_bad=0.3, score_good=0.4, score_bad=1.0, reward_good=1.0, reward_bad=0.0)
        >>> round(modes.covariance, 3), round(modes.step(0.5).p_bad, 6)
        (-0.126, 0.366492)
    """

    p_bad: float
    score_good: float
    score_bad: float
    reward_good: float
    reward_bad: float

    @property
    def expected_reward(self) -> float:
        """The objective's expected reward."""
        return self.reward_good - self.p_bad * (self.reward_good - self.reward_bad)

    @property
    def covariance(self) -> float:
        """The covariance of reward and score: the objective's first change per unit of step size (Eq. 5)."""
        variance = self.p_bad * (1 - self.p_bad)
        return variance * (self.reward_good - self.reward_bad) * (self.score_good - self.score_bad)

    def step(self, step_size: float) -> TwoModes:
        """The policy after one natural-gradient step: the log-odds move by the gap of the scores (Eq. 4)."""
        log_odds = math.log(self.p_bad / (1 - self.p_bad)) + step_size * (self.score_bad - self.score_good)
        p_bad = 1 / (1 + math.exp(-log_odds))
        return TwoModes(p_bad, self.score_good, self.score_bad, self.reward_good, self.reward_bad)


def tilt(p_A: Tensor, scores_A: Tensor, step_size: float) -> Tensor:
    """One exact natural-gradient step: ``p exp(eta s) / Z``."""
    return torch.softmax(p_A.log() + step_size * scores_A, dim=0)


def natural_gradient(p_A: Tensor, scores_A: Tensor) -> Tensor:
    """The natural gradient of the expected score in the logits: the centred score, up to a constant.

    It solves ``F d = p (s - E s)`` with the Fisher matrix ``F = diag(p) - p p'``; the right side is the gradient.
    """
    return scores_A - p_A @ scores_A


def covariance(p_A: Tensor, x_A: Tensor, y_A: Tensor) -> Tensor:
    """The covariance of x and y under the policy."""
    return p_A @ ((x_A - p_A @ x_A) * (y_A - p_A @ y_A))


def std(p_A: Tensor, x_A: Tensor) -> Tensor:
    """The standard deviation of x under the policy."""
    return covariance(p_A, x_A, x_A).sqrt()


def covariance_law(p_A: Tensor, rewards_A: Tensor, scores_A: Tensor, step_size: float) -> tuple[float, float]:
    """The change of the expected reward in one step, to first and to second order in its size (Thm 4.2).

    The first is ``eta Cov(r, s)``; the second adds ``eta^2/2 E[(r - E r)(s - E s)^2]``. What the step really does is
    ``tilt(p, s, eta) @ r - p @ r``.
    """
    first = step_size * covariance(p_A, rewards_A, scores_A)
    centred_r_A, centred_s_A = rewards_A - p_A @ rewards_A, scores_A - p_A @ scores_A
    third = p_A @ (centred_r_A * centred_s_A.square())
    return float(first), float(first + step_size**2 / 2 * third)


class BanditController(Protocol):
    """What steers the bandit; ``ctwa.scalarizers.controller.WeightController`` is one."""

    @property
    def weights_M(self) -> Tensor:
        """The weights of the next step's score."""
        ...

    def step(self, statistic_M: Tensor) -> Tensor:
        """Learn from the covariances of the last step."""
        ...


@dataclass(frozen=True)
class BanditTrace:
    """A bandit's training: S steps, M objectives.

    Attributes:
        expected_SM: the expected rewards before the first step and after each, S + 1 rows.
        weights_SM: the weights of each step's score, scaled to sum to 1.
        feasibility_S: v* of the targets under each step's policy (``target_feasibility``).
    """

    expected_SM: Tensor
    weights_SM: Tensor
    feasibility_S: Tensor

    @property
    def drawdown_M(self) -> Tensor:
        """The deepest fall of each expected reward from its running best: the size of the interference."""
        return (self.expected_SM.cummax(dim=0).values - self.expected_SM).amax(dim=0)


def train_bandit(
    p_A: Tensor,
    rewards_AM: Tensor,
    targets_M: Tensor,
    controller: BanditController,
    *,
    step_size: float,
    num_steps: int,
) -> BanditTrace:
    """Train a categorical policy on M rewards with weights that a controller sets.

    Each step scalarises the rewards, standardises the score under the policy, tilts the policy by it and shows the
    controller the covariances of the rewards with that advantage. A policy that has become deterministic has the
    advantage 0. With ``eta=0`` the controller is linear weighting:

        >>> from ctwa.scalarizers.controller import ControllerOptions, WeightController
        >>> p = torch.tensor([0.02, 0.48, 0.3, 0.2], dtype=torch.float64)
        >>> rewards = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.float64)
        >>> weights, targets = torch.tensor([[0.9, 0.1], [0.05, 0.05]], dtype=torch.float64)
        >>> for eta in (0.0, 1.0):
        ...     options = ControllerOptions(eta=eta, tau=0.1, renormalize=False)
        ...     controller = WeightController(options, weights, targets)
        ...     trace = train_bandit(p, rewards, targets, controller, step_size=0.05, num_steps=400)
        ...     print([round(drawdown, 3) for drawdown in trace.drawdown_M.tolist()])
        [0.0, 0.246]
        [0.044, 0.062]
    """
    expected, weights, feasibility = [p_A @ rewards_AM], [], []
    for _ in range(num_steps):
        weights_M = controller.weights_M
        scores_A = rewards_AM @ weights_M
        spread = std(p_A, scores_A)
        advantages_A = natural_gradient(p_A, scores_A) / (spread if spread > _MIN_STD else math.inf)
        centred_AM = rewards_AM - p_A @ rewards_AM
        feasibility.append(target_feasibility(centred_AM.T @ (p_A[:, None] * centred_AM), targets_M).value)
        weights.append(weights_M / weights_M.sum())
        controller.step((p_A * advantages_A) @ centred_AM)
        p_A = tilt(p_A, advantages_A, step_size)
        expected.append(p_A @ rewards_AM)
    return BanditTrace(torch.stack(expected), torch.stack(weights), torch.tensor(feasibility, dtype=torch.float64))
