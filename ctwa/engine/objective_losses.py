"""The losses of the objectives in verl's update: the clipped loss of each alone, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from ctwa.engine.verl.columns import advantages_column
from ctwa.gradients.plan import GradientPlan

OBJECTIVE_LOSSES = "objective_losses"
"""Where, among the metrics that it returns, a loss function puts the :class:`ObjectiveLosses` of a micro-batch."""


class ObjectiveLosses(NamedTuple):
    """What a micro-batch's loss function found.

    Attributes:
        each: M losses; None is that of an objective that has no part in the micro-batch.
        shared: what all objectives share; None where that is nothing.
    """

    each: Sequence[Tensor | None]
    shared: Tensor | None = None


def policy_losses(
    loss_fn: Callable[..., tuple[Tensor, dict]],
    model_output: dict[str, Any],
    data: TensorDict,
    dp_group: Any,
    plan: GradientPlan,
) -> tuple[list[Tensor], Tensor | None, dict]:
    """The loss of each objective, what all share, and the metrics of the loss.

    Args:
        loss_fn: verl's loss, a partial with the actor's ``config``: clipped surrogate, entropy bonus, KL to the
            reference.
        model_output: log-probs, and entropy where it was computed.
        data: the micro-batch, with each objective's advantages.
        dp_group: the data-parallel ranks.
        plan: the step's plan.

    Returns:
        M losses without entropy and KL terms (a policy loss with a penalty of its own has it in each, and so once where
        the weights' sum is 1); these terms alone, or None where there are none (with no aggregator: the
        whole loss of the batch's ``advantages``); and the metrics of the loss of ``advantages``.
    """
    config = loss_fn.keywords["config"]  # type: ignore[attr-defined]
    whole, metrics = loss_fn(model_output=model_output, data=data, dp_group=dp_group)
    bare_output = {key: value for key, value in model_output.items() if key != "entropy"}
    bare_config = replace(config, use_kl_loss=False) if config.use_kl_loss else config

    def bare(advantages: Tensor) -> Tensor:
        rows = data.clone(recurse=False).set("advantages", advantages)
        return loss_fn(config=bare_config, model_output=bare_output, data=rows, dp_group=dp_group)[0]

    losses = [bare(data[advantages_column(column)]) for column in range(len(plan.names))]
    if plan.aggregator is None:
        return losses, whole, metrics
    if not config.use_kl_loss and not ("entropy" in model_output and config.entropy_coeff):
        return losses, None, metrics
    nothing = torch.zeros_like(data["advantages"])
    rows = data.clone(recurse=False).set("advantages", nothing)
    shared, _ = loss_fn(model_output=model_output, data=rows, dp_group=dp_group)
    # A penalty that the policy loss has of its own is in each objective's loss already.
    return losses, shared - bare(nothing), metrics
