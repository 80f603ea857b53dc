"""Where the objectives' mean rewards began, and where they are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor


class MeansSinceStart:
    """Of each objective the mean reward of its first batches, and the exponential average of the batches since.

    Args:
        num_objectives: M.
        warmup: the number of batches that the start is the mean of. In them the average is the start.
        half_life: the number of batches after which one counts half in the average.

    Attributes:
        start_M, mean_M, num_batches_M: the state; the start and the average are 0 before the first batch.
    """

    STATE: ClassVar[tuple[str, ...]] = ("start_M", "mean_M", "num_batches_M")

    def __init__(self, num_objectives: int, *, warmup: int, half_life: float) -> None:
        self.warmup = warmup
        self.decay = 0.5 ** (1 / half_life)
        self.start_M = torch.zeros(num_objectives, dtype=torch.float64)
        self.mean_M = torch.zeros_like(self.start_M)
        self.num_batches_M = torch.zeros_like(self.start_M, dtype=torch.int64)

    @property
    def known_M(self) -> Tensor:
        """Bool: where a batch came after the warm-up, so that the average says something of the start."""
        return self.num_batches_M > self.warmup

    def observe(self, means_M: Tensor) -> None:
        """Take in a batch: its mean rewards, NaN for an objective that scored nothing, which stands still."""
        for m, mean in enumerate(means_M):
            if mean.isnan():
                continue
            self.num_batches_M[m] += 1
            if self.num_batches_M[m] <= self.warmup:
                self.start_M[m] += (mean - self.start_M[m]) / self.num_batches_M[m]
                self.mean_M[m] = self.start_M[m]
            else:
                self.mean_M[m] = self.decay * self.mean_M[m] + (1 - self.decay) * mean
