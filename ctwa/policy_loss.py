"""How a policy loss weighs the tokens of a batch: one class a loss, with the weight W that its gradient has.

Every loss here is differentiated as a sum of score functions: with c a constant of the batch,

    -grad L = c sum_nt W_nt grad log pi(y_nt),    W_nt = -(1 / c) dL / d log pi(y_nt)

The classes give W. It is CTWA's weight (Lu & Jiang 2026, arXiv 2602.06869, Eq. 7) for the loss of the paper, and what
stands in its place for the others: on the policy that sampled, W is the advantage A for all of them (but for the scale
by length below). rho is a token's ratio of probabilities under the two policies.

A loss that is summed or averaged over all tokens (``token-mean``, ``token-sum``, ``seq-mean-token-sum``,
``seq-mean-token-sum-norm``) scales them all by one number, which is in c. A loss that takes the mean over the tokens of
each completion first (``seq-mean-token-mean``) scales the tokens of a completion of length l by 1 / l. W then has the
factor (mean length) / l: a number whose mean over the tokens of the batch is 1.

Dimensions: N completions, T tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ctwa.arguments import check_kind
from ctwa.errors import CtwaError, shown

_MAX_LOG_RATIO = 20.0
_MAX_LOG_RATIO_OF_COMPLETION = 10.0


@dataclass(frozen=True)
class LossTokens:
    """What a loss sees of a batch; all tensors are float64 (N, T) and 0 outside the mask.

    Attributes:
        log_probs_new_NT, log_probs_old_NT: under the policy of the ratio's numerator, and of its denominator.
        advantages_NT: of the loss.
        mask_NT: bool, the tokens that the loss sees.
    """

    log_probs_new_NT: Tensor
    log_probs_old_NT: Tensor
    advantages_NT: Tensor
    mask_NT: Tensor

    @property
    def log_ratio_NT(self) -> Tensor:
        """Log rho."""
        return self.log_probs_new_NT - self.log_probs_old_NT

    @property
    def ratio_NT(self) -> Tensor:
        """rho, its logarithm clamped to +-20."""
        return self.log_ratio_NT.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()

    def mean_N1(self, values_NT: Tensor) -> Tensor:
        """The mean over each completion's own tokens, (N, 1); 0 where it has none."""
        mean_N1: Tensor = torch.where(self.mask_NT, values_NT, 0.0).sum(1, keepdim=True)
        return mean_N1 / self.mask_NT.sum(1, keepdim=True).clamp(min=1)


class Weighed(NamedTuple):
    """``weight_NT``: W, before what the completion's length does; ``kept_NT``: bool, where clipping left a gradient."""

    weight_NT: Tensor
    kept_NT: Tensor


@dataclass(frozen=True)
class PolicyLoss(ABC):
    """A policy loss, as far as its gradient goes.

    Attributes:
        by_completion: whether the loss takes the mean over each completion's tokens first.

    Raises:
        CtwaError: an option of a loss is no number of 0 or more.
    """

    by_completion: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_kind("by_completion", self.by_completion, bool, "True or False")
        for option in fields(self):
            value = getattr(self, option.name)
            left_out = value is None and option.default is None
            if not left_out and not (isinstance(value, Real) and float(value) >= 0):
                raise CtwaError(f"{type(self).__name__} has {option.name}={shown(value)}; pass a number, 0 or more")

    title: ClassVar[str]
    """What people call it, and the paper."""
    has_one_ratio: ClassVar[bool] = False
    """Whether the tokens of a completion have one ratio, and not each its own."""

    @property
    def by_token(self) -> bool:
        """Whether every token is weighed by itself: the loss does not ask where a completion begins and ends."""
        return not (self.by_completion or self.has_one_ratio)

    @abstractmethod
    def weigh(self, tokens: LossTokens) -> Weighed:
        """The weight of every token, and which of them clipping left in place."""

    def unclipped(self) -> PolicyLoss:
        """The same loss without what holds the ratio back: what clipping is measured against."""
        return self

    def importance(self, importance_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """What the importance weights of a rollout correction multiply each token's weight by."""
        del mask_NT
        return importance_NT

    def scale_N1(self, mask_NT: Tensor) -> Tensor:
        """The factor that comes of a completion's length, float64 (N, 1); see the module."""
        length_N1 = mask_NT.sum(1, keepdim=True).double()
        if not self.by_completion:
            return torch.ones_like(length_N1)
        num_completions = (length_N1 > 0).sum().clamp(min=1)
        return length_N1.sum() / num_completions / length_N1.clamp(min=1)

    def words(self) -> str:
        """The loss in a plan."""
        return self.title


@dataclass(frozen=True)
class _Clipped(PolicyLoss):
    """A loss with a range.

    Attributes:
        low, high: the ratio is clipped to ``[1 - low, 1 + high]``; infinite where nothing is clipped.
    """

    low: float = math.inf
    high: float = math.inf

    def unclipped(self) -> PolicyLoss:
        """The plain ratio."""
        return replace(self, low=math.inf, high=math.inf)

    def words(self) -> str:
        """With its numbers."""
        return f"{super().words()}, {self.range()}"

    def range(self) -> str:
        """The range in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "no clipping"
        return f"ratios clipped to [{1 - self.low:g}, {1 + self.high:g}]"


def clip_indicator(
    ratio_NT: Tensor, advantages_NT: Tensor, *, low: float, high: float, dual: float | None = None
) -> Tensor:
    """Where a clipped loss has a gradient, bool (N, T) (Eq. 6, and the dual clip where the loss has one).

    A token loses its gradient when the ratio has already moved past the bound in the direction its advantage asks
    for; with a dual clip, also when the advantage is negative and the ratio is above ``dual``.

    Args:
        ratio_NT: rho.
        advantages_NT: of the loss.
        low: the ratio is clipped to 1 - low from below.
        high: and to 1 + high from above.
        dual: the bound of the dual clip; None for none.
    """
    negative_NT = advantages_NT < 0
    # Asked the other way round, so that a ratio that is not a number is kept and shows in the result.
    clipped_NT = torch.where(negative_NT, ratio_NT < 1 - low, ratio_NT > 1 + high)
    if dual is not None:
        clipped_NT = clipped_NT | (negative_NT & (ratio_NT > dual))
    return ~clipped_NT


@dataclass(frozen=True)
class Vanilla(_Clipped):
    """PPO's clipped ratio, which GRPO and most others train on: ``max(-A rho, -A clip(rho))``.

    The derivative of ``A rho`` with respect to log pi is A rho, and that of the clipped branch 0: W = A rho where the
    first is the larger loss, else 0. The dual clip (arXiv 1912.09729) bounds the loss of a negative advantage by
    ``-A dual``, which is constant too.

    Attributes:
        dual: the dual clip's bound on the ratio of tokens with a negative advantage; None where there is none.
    """

    dual: float | None = None
    title: ClassVar[str] = "clipped ratio (PPO)"

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A rho, or 0."""
        ratio_NT, advantages_NT = tokens.ratio_NT, tokens.advantages_NT
        kept_NT = clip_indicator(ratio_NT, advantages_NT, low=self.low, high=self.high, dual=self.dual)
        return Weighed(torch.where(kept_NT, advantages_NT * ratio_NT, 0.0), kept_NT)

    def unclipped(self) -> PolicyLoss:
        """The plain ratio."""
        return replace(self, low=math.inf, high=math.inf, dual=None)


@dataclass(frozen=True)
class Gspo(_Clipped):
    """GSPO (arXiv 2507.18071): the ratio is that of the completion, ``s = exp(mean_t log rho_t)``, and is clipped.

    As verl writes it, each token's ratio is ``sg(s) pi / sg(pi)``, so that the derivative with respect to log pi_t is
    A s and not A s / l: W = A s where the clipped branch is not the larger, else 0. With the mean over each completion
    first, as in the paper, that is the gradient of the paper's loss.
    """

    title: ClassVar[str] = "clipped ratio of the completion (GSPO)"
    has_one_ratio: ClassVar[bool] = True

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A s, or 0."""
        log_ratio_N1 = tokens.mean_N1(tokens.log_ratio_NT)
        ratio_NT = log_ratio_N1.clamp(max=_MAX_LOG_RATIO_OF_COMPLETION).exp().expand_as(tokens.log_ratio_NT)
        kept_NT = clip_indicator(ratio_NT, tokens.advantages_NT, low=self.low, high=self.high)
        return Weighed(torch.where(kept_NT, tokens.advantages_NT * ratio_NT, 0.0), kept_NT)


@dataclass(frozen=True)
class GeoMean(_Clipped):
    """GMPO (arXiv 2507.20673): a completion's loss is ``-A exp(mean_t clip(log rho_t))``, clipped token by token.

    The derivative of the mean with respect to log pi_t is 1 / l where the token is not clipped. The 1 / l is the mean
    over the completion: W = A s where the token's log-ratio is within its bound, else 0, with s the exponential of the
    clipped mean. A is the mean of the completion's advantages, and the bounds are those of log rho, not of rho.
    """

    title: ClassVar[str] = "geometric mean of clipped ratios (GMPO)"
    has_one_ratio: ClassVar[bool] = True

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A s, or 0."""
        log_ratio_NT, advantages_NT = tokens.log_ratio_NT, tokens.advantages_NT
        bounded_NT = torch.where(
            advantages_NT < 0, log_ratio_NT.clamp(min=-self.low), log_ratio_NT.clamp(max=self.high)
        )
        bounded_NT = torch.where(advantages_NT == 0, 0.0, bounded_NT)
        kept_NT = ~torch.where(advantages_NT < 0, log_ratio_NT < -self.low, log_ratio_NT > self.high)
        weight_N1 = tokens.mean_N1(advantages_NT) * tokens.mean_N1(bounded_NT).exp()
        # A token whose own advantage is 0 has no ratio in the mean, and none of its gradient.
        return Weighed(torch.where(kept_NT & (advantages_NT != 0), weight_N1, 0.0), kept_NT)

    def importance(self, importance_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Verl multiplies a completion's loss by the geometric mean of its importance weights."""
        log_NT = torch.where(mask_NT, (importance_NT + 1e-10).log(), 0.0)
        return (log_NT.sum(1, keepdim=True) / mask_NT.sum(1, keepdim=True).clamp(min=1)).exp().expand_as(importance_NT)

    def range(self) -> str:
        """In words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "no clipping"
        return f"log-ratios clipped to [{-self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Cispo(_Clipped):
    """CISPO (arXiv 2506.13585): ``-sg(clip(rho)) A log pi``: the ratio is clipped, and no token loses its gradient.

    The clipped ratio is held constant, so W = A clip(rho).
    """

    title: ClassVar[str] = "clipped importance weight (CISPO)"

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A clip(rho)."""
        ratio_NT = tokens.ratio_NT.clamp(1 - self.low, 1 + self.high)
        return Weighed(tokens.advantages_NT * ratio_NT, torch.ones_like(tokens.mask_NT))


@dataclass(frozen=True)
class _Dppo(_Clipped):
    """DPPO (arXiv 2602.04879): ``-A sg(min(rho, most)) log pi``, masked where a divergence is past its threshold.

    Mask and ratio are held constant, so W = A min(rho, most) under the mask, else 0. The divergence is that of the two
    policies' probabilities of the sampled token and of all others together.

    Attributes:
        low, high: the thresholds, for a token that is made less likely, and for one that is made more so.
        most: the bound on the ratio.
    """

    most: float = math.inf

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A min(rho, most), or 0."""
        kept_NT = torch.where(tokens.advantages_NT > 0, self._within(tokens, up=True), self._within(tokens, up=False))
        weight_NT = tokens.advantages_NT * tokens.ratio_NT.clamp(max=self.most)
        return Weighed(torch.where(kept_NT, weight_NT, 0.0), kept_NT)

    @abstractmethod
    def _within(self, tokens: LossTokens, *, up: bool) -> Tensor:
        """Bool (N, T): where a token may still be made more likely (``up``), or less."""

    def unclipped(self) -> PolicyLoss:
        """The plain ratio."""
        return replace(self, low=math.inf, high=math.inf, most=math.inf)

    def range(self) -> str:
        """In words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "no clipping"
        return f"up to a divergence of {self.low:g} down and {self.high:g} up"


@dataclass(frozen=True)
class DppoTv(_Dppo):
    """DPPO by total variation: of pi and 1 - pi it is ``|pi - pi_old|``."""

    title: ClassVar[str] = "masked by total variation (DPPO)"

    def _within(self, tokens: LossTokens, *, up: bool) -> Tensor:
        gain_NT = tokens.log_probs_new_NT.exp() - tokens.log_probs_old_NT.exp()
        return ~(gain_NT > self.high) if up else ~(gain_NT < -self.low)


@dataclass(frozen=True)
class DppoKl(_Dppo):
    """DPPO by the KL divergence ``KL(pi_old || pi)`` of the sampled token against all others."""

    title: ClassVar[str] = "masked by KL divergence (DPPO)"

    def _within(self, tokens: LossTokens, *, up: bool) -> Tensor:
        new_NT, old_NT = tokens.log_probs_new_NT.exp(), tokens.log_probs_old_NT.exp()
        rest_NT = ((1 - old_NT + 1e-8) / (1 - new_NT + 1e-8)).log()
        divergence_NT = old_NT * -tokens.log_ratio_NT + (1 - old_NT) * rest_NT
        if up:
            return ~(divergence_NT > self.high) | (new_NT <= old_NT)
        return ~(divergence_NT > self.low) | (new_NT >= old_NT)


@dataclass(frozen=True)
class Sapo(PolicyLoss):
    """SAPO (arXiv 2511.20347): ``-A f(rho)`` with the soft gate ``f(rho) = 4 / tau sigmoid(tau (rho - 1))``.

    The derivative of f(rho) with respect to log pi is ``4 p (1 - p) rho`` with ``p = sigmoid(tau (rho - 1))``: W = A
    times that. It falls off smoothly on both sides of 1, and no token loses its gradient.

    Attributes:
        up, down: tau of tokens with a positive advantage, and of the others.
    """

    up: float = 1.0
    down: float = 1.05
    title: ClassVar[str] = "soft gate on the ratio (SAPO)"

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A times the gate's derivative."""
        ratio_NT = tokens.ratio_NT
        tau_NT = torch.where(tokens.advantages_NT > 0, self.up, self.down)
        gate_NT = torch.sigmoid(tau_NT * (ratio_NT - 1))
        weight_NT = tokens.advantages_NT * 4 * gate_NT * (1 - gate_NT) * ratio_NT
        return Weighed(weight_NT, torch.ones_like(tokens.mask_NT))

    def unclipped(self) -> PolicyLoss:
        """What the gate comes to as tau goes to 0: the plain ratio."""
        return Vanilla(by_completion=self.by_completion)

    def words(self) -> str:
        """With its numbers."""
        return f"{super().words()}, tau {self.up:g} up and {self.down:g} down"


@dataclass(frozen=True)
class Gpg(PolicyLoss):
    """GPG (arXiv 2504.02546): ``-A log pi``, the plain policy gradient. W = A, whatever the ratio is."""

    title: ClassVar[str] = "plain policy gradient (GPG)"

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A."""
        return Weighed(tokens.advantages_NT, torch.ones_like(tokens.mask_NT))


@dataclass(frozen=True)
class Dro(PolicyLoss):
    """DRO (arXiv 2405.19107): ``-A log pi + beta / 2 (log rho)^2``. W = A - beta log rho.

    The penalty is of the loss itself, and belongs to what the update does to a completion: it is in W.

    Attributes:
        beta: of the penalty.
    """

    beta: float
    title: ClassVar[str] = "policy gradient with a quadratic penalty (DRO)"

    def weigh(self, tokens: LossTokens) -> Weighed:
        """A - beta log rho."""
        weight_NT = tokens.advantages_NT - self.beta * tokens.log_ratio_NT
        return Weighed(weight_NT, torch.ones_like(tokens.mask_NT))

    def words(self) -> str:
        """With its numbers."""
        return f"{super().words()}, beta {self.beta:g}"
