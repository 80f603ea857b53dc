"""TRL's advantage estimator, handed to the methods as a function of one score a completion.

Dimensions: N completions, K completions of a prompt, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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
        num_generations: K; completions of a prompt stand together.
        mask_NT: 1 on the tokens that have an advantage.
        scale: what the standard deviation is of: the prompt's completions, the batch, or nothing is divided.
        answered: what TRL was asked.
    """

    num_generations: int
    mask_NT: Tensor
    scale: ScaleRewards
    answered: Answered | None = None

    @property
    def scale_invariant(self) -> bool:
        """True where it divides, but for ``EPSILON``."""
        return self.scale != "none"

    def __call__(self, scores_N: Tensor, rows_N: Tensor | None = None) -> Tensor:
        """Advantages, float32 (N, T), of scores (N,); of some rows as if they were the batch, and 0 on the others."""
        if rows_N is None and self.answered is not None and torch.equal(scores_N, self.answered.scores_N):
            advantages_N = self.answered.advantages_N
        else:
            scores_N = scores_N.double()
            advantages_N = self._of(scores_N if rows_N is None else scores_N.masked_fill(~rows_N, torch.nan))
        return advantages_N.float()[:, None] * self.mask_NT

    def _of(self, scores_N: Tensor) -> Tensor:
        """The advantages (N,); NaN is no score, and what is alone of its prompt has the advantage 0."""
        scores_BK = scores_N.view(-1, self.num_generations)
        advantages_BK = scores_BK - scores_BK.nanmean(1, keepdim=True)
        if self.scale == "group":
            advantages_BK = advantages_BK / (_std(scores_BK, 1) + EPSILON)
        elif self.scale == "batch":
            advantages_BK = advantages_BK / (_std(scores_N, 0) + EPSILON)
        return advantages_BK.reshape(-1).nan_to_num(nan=0.0)


def _std(values: Tensor, dim: int) -> Tensor:
    """The sample standard deviation along a dimension, of what is not NaN; NaN where that is one value."""
    squares = (values - values.nanmean(dim, keepdim=True)).square()
    num = (~values.isnan()).sum(dim, keepdim=True)
    variance = squares.nansum(dim, keepdim=True) / (num - 1)
    return torch.where(num > 1, variance, torch.nan).sqrt()
