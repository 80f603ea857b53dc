"""Policy-gradient weights: what the loss really multiplied each completion's score function by.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), Eq. 6-7 and section 5.1; ``ctwa.policy_loss`` has the weight of every loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import Update
from ctwa.policy_loss import LossTokens, PolicyLoss

_TOKENS_AT_ONCE = 1 << 15

LengthNormalization = Literal["mean", "sum", "max_length", "mean_unclipped"]


@dataclass(frozen=True)
class TokenWeights:
    """The weight of every token in the policy gradient.

    Attributes:
        weight_NT: float64, what the loss multiplies each token's score function by, 0 where it has no gradient (Eq. 7).
        kept_NT: bool, response tokens whose gradient the clipping left in place.
        mask_NT: bool, response tokens.
    """

    weight_NT: Tensor
    kept_NT: Tensor
    mask_NT: Tensor


@dataclass(frozen=True)
class CompletionWeights:
    """One weight a completion.

    Attributes:
        weight_N: float64; 0 where a completion has no weight.
        valid_N: bool, False for a completion without a single response token: it takes part in no covariance.
    """

    weight_N: Tensor
    valid_N: Tensor


def token_weights(
    log_probs_new_NT: Tensor,
    log_probs_old_NT: Tensor,
    advantages_NT: Tensor,
    mask_NT: Tensor,
    loss: PolicyLoss,
    *,
    rejected_NT: Tensor | None = None,
    importance_NT: Tensor | None = None,
) -> TokenWeights:
    """The weights W of Eq. 7, in float64.

    Advantages may differ from token to token. What stands in the padding, NaN included, has no influence.

    Args:
        log_probs_new_NT: of the response tokens, under the policy of the ratio's numerator.
        log_probs_old_NT: under that of its denominator.
        advantages_NT: those of the loss.
        mask_NT: 1 (or True) on response tokens.
        loss: the loss that was differentiated.
        rejected_NT: bool, response tokens that a rollout correction keeps out of the loss, which then weigh nothing and
            count as not clipped. None where it rejects none.
        importance_NT: what a rollout correction multiplies each token's loss by. None for 1.
    """
    mask_NT = mask_NT.bool()
    seen_NT = mask_NT if rejected_NT is None else mask_NT & ~rejected_NT
    scale_N1 = loss.scale_N1(seen_NT)  # the one thing that looks at all completions
    weight_NT, kept_NT = torch.empty_like(mask_NT, dtype=torch.float64), torch.empty_like(mask_NT)
    for begin in range(0, len(mask_NT), step := _rows_at_once(mask_NT.shape)):
        rows = slice(begin, begin + step)
        seen = seen_NT[rows]
        new, old, advantages = (
            torch.where(seen, values_NT[rows].double(), 0.0)
            for values_NT in (log_probs_new_NT, log_probs_old_NT, advantages_NT)
        )
        weight, kept = loss.weigh(LossTokens(new, old, advantages, seen))
        weight, trained = weight * scale_N1[rows], seen
        if importance_NT is not None:
            factor = loss.importance(importance_NT[rows].double(), seen)
            weight, trained = weight * factor, seen & (factor != 0)
        kept_NT[rows] = mask_NT[rows] & (kept | ~trained)
        weight_NT[rows] = torch.where(trained & kept_NT[rows], weight, 0.0)
    return TokenWeights(weight_NT, kept_NT, mask_NT)


def _rows_at_once(shape: Sequence[int]) -> int:
    """How many completions are weighed at once: what lies between then stays near the processor."""
    return max(2, _TOKENS_AT_ONCE // max(1, shape[1]))


def update_weights(update: Update, loss: PolicyLoss) -> TokenWeights:
    """The token weights of an update, computed once: a method and the diagnostics ask for the same.

    Args:
        update: what it did.
        loss: its own, or that without clipping.
    """
    if loss in update.known:
        known: TokenWeights = update.known[loss]
        return known
    rollout = update.rollout
    found = update.known[loss] = token_weights(
        update.log_probs_new_NT,
        update.log_probs_old_NT,
        update.advantages_NT,
        rollout.mask_NT,
        loss,
        rejected_NT=rollout.rejected_NT,
        importance_NT=rollout.importance_NT,
    )
    return found


def completion_weights(tokens: TokenWeights, length: LengthNormalization = "mean") -> CompletionWeights:
    """One weight a completion: the sum of its token weights over a length.

    Args:
        tokens: the token weights.
        length: ``mean`` divides by the completion's own number of response tokens, so that an on-policy, unclipped
            completion weighs exactly its advantage. ``sum`` does not divide, and ``max_length`` divides by the padded
            length T: with both, the covariance of any reward that goes with length is biased. ``mean_unclipped``
            divides by the tokens that were not clipped, which hides the clipping.
    """
    num_tokens_N = tokens.mask_NT.sum(1)
    length_N = {
        "mean": num_tokens_N,
        "sum": torch.ones_like(num_tokens_N),
        "max_length": torch.full_like(num_tokens_N, tokens.mask_NT.shape[1]),
        "mean_unclipped": tokens.kept_NT.sum(1),
    }[length]
    return CompletionWeights(tokens.weight_NT.sum(1) / length_N.clamp(min=1), num_tokens_N > 0)
