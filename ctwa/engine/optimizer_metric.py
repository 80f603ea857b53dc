"""The metric in which an optimizer of Adam's kind takes the steepest step: the step is not along the gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from ctwa.gradients.settings import WARM_UP
from ctwa.gradients.store import local_part


def knows_mean_squares(optimizer: Optimizer) -> bool:
    """Whether Adam has made enough steps to know the mean squares of the gradients."""
    return any(float(state["step"]) >= WARM_UP for state in optimizer.state.values())


def preconditioner(optimizer: Optimizer, parameter: torch.nn.Parameter) -> Tensor | None:
    """What Adam multiplies each element of an averaged gradient by, but for the learning rate: ``1 / (sqrt(v) + eps)``.

    Args:
        optimizer: Adam or AdamW.
        parameter: one of its.

    Returns:
        This rank's part, flat and float64; None for a parameter that no gradient has reached yet.
    """
    assert isinstance(optimizer, Adam)  # AdamW is one
    state = optimizer.state.get(parameter)
    if not state:
        return None
    group = next(each for each in optimizer.param_groups if any(other is parameter for other in each["params"]))
    squares = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    mean = local_part(squares).flatten().double() / correction
    return 1 / (mean.sqrt() + group["eps"])
