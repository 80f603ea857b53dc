"""GRPO's advantages in plain torch, for a loop that has no estimator of its own; the engine has verl's.

Dimensions: N completions, T tokens, G prompts (groups), R rows that take part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctwa.arguments import check_kind, check_tensor, is_finite
from ctwa.batch import Rollout
from ctwa.errors import CtwaError, shown


@dataclass(frozen=True)
class GroupRelative:
    """A completion's score less the mean of its prompt's, over their standard deviation (GRPO, arXiv 2402.03300).

    Attributes:
        rollout: the batch that the scores are of.
        standardise: False leaves the standard deviation out (Dr. GRPO, arXiv 2503.20783).
        epsilon: what is added to the standard deviation, which is that of a sample: 1e-6 in verl, 1e-4 in TRL.

    Raises:
        CtwaError: the rollout is none, or epsilon is negative or not finite.
    """

    rollout: Rollout
    standardise: bool = True
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        check_kind("rollout", self.rollout, Rollout, "a Rollout")
        check_kind("standardise", self.standardise, bool, "True or False")
        if not is_finite(self.epsilon) or self.epsilon < 0:
            raise CtwaError(f"epsilon is {shown(self.epsilon)}; pass a finite number, 0 or more")

    @property
    def scale_invariant(self) -> bool:
        """True where it standardises."""
        return self.standardise

    def __call__(self, scores_N: Tensor, rows_N: Tensor | None = None) -> Tensor:
        """Advantages, float32 (N, T), of scores (N,): the same on every token that the loss sees, 0 on the others.

        Where all completions of a prompt have one score, or only one of them takes part, they are exactly 0.

        Args:
            scores_N: the scores.
            rows_N: bool, the completions that take part; None for all.

        Raises:
            CtwaError: scores or rows are not of the rollout's completions.
        """
        scores_N = check_tensor("scores_N", scores_N, N=len(self.rollout.mask_NT))
        rows_N = torch.ones_like(scores_N, dtype=torch.bool) if rows_N is None else rows_N
        check_tensor("rows_N", rows_N, dtype=torch.bool, N=len(scores_N))
        groups_G, index_N = self.rollout.group_N.unique(return_inverse=True)
        index_R, scores_R = index_N[rows_N], scores_N[rows_N].double()
        zeros_G = scores_R.new_zeros(len(groups_G))
        num_G = zeros_G.index_add(0, index_R, torch.ones_like(scores_R))
        # Without what they have in common, equal scores are exactly 0: no rounding error is divided by epsilon.
        scores_R = scores_R - zeros_G.scatter_reduce(0, index_R, scores_R, "amin", include_self=False)[index_R]
        mean_G = zeros_G.index_add(0, index_R, scores_R) / num_G.clamp(min=1)
        centred_R = scores_R - mean_G[index_R]
        if self.standardise:
            variance_G = zeros_G.index_add(0, index_R, centred_R.square()) / (num_G - 1).clamp(min=1)
            centred_R = centred_R / (variance_G.sqrt() + self.epsilon)[index_R]
        advantages_N = torch.zeros_like(scores_N, dtype=torch.float64)
        advantages_N[rows_N] = centred_R
        return (advantages_N[:, None] * self.rollout.loss_mask_NT).float()
