"""The Gram matrix of the objectives' gradients without the noise that one batch's gradients share.

R: the measured gradients: those of the M objectives, and that of the step where it is none of their combinations.
H = 2 R: those of the two halves of a batch, half by half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.covariance.diagnostics import finite
from ctwa.state import Stateful

STEP = "*"
"""What stands among the names for the gradient of the step, which no objective can be called."""


def halves_of(group_N: Tensor, takes_part_N: Tensor) -> Tensor:
    """The half of each completion, int8 (N,): 0 or 1, and -1 for one that has no gradient.

    Whole prompts, every other one, in their own order: how rows are dealt to ranks does not matter. Of an odd number
    the first half has one more.

    Args:
        group_N: the prompt of each completion, in the order of the step.
        takes_part_N: bool, the completions that may have a gradient; their prompts take part.
    """
    prompts_B = group_N[takes_part_N].unique()
    place_N = torch.searchsorted(prompts_B, group_N).clamp(max=max(len(prompts_B) - 1, 0))
    takes_part_N = torch.isin(group_N, prompts_B)
    return torch.where(takes_part_N, place_N % 2, -1).to(torch.int8)


def split_gram(gram_HH: Tensor, num_rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """The plain and the cross-fitted Gram matrix (R, R) of one batch.

    With g = a + b, the gradients of the two halves, the plain entry is ``<g_i, g_j>``: its expectation is the product
    of the expected gradients, and the covariance of the two beside it. Two halves have no completion in common, so
    ``<a_i, b_j>`` has no such term. As a holds the share s of the completions, its expectation is s times that of g,
    and ``(<a_i, b_j> + <b_i, a_j>) / (2 s (1 - s))`` is unbiased: 2 (...) where the halves are equal.

    Args:
        gram_HH: inner products of all gradients of the halves.
        num_rows: the completions of each half.

    Returns:
        The second is None where a half has no completion.
    """
    num = len(gram_HH) // 2
    first_RR, cross_RR, second_RR = gram_HH[:num, :num], gram_HH[:num, num:], gram_HH[num:, num:]
    plain_RR = first_RR + second_RR + cross_RR + cross_RR.T
    if not all(num_rows):
        return plain_RR, None
    share = num_rows[0] / sum(num_rows)
    return plain_RR, (cross_RR + cross_RR.T) / (2 * share * (1 - share))


class CrossFittedGram(Stateful):
    """The mean of cross-fitted Gram matrices over the measurements of a run, the latest of which count most.

    A measurement is one mini-batch. Its weight halves with every ``half_life`` further ones.

    Args:
        names: of the R gradients.
        half_life: of a measurement, in measurements.

    Attributes:
        num: the measurements so far.
    """

    state_of = "cross-fitted Gram matrix"
    STATE = ("num", "_weight", "_squares", "_mean_M", "_spread_M", "_plain_M")

    def __init__(self, names: Sequence[str], half_life: float) -> None:
        self.names = tuple(names)
        self.half_life = half_life
        self.num = 0
        self._weight = self._squares = 0.0  # sums of the weights, and of their squares
        nothing_R = torch.zeros(len(self.names), dtype=torch.float64)
        # Matrices, row by row, so that they are saved by name.
        self._mean_M = [nothing_R.clone() for _ in self.names]
        self._spread_M = [nothing_R.clone() for _ in self.names]  # weighted squared deviations from the mean
        self._plain_M = [nothing_R.clone() for _ in self.names]

    def identity(self) -> dict[str, Any]:
        """The measured gradients."""
        return {"gradients": list(self.names)}

    def observe(self, cross_RR: Tensor, plain_RR: Tensor) -> None:
        """Take up a measurement: ``split_gram``'s two matrices, finite."""
        decay = 0.5 ** (1 / self.half_life)
        old, self._weight = decay * self._weight, decay * self._weight + 1
        self._squares = decay**2 * self._squares + 1
        change_RR = cross_RR - self.gram_RR
        spread_RR = decay * torch.stack(self._spread_M) + old / self._weight * change_RR.square()
        mean_RR = self.gram_RR + change_RR / self._weight
        self._plain_M = list(self.plain_RR + (plain_RR - self.plain_RR) / self._weight)
        self._mean_M, self._spread_M = list(mean_RR), list(spread_RR)
        self.num += 1

    @property
    def gram_RR(self) -> Tensor:
        """The mean: symmetric and unbiased, but for a policy that moves; an eigenvalue may be negative."""
        return torch.stack(self._mean_M)

    @property
    def plain_RR(self) -> Tensor:
        """The mean of the plain matrices."""
        return torch.stack(self._plain_M)

    @property
    def errors_RR(self) -> Tensor:
        """The standard errors of the mean's entries, from their spread over the measurements; infinite before two.

        What the policy's motion adds to the spread is in them, and that neighbours are alike is not.
        """
        share = self._squares / self._weight**2 if self._weight else 1.0
        if share >= 1:
            return torch.full_like(self.gram_RR, math.inf)
        variance_RR = torch.stack(self._spread_M) / self._weight / (1 - share)
        return (variance_RR * share).sqrt()

    def cosines(self) -> Tensor:
        """The mean in units of the plain gradients' norms, (R, R): 0 for gradients of zeros."""
        inverse_R = self._inverse_norms()
        return inverse_R[:, None] * self.gram_RR * inverse_R

    def semi_definite(self) -> Tensor:
        """The mean with eigenvalues of 0 for the negative ones, in units of the plain gradients' norms (R, R).

        In these units the gradient of a small reward is not lost beside that of a large one.
        """
        eigenvalues_R, vectors_RR = torch.linalg.eigh(self.cosines())
        clipped_RR = (vectors_RR * eigenvalues_R.clamp(min=0)) @ vectors_RR.T
        norms_R = self.plain_RR.diagonal().clamp(min=0).sqrt()
        gram_RR = norms_R[:, None] * clipped_RR * norms_R
        return (gram_RR + gram_RR.T) / 2

    def metrics(self) -> dict[str, float]:
        """What ``docs/trace.md`` lists under ``conflict/``; nothing before the first measurement."""
        if not self.num:
            return {}
        names = [name for name in self.names if name != STEP]
        num = len(names)
        gram_MM, errors_MM = self.gram_RR[:num, :num], self.errors_RR[:num, :num]
        norms_M = gram_MM.diagonal().sqrt()  # NaN where the noise is larger
        metrics = {
            "conflict/noise_share": 1 - float(gram_MM.trace() / self.plain_RR[:num, :num].trace()),
            "conflict/lowest_eigenvalue": float(torch.linalg.eigvalsh(self.cosines()[:num, :num])[0]),
            "conflict/num_measured": float(self.num),
        }
        for row, name in enumerate(names):
            metrics[key_of.conflict_norm(name)] = float(norms_M[row])
            for column, other in enumerate(names[row + 1 :], start=row + 1):
                scale = norms_M[row] * norms_M[column]
                metrics[key_of.conflict_cosine(name, other)] = float(gram_MM[row, column] / scale)
                metrics[key_of.conflict_error(name, other)] = float(errors_MM[row, column] / scale)
        return finite(metrics)

    def _inverse_norms(self) -> Tensor:
        squared_R = self.plain_RR.diagonal()
        return torch.where(squared_R > 0, squared_R.rsqrt(), 0.0)
