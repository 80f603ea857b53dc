"""Inner products of gradients as a step of Adam has them."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ctwa.engine.optimizer_metric import knows_mean_squares, preconditioner
from ctwa.gradients.store import GradientStore


def test_in_adams_metric_each_element_counts_as_much_as_a_step_moves_it() -> None:
    moved, untouched = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([moved, untouched], eps=0.0)
    for _ in range(10):
        assert not knows_mean_squares(optimizer)
        moved.grad = torch.tensor([3.0, 4.0])
        optimizer.step()
    assert knows_mean_squares(optimizer)
    store = GradientStore([moved, untouched], 2)
    store.backward(0, (moved * torch.tensor([1.0, 2.0])).sum() + 5 * untouched.sum(), retain_graph=False)
    store.backward(1, (moved * torch.tensor([3.0, 0.0])).sum(), retain_graph=False)
    # The roots of the mean squares are 3 and 4; the other parameter has none, and does not count.
    gram_MM = store.gram(2, metric=partial(preconditioner, optimizer))
    torch.testing.assert_close(gram_MM, torch.tensor([[1 / 3 + 4 / 4, 1.0], [1.0, 3.0]]).double(), rtol=1e-6, atol=0)
