"""Which policy loss TRL's configuration asks for, and how it weighs a token."""

from __future__ import annotations

import math
from typing import Any

from ctwa.policy_loss import Cispo, Gspo, PolicyLoss, Sapo, Vanilla

_BY_COMPLETION = ("grpo", "sapo")
"""The losses that take the mean over each completion's tokens first. The others divide by one number for the batch:
its tokens (dapo, cispo), completions times the length limit (dr_grpo), completions (luspo)."""

_CLIPPED = ("grpo", "dr_grpo", "dapo", "luspo")


def why_unknown(args: Any) -> str:
    """Why nobody but TRL knows how the loss weighs a token; "" where `read_policy_loss` does.

    Args:
        args: a ``GRPOConfig``.
    """
    loss, sequence = f"loss_type='{args.loss_type}'", args.importance_sampling_level == "sequence"
    known = args.loss_type in (*_CLIPPED, "cispo", "sapo", "bnpo")
    reasons = {
        f"{loss} has no weight in ctwa": not known,
        f"{loss} divides by the tokens of each micro-batch": args.loss_type == "bnpo",
        "off_policy_mask_threshold drops completions by what the update has done so far": (
            args.off_policy_mask_threshold is not None
        ),
        "top_entropy_quantile drops tokens by what else is in their micro-batch": args.top_entropy_quantile < 1,
        f"importance_sampling_level='sequence' with {loss} has no weight in ctwa": (
            sequence and args.loss_type in ("cispo", "sapo")
        ),
        "importance_sampling_level='sequence' with delta has no weight in ctwa": sequence and args.delta is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def read_policy_loss(args: Any) -> PolicyLoss | None:
    """The policy loss of a ``GRPOConfig``, as TRL differentiates it; None where `why_unknown` says why.

    TRL's ``delta`` bounds the ratio from above whatever the advantage is: below the clip range it takes over for
    positive advantages, and for negative ones the larger of the two bounds holds.
    """
    if why_unknown(args):
        return None
    by_completion = args.loss_type in _BY_COMPLETION
    low, high = args.epsilon, args.epsilon if args.epsilon_high is None else args.epsilon_high
    if args.loss_type == "sapo":
        return Sapo(args.sapo_temperature_pos, args.sapo_temperature_neg, by_completion=by_completion)
    if args.loss_type == "cispo":  # TRL's bound is the ratio itself, from above alone
        return Cispo(math.inf, high - 1, by_completion=by_completion)
    if args.importance_sampling_level == "sequence":
        return Gspo(low, high, by_completion=by_completion)
    if args.delta is None:
        return Vanilla(low, high, by_completion=by_completion)
    return Vanilla(low, min(high, args.delta - 1), max(args.delta, 1 + high), by_completion=by_completion)
