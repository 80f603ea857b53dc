"""Objectives that are read off the log-probabilities of a training step: KL from the reference policy, and entropy.

As reward functions they say that they do not apply: outside of a training step nobody knows the log-probabilities. In
a step the trainer fills their values in, as soon as the policies have been asked (``from_log_probs``). Reward workers
import this module, so it imports nothing heavy.

Dimensions: N completions, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import ctwa

if TYPE_CHECKING:
    from torch import Tensor

    from ctwa.batch import RewardMatrix

Quantity = Literal["kl", "entropy"]


def kl(response: str) -> str:
    """Minus the KL divergence of the policy from the reference policy, in nats a token: 0 at most, in the mean.

    A completion's value is ``mean_t log reference(y_t) - log pi(y_t)``. Its gradient by the score function is that of
    the expected value, since the expectation of ``grad log pi`` is 0; other estimates of a KL lack that.
    """
    del response
    return ctwa.NOT_APPLICABLE


def entropy(response: str) -> str:
    """The entropy of the policy, in nats a token, estimated from the tokens it sampled: ``mean_t -log pi(y_t)``."""
    del response
    return ctwa.NOT_APPLICABLE


QUANTITIES: dict[str, Quantity] = {f"{__name__}:kl": "kl", f"{__name__}:entropy": "entropy"}
"""By the ``reward_fn`` that an objective names."""


def from_log_probs(
    quantities: Mapping[str, Quantity], mask_NT: Tensor, log_probs_NT: Tensor, reference_NT: Tensor | None
) -> RewardMatrix:
    """The values of some objectives.

    Args:
        quantities: what each objective measures, by its name.
        mask_NT: 1 on the tokens that the policy wrote; a row without any is not scored.
        log_probs_NT: of these tokens under the policy before the update.
        reference_NT: the same under the reference policy; None where no objective asks for it.
    """
    from ctwa.batch import RewardMatrix  # imports torch

    mask_NT, log_probs_NT = mask_NT.double(), log_probs_NT.double()
    num_N = mask_NT.sum(1)
    columns = {}
    for name, quantity in quantities.items():
        values_NT = -log_probs_NT
        if quantity == "kl":
            assert reference_NT is not None
            values_NT = reference_NT.double() - log_probs_NT
        columns[name] = ((values_NT * mask_NT).sum(1) / num_N).tolist()
    return RewardMatrix.from_columns(columns)
