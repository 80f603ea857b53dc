"""The gradients of several losses on the shards where they are computed: their inner products, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

CHUNK = 1 << 20
"""Elements of one objective's gradient that are turned into float64 at a time."""


class GradientStore:
    """The gradients of several losses, each accumulated over micro-batches by itself.

    Args:
        parameters: what is trained: the shards that the optimizer holds.
        num_losses: how many.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], num_losses: int) -> None:
        self.parameters = list(parameters)
        self._losses = torch.zeros(num_losses, dtype=torch.float64, device=self.parameters[0].device)
        self._gradients: list[list[Tensor | None]] = [[None] * len(self.parameters) for _ in range(num_losses)]

    def backward(self, index: int, loss: Tensor, *, retain_graph: bool) -> None:
        """Add the gradient of a loss to those of its index."""
        for parameter, gradient in zip(self.parameters, self._gradients[index], strict=True):
            parameter.grad = gradient
        loss.backward(retain_graph=retain_graph)
        self._gradients[index] = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    def add_losses(self, losses: Sequence[Tensor | None]) -> None:
        """Add a rank's losses of a micro-batch; the batch's are the mean over the ranks of their sums."""
        for index, loss in enumerate(losses):
            if loss is not None:
                self._losses[index] += loss.detach()

    def losses(self, num_objectives: int) -> Tensor:
        """The first M losses of the batch over all ranks, float64 (M,)."""
        losses_M = self._losses[:num_objectives].clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(losses_M)
            losses_M /= torch.distributed.get_world_size()
        return losses_M.cpu()

    def average(self) -> None:
        """Make each gradient the mean of the ranks' own: where every rank has the whole model, and rows of its own."""
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return
        device = self.parameters[0].device
        present_HP = torch.tensor([[each is not None for each in row] for row in self._gradients], device=device).int()
        torch.distributed.all_reduce(present_HP, torch.distributed.ReduceOp.MAX)
        for row, present_P in enumerate(present_HP.tolist()):
            for index, parameter in enumerate(self.parameters):
                if present_P[index]:
                    gradient = self._gradients[row][index]
                    total = torch.zeros_like(parameter) if gradient is None else gradient
                    torch.distributed.all_reduce(total)
                    self._gradients[row][index] = total.div_(torch.distributed.get_world_size())

    def gram(
        self,
        num_objectives: int,
        only: Callable[[int], bool] = lambda _: True,
        metric: Callable[[torch.nn.Parameter], Tensor | None] | None = None,
    ) -> Tensor:
        """Inner products of the first M gradients over all ranks, float64 (M, M).

        Args:
            num_objectives: M.
            only: of which parameters, by index.
            metric: what each product of elements counts, of this rank's part of a parameter, flat and float64; None for
                a parameter that does not count. Without it all count 1.
        """
        device = self.parameters[0].device
        gram_MM = torch.zeros(num_objectives, num_objectives, dtype=torch.float64, device=device)
        most = max((min(local_part(each).numel(), CHUNK) for each in self.parameters), default=0)
        # One buffer for all: to be given memory anew takes as long as to fill it.
        buffer = torch.empty(num_objectives * most, dtype=torch.float64, device=device)
        for index in filter(only, range(len(self.parameters))):
            rows = [gradients[index] for gradients in self._gradients[:num_objectives]]
            present = [row for row, gradient in enumerate(rows) if gradient is not None]
            if not present:
                continue
            scale_D = None if metric is None else metric(self.parameters[index])
            if metric is not None and scale_D is None:
                continue
            copies = _num_copies(self.parameters[index])
            shards = [local_part(gradient).flatten() for gradient in rows if gradient is not None]
            for start in range(0, shards[0].numel(), CHUNK):
                parts = [shard[start : start + CHUNK] for shard in shards]
                part_PD = buffer[: len(parts) * len(parts[0])].view(len(parts), len(parts[0]))
                for row, part in enumerate(parts):
                    part_PD[row].copy_(part)
                scaled_PD = part_PD if scale_D is None else part_PD * scale_D[start : start + CHUNK]
                gram_MM[torch.tensor(present)[:, None], torch.tensor(present)] += scaled_PD @ part_PD.T / copies
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(gram_MM)
        return gram_MM.cpu()

    def combine(self, weights: Sequence[float]) -> None:
        """Make ``sum_i weights[i] g_i`` the gradient of the parameters, in place of the first of them."""
        for index, parameter in enumerate(self.parameters):
            total: Tensor | None = None
            for weight, gradients in zip(weights, self._gradients, strict=True):
                gradient = gradients[index]
                if gradient is None or weight == 0:
                    continue
                total = gradient.mul_(weight) if total is None else total.add_(gradient, alpha=weight)
            parameter.grad = total
        self._gradients.clear()


def local_part(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _num_copies(parameter: torch.nn.Parameter) -> int:
    """How many ranks hold each element: an inner product that is summed over all ranks counts it that often."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if not isinstance(parameter, DTensor):
        return ranks
    shards = 1
    for dimension, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            shards *= parameter.device_mesh.size(dimension)
    return ranks // shards
