"""TRL's advantage estimator, handed to the methods as a function of one score a completion.

Dimensions: N completions, T tokens, R completions that take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import Rollout
from ctwa.scalarizers.group_relative import GroupRelative

EPSILON = 1e-4
"""What TRL adds to a standard deviation before it divides by it."""

ScaleRewards = Literal["group", "batch", "none"]


@dataclass(frozen=True)
class Answered:
    """The question that TRL has answered itself: ``advantages_N`` are its own, of ``scores_N``, float64."""

    scores_N: Tensor
    advantages_N: Tensor


@dataclass(frozen=True)
class TrlEstimate:
    """GRPO's advantages as TRL estimates them: a score less the mean of its prompt, over a standard deviation.

    TRL adds rewards up in float32, and in the order of its reward functions. Asked for the very scores that it was
    asked for, this gives its answer, to the last bit; all others are computed in float64 and rounded at the end.

    Attributes:
        rollout: the batch that the scores are of.
        scale: what the standard deviation is of: the prompt's completions, the batch, or nothing is divided.
        answered: what TRL was asked.
    """

    rollout: Rollout
    scale: ScaleRewards
    answered: Answered | None = None

    @property
    def scale_invariant(self) -> bool:
        """True where it divides, but for ``EPSILON``."""
        return self.scale != "none"

    def __call__(self, scores_N: Tensor, rows_N: Tensor | None = None) -> Tensor:
        """Advantages, float32 (N, T), of scores (N,); of some rows as if they were the batch, and 0 on the others."""
        if rows_N is None and self.answered is not None and torch.equal(scores_N, self.answered.scores_N):
            return self.answered.advantages_N.float()[:, None] * self.rollout.loss_mask_NT
        by_prompt = GroupRelative(self.rollout, standardise=self.scale == "group", epsilon=EPSILON)
        if self.scale == "batch":
            scores_R = scores_N if rows_N is None else scores_N[rows_N]
            if len(scores_R) > 1:  # of a single one there is nothing to divide
                scores_N = scores_N / (scores_R.double().std() + EPSILON)
        return by_prompt(scores_N, rows_N)
