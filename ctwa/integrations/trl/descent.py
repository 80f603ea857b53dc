"""The objectives' gradients in TRL's update, and the step that a method makes of them.

Every process has the whole model: its gradients are kept beside each other until the last micro-batch of an optimizer
step, averaged over the processes, measured, and combined where the optimizer looks for one.

Dimensions: N completions of all processes, S those of a micro-batch, M objectives, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ctwa.gradients.plan import GradientPlan
from ctwa.gradients.store import GradientStore


@dataclass
class Descent:
    """How the optimizer steps on one batch of completions come about.

    Attributes:
        plan: what is done with the gradients.
        advantages_MNT: each objective's own.
    """

    plan: GradientPlan
    advantages_MNT: Tensor
    _store: GradientStore | None = None
    _rows_of_half: Tensor = field(default_factory=lambda: torch.zeros(2))

    def losses(self, rows_S: Tensor, num_tokens: int, loss_of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The loss of each objective on a micro-batch; of each half of its prompts, half by half, where they are taken.

        Args:
            rows_S: which of the batch's completions are in it.
            num_tokens: T of the micro-batch.
            loss_of: the loss with given advantages (S, T), a sum over completions but for what it is divided by: then
                the losses of two halves add up to that of both.
        """
        advantages_MST = self.advantages_MNT[:, rows_S, :num_tokens]
        if self.plan.half_N is None or not self.plan.measures:
            return [loss_of(each_ST) for each_ST in advantages_MST]
        half_S = self.plan.half_N[rows_S]
        self._rows_of_half = self._rows_of_half + torch.stack([(half_S == half).sum() for half in range(2)])
        return [loss_of(each_ST * (half_S == half)[:, None]) for half in range(2) for each_ST in advantages_MST]

    def combined(self, losses: list[Tensor], shared: Tensor | None, *, is_last: bool) -> Tensor:
        """The loss of a micro-batch that is not measured, by the last weights; of the last one a record is kept."""
        assert self.plan.aggregator is not None
        weights = self.plan.aggregator.last_weights_M
        if is_last:
            self.plan.hold()
        total = torch.stack([weight * loss for weight, loss in zip(weights.tolist(), losses, strict=True)]).sum()
        return total if shared is None else total + shared

    def take(self, parameters: Iterable[nn.Parameter], losses: list[Tensor], shared: Tensor | None) -> None:
        """Add the gradients of a micro-batch: one backward pass each, through one graph.

        Args:
            parameters: what is trained.
            losses: as `losses` gives them.
            shared: the loss that all objectives share; None where that is nothing.
        """
        if self._store is None:
            self._store = GradientStore(parameters, len(losses) + 1)
        present = losses if shared is None else [*losses, shared]
        for place, loss in enumerate(present):
            self._store.backward(place, loss, retain_graph=place < len(present) - 1)

    def step(self, learning_rate: float) -> None:
        """Make the weighted sum of the gradients the parameters' own: none, where they are not finite."""
        store, plan = self._store, self.plan
        assert store is not None
        num_rows = self._rows_of_half.to(store.parameters[0].device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(num_rows)
        store.average()
        plain_MM = plan.observe(store.gram(len(plan.names) * plan.num_halves), num_rows.tolist())
        solution = plan.weigh(plain_MM, None, learning_rate)
        if not solution.skipped:
            store.combine([*solution.weights_M.tolist() * plan.num_halves, 1.0])
        self._store, self._rows_of_half = None, torch.zeros(2)
