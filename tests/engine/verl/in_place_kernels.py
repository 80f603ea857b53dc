"""Kernels for GPUs that write into what they saved for their backward pass, in torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from verl.utils import torch_functional


class InPlaceCrossEntropy(torch.autograd.Function):
    """flash-attention's: with ``in_place`` the gradient of the logits takes their place, and no version is counted."""

    @staticmethod
    def forward(ctx: Any, logits_RV: Tensor, labels_R: Tensor, in_place: bool) -> Tensor:
        normalizer_R = logits_RV.double().logsumexp(1)
        ctx.save_for_backward(logits_RV, normalizer_R, labels_R)
        ctx.in_place = in_place
        return (normalizer_R - logits_RV.gather(1, labels_R[:, None]).squeeze(1)).to(logits_RV.dtype)

    @staticmethod
    def backward(ctx: Any, gradient_R: Tensor) -> tuple[Tensor, None, None]:
        logits_RV, normalizer_R, labels_R = ctx.saved_tensors
        slope_RV = (logits_RV.double() - normalizer_R[:, None]).exp()
        slope_RV[torch.arange(len(labels_R)), labels_R] -= 1
        found_RV = (slope_RV * gradient_R[:, None]).to(logits_RV.dtype)
        if not ctx.in_place:
            return found_RV, None, None
        logits_RV.data.copy_(found_RV)
        return logits_RV, None, None


@contextmanager
def flash_attention_cross_entropy() -> Iterator[list[bool]]:
    """Let verl find flash-attention's cross entropy; yields whether each call was to go backward in place."""
    asked: list[bool] = []

    def cross_entropy_loss(logits: Tensor, labels: Tensor, inplace_backward: bool = False) -> tuple[Tensor, None]:
        asked.append(inplace_backward)
        return InPlaceCrossEntropy.apply(logits, labels, inplace_backward), None

    torch_functional.cross_entropy_loss = cross_entropy_loss
    torch_functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE = True
    try:
        yield asked
    finally:
        torch_functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE = False
        del torch_functional.cross_entropy_loss
