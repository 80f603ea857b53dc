"""Linear layers by oneDNN where torch would take MKL, which is slow on processors that are not Intel's.

On an AMD EPYC with AVX-512 oneDNN's forward product takes four fifths of MKL's time over thousands of rows, and half of
it over the rows of a decoding step.
"""

from __future__ import annotations

import platform
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DECODED_ROWS = 16
"""Of a decoding step, for which the layout is chosen; others are as right, and as quick."""


class _Linear(torch.autograd.Function):
    """``torch.nn.functional.linear`` of fp32; the backward pass, whose products MKL does well, is torch's."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        outputs_RO = gradients[0].reshape(-1, weight.shape[0])
        return (
            (outputs_RO @ weight).view(inputs.shape) if of_inputs else None,
            outputs_RO.t() @ inputs.reshape(-1, weight.shape[1]) if of_weight else None,
            outputs_RO.sum(0) if of_bias and ctx.has_bias else None,
        )


def prefers_onednn(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether oneDNN is the faster one here: torch has MKL, and the processor is AMD's."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkl.is_available():
        return False
    return torch.backends.mkldnn.is_available() and cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def use_onednn(model: nn.Module) -> None:
    """Let a model's fp32 linear layers compute by oneDNN, with the parameters that they have."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32:
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def pack_weights(model: nn.Module) -> None:
    """Let a model's linear layers compute by oneDNN with weights in its own layout: for inference alone.

    Of a parameter oneDNN lays every weight out anew at every call, which over the rows of a decoding step is a fifth of
    the time. A parameter that no other layer has is empty afterwards: give it its values, and pack again.
    """
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.numel():
            vars(module).pop("forward", None)  # with the old weight, so that the new one has its memory
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), DECODED_ROWS)
            module.forward = partial(_packed_forward, packed, module.bias)  # type: ignore[method-assign]
            if uses[id(module.weight)] == 1:
                module.weight.data = module.weight.new_empty(0)


def _packed_forward(weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return outputs


def _forward(module: nn.Linear, inputs: Tensor) -> Tensor:
    if inputs.dtype != torch.float32 or module.weight.dtype != torch.float32 or not inputs.numel():
        return nn.functional.linear(inputs, module.weight, module.bias)
    outputs: Tensor = _Linear.apply(inputs, module.weight, module.bias)
    return outputs
