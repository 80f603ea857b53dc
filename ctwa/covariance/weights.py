"""Policy-gradient weights: what the loss really multiplied each completion's score function by.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), Eq. 6-7 and section 5.1; ``ctwa.policy_loss`` has the weight of every loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import Update
from ctwa.policy_loss import LossTokens, PolicyLoss

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
    new_NT, old_NT, seen_advantages_NT = (
        torch.where(seen_NT, values_NT.double(), 0.0)
        for values_NT in (log_probs_new_NT, log_probs_old_NT, advantages_NT)
    )
    weight_NT, kept_NT = loss.weigh(LossTokens(new_NT, old_NT, seen_advantages_NT, seen_NT))
    weight_NT = weight_NT * loss.scale_N1(seen_NT)
    trained_NT = seen_NT
    if importance_NT is not None:
        factor_NT = loss.importance(importance_NT.double(), seen_NT)
        weight_NT, trained_NT = weight_NT * factor_NT, seen_NT & (factor_NT != 0)
    kept_NT = mask_NT & (kept_NT | ~trained_NT)
    return TokenWeights(torch.where(trained_NT & kept_NT, weight_NT, 0.0), kept_NT, mask_NT)


def update_weights(update: Update, loss: PolicyLoss) -> TokenWeights:
    """The token weights of an update.

    Args:
        update: what it did.
        loss: its own, or that without clipping.
    """
    rollout = update.rollout
    return token_weights(
        update.log_probs_new_NT,
        update.log_probs_old_NT,
        update.advantages_NT,
        rollout.mask_NT,
        loss,
        rejected_NT=rollout.rejected_NT,
        importance_NT=rollout.importance_NT,
    )


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
