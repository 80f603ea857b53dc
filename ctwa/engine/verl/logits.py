"""Log-probabilities and entropies of logits, by chunks of rows in float32: for where no kernel makes them.

The logits of a micro-batch are its largest tensor: 5 GB in bf16 for 16,384 tokens of a vocabulary of 152,000. verl's
own functions make several more of that size, or one call a token. These hold a few chunks more in the forward pass, and
in the backward pass the gradient in the logits' own type. They write into nothing that they have saved, so that a graph
stands as many backward passes as are wanted.

R is the rows, whatever dimensions they have, C those of a chunk, and V the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_NUMBERS = 1 << 24
"""Logits that are computed with at once: 64 MiB in float32."""
WORKING_BYTES = 2 * 4 * CHUNK_NUMBERS
"""Of the two chunks in float32 that are there at once, beside the logits and their gradient."""


def log_probs_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-probabilities of labels: ``logits[label] - logsumexp(logits)``.

    Stands in for verl's ``logprobs_from_logits_v2``, which goes row by row to save memory. Without padding a row is a
    token, so that it makes thousands of calls, and as many nodes for the backward pass, for every micro-batch.

    Args:
        logits: (..., vocabulary), of any floating type.
        labels: int64 (...).

    Returns:
        (...), in float32, or in float64 where the logits are.
    """
    log_probs_R: Tensor = _LogProbs.apply(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    return log_probs_R.view(labels.shape)


def entropies(logits: Tensor) -> Tensor:
    """The entropies in nats of the distributions that logits make: ``logsumexp(logits) - sum(softmax(logits) logits)``.

    Stands in for verl's ``entropy_from_logits``, which holds three tensors of the logits' shape beside them, in float32
    under autocast on a GPU.

    Args:
        logits: (..., vocabulary), of any floating type.

    Returns:
        (...), in float32, or in float64 where the logits are.
    """
    entropies_R: Tensor = _Entropies.apply(logits.reshape(-1, logits.shape[-1]))
    return entropies_R.view(logits.shape[:-1])


class _LogProbs(torch.autograd.Function):
    """With p the probabilities the slope at a logit is ``-p``, and 1 more at the label's."""

    @staticmethod
    def forward(ctx: Any, logits_RV: Tensor, labels_R: Tensor) -> Tensor:
        chosen, normalizers = [], []
        for some_CV, labels_C in _in_chunks(logits_RV, labels_R):
            wide_CV = some_CV.to(_computing_type(logits_RV))
            normalizers.append(torch.logsumexp(wide_CV, dim=1))
            chosen.append(wide_CV.gather(1, labels_C[:, None]).squeeze(1))
        normalizers_R = torch.cat(normalizers)
        ctx.save_for_backward(logits_RV, labels_R, normalizers_R)
        return torch.cat(chosen) - normalizers_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_R: Tensor) -> tuple[Tensor, None]:
        logits_RV, labels_R, normalizers_R = ctx.saved_tensors
        gradient_RV = torch.empty_like(logits_RV)
        for some_CV, into_CV, *of_rows in _in_chunks(logits_RV, gradient_RV, labels_R, normalizers_R, gradient_R):
            labels_C1, normalizers_C1, slopes_C1 = (each_C[:, None] for each_C in of_rows)
            found_CV = _probabilities(some_CV, normalizers_C1, into_CV).mul_(-slopes_C1)
            _write(found_CV.scatter_add_(1, labels_C1, slopes_C1), into_CV)
        return gradient_RV, None


class _Entropies(torch.autograd.Function):
    """With p the probabilities and m the mean logit under them the slope at a logit x is ``p (m - x)``."""

    @staticmethod
    def forward(ctx: Any, logits_RV: Tensor) -> Tensor:
        means, normalizers = [], []
        for (some_CV,) in _in_chunks(logits_RV):
            wide_CV = some_CV.to(_computing_type(logits_RV))
            normalizers.append(torch.logsumexp(wide_CV, dim=1))
            means.append(torch.softmax(wide_CV, dim=1).mul_(wide_CV).sum(1))
        normalizers_R, means_R = torch.cat(normalizers), torch.cat(means)
        ctx.save_for_backward(logits_RV, normalizers_R, means_R)
        return normalizers_R - means_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_R: Tensor) -> Tensor:
        logits_RV, normalizers_R, means_R = ctx.saved_tensors
        gradient_RV = torch.empty_like(logits_RV)
        for some_CV, into_CV, *of_rows in _in_chunks(logits_RV, gradient_RV, normalizers_R, means_R, gradient_R):
            normalizers_C1, means_C1, slopes_C1 = (each_C[:, None] for each_C in of_rows)
            found_CV = _probabilities(some_CV, normalizers_C1, into_CV)
            _write(found_CV.mul_(means_C1 - some_CV).mul_(slopes_C1), into_CV)
        return gradient_RV


def _in_chunks(logits_RV: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal parts of the rows of each. A rest of a few rows would be summed up by several threads, in another order."""
    num_rows, vocabulary = logits_RV.shape
    num_chunks = max(1, math.ceil(num_rows / max(1, CHUNK_NUMBERS // vocabulary)))
    return zip(*(each.tensor_split(num_chunks) for each in (logits_RV, *others)), strict=True)


def _computing_type(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _probabilities(logits_CV: Tensor, normalizers_C1: Tensor, into_CV: Tensor) -> Tensor:
    """In the normalizers' type; written into a tensor where that has it, which takes neither memory nor a copy."""
    out = into_CV if into_CV.dtype == normalizers_C1.dtype else None
    return torch.sub(logits_CV, normalizers_C1, out=out).exp_()


def _write(found_CV: Tensor, into_CV: Tensor) -> None:
    if found_CV is not into_CV:
        into_CV.copy_(found_CV)
