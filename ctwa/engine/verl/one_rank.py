"""FSDP2 on one rank without its copies.

With one rank the shard of a weight is the whole weight. FSDP copies it all the same before each pass, and copies the
gradients once into buffers of their own. Here the gathered weight is the shard itself, and a gradient is handed over
as it is. Nothing else changes: parameters, gradients, optimizer and checkpoints have the form of those of more ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

if TYPE_CHECKING:
    from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam


def share_weights(module: nn.Module) -> bool:
    """Let the gathered weights of a module be the shards themselves.

    Args:
        module: sharded by FSDP2, with its weights loaded, and not called yet.

    Returns:
        Whether they are. They are not where there are more ranks, or where weights or gradients are converted or moved
        on their way.
    """
    parameters = list(_parameters(module))
    if not parameters or dist.get_world_size() > 1 or not all(map(_is_as_gathered, parameters)):
        return False
    for parameter in parameters:
        parameter.all_gather_outputs = [parameter._sharded_param_data]
        parameter.free_unsharded_param = _nothing  # type: ignore[method-assign]  # it would free the weight itself
    return True


def hand_over_gradients(module: nn.Module) -> None:
    """Give the optimizer's parameters the gradients of the gathered ones, which were not reduced."""
    for parameter in _parameters(module):
        gathered = getattr(parameter, "_unsharded_param", None)  # there is none before the first pass
        if gathered is None or gathered.grad is None:
            continue
        gradient, gathered.grad = parameter.to_sharded_dtensor(gathered.grad), None
        shard = parameter.sharded_param
        shard.grad = gradient if shard.grad is None else shard.grad + gradient


def _parameters(module: nn.Module) -> Iterator[FSDPParam]:
    for part in module.modules():
        if isinstance(part, FSDPModule):
            for group in part._get_fsdp_state()._fsdp_param_groups:
                yield from group.fsdp_params


def _is_as_gathered(parameter: FSDPParam) -> bool:
    types = {parameter.mp_policy.param_dtype, parameter.mp_policy.reduce_dtype}
    is_plain = types <= {None, parameter.sharded_param.dtype} and not parameter.is_dtensor
    return is_plain and not parameter.offload_to_cpu and not parameter.all_gather_outputs


def _nothing() -> None: ...
