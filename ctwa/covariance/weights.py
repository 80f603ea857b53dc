"""Clipped policy-gradient weights: what the loss really multiplied each completion's score function by.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), Eq. 6-7 and section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import ClipRange

LengthNormalization = Literal["mean", "sum", "max_length", "mean_unclipped"]

_MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class TokenWeights:
    """The weight of every token in the policy gradient.

    Attributes:
        weight_NT: float64, advantage x ratio (x correction) where the clipped loss has a gradient, 0 elsewhere (Eq. 7).
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


def clip_indicator(ratio_NT: Tensor, advantages_NT: Tensor, clip: ClipRange) -> Tensor:
    """Where the clipped loss has a gradient, bool (N, T) (Eq. 6, and the dual clip where the loss has one).

    A token loses its gradient when the ratio has already moved past the bound in the direction its advantage asks
    for; with a dual clip, also when the advantage is negative and the ratio is above ``clip.dual``.
    """
    negative_NT = advantages_NT < 0
    # Asked the other way round, so that a ratio that is not a number is kept and shows in the result.
    clipped_NT = torch.where(negative_NT, ratio_NT < 1 - clip.low, ratio_NT > 1 + clip.high)
    if clip.dual is not None:
        clipped_NT = clipped_NT | (negative_NT & (ratio_NT > clip.dual))
    return ~clipped_NT


def token_weights(
    log_probs_new_NT: Tensor,
    log_probs_old_NT: Tensor,
    advantages_NT: Tensor,
    mask_NT: Tensor,
    clip: ClipRange,
    correction_NT: Tensor | None = None,
) -> TokenWeights:
    """The weights W of Eq. 7, in float64, with the log-ratio clamped to +-20.

    Advantages may differ from token to token. What stands in the padding, NaN included, has no influence.

    Args:
        log_probs_new_NT: of the response tokens, under the policy of the ratio's numerator.
        log_probs_old_NT: under that of its denominator.
        advantages_NT: those of the loss.
        mask_NT: 1 (or True) on response tokens.
        clip: the clipping of the loss.
        correction_NT: what the loss multiplies each token by beside these: the importance weights of a rollout
            correction, 0 at tokens that it rejects, which then weigh nothing and count as not clipped. None for 1.
    """
    mask_NT = mask_NT.bool()
    if correction_NT is not None:
        trained_NT = mask_NT & (correction_NT != 0)
        tokens = token_weights(log_probs_new_NT, log_probs_old_NT, advantages_NT, trained_NT, clip)
        weight_NT = torch.where(trained_NT, tokens.weight_NT * correction_NT.double(), 0.0)
        return TokenWeights(weight_NT, tokens.kept_NT | (mask_NT & ~trained_NT), mask_NT)
    log_ratio_NT = torch.where(mask_NT, log_probs_new_NT.double() - log_probs_old_NT.double(), 0.0)
    advantages_NT = torch.where(mask_NT, advantages_NT.double(), 0.0)
    ratio_NT = log_ratio_NT.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    kept_NT = mask_NT & clip_indicator(ratio_NT, advantages_NT, clip)
    return TokenWeights(torch.where(kept_NT, advantages_NT * ratio_NT, 0.0), kept_NT, mask_NT)


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
