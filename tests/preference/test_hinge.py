"""The hinge loss; what every loss has to do is in test_losses.py."""

import pytest
import torch
from pydantic import ValidationError

from ctwa.preference import PairLogProbs, pair_losses
from ctwa.preference.hinge import HingeLoss


def pairs(margins: list[float], beta: float) -> PairLogProbs:
    """Pairs of these margins: the policy's log-ratio of the chosen response, with nothing on the other side."""
    chosen_P = torch.tensor(margins, dtype=torch.float64) / beta
    nothing_P = torch.zeros_like(chosen_P)
    lengths_P = torch.ones_like(chosen_P)
    return PairLogProbs(
        (chosen_P - 7).requires_grad_(), nothing_P - 3, lengths_P, lengths_P, nothing_P - 7, nothing_P - 3
    )


@pytest.mark.parametrize("delta", [1.0, 0.25])
def test_it_is_what_the_margin_lacks(delta):
    """RSO's hinge-norm loss: max(0, 1 - gamma (log-ratio of the chosen - of the rejected response))."""
    losses_P = pair_losses(HingeLoss(beta=0.5, delta=delta), pairs([-2.0, 0.0, 0.2, 5.0], 0.5))
    assert losses_P.tolist() == pytest.approx([delta + 2, delta, delta - 0.2, 0])


def test_a_pair_that_is_told_apart_trains_nothing():
    log_probs = pairs([0.5, 0.999, 1.001, 30.0], 0.1)
    pair_losses(HingeLoss(beta=0.1), log_probs).sum().backward()
    assert log_probs.chosen_P.grad.tolist() == pytest.approx([-0.1, -0.1, 0, 0])


def test_smoothed_labels_keep_a_pull_towards_the_margin_of_the_other_label():
    """Beyond delta the share of wrong labels alone pulls back, with the slope of that share."""
    log_probs = pairs([30.0], 0.1)
    pair_losses(HingeLoss(beta=0.1, label_smoothing=0.2), log_probs).sum().backward()
    assert log_probs.chosen_P.grad.tolist() == pytest.approx([0.2 * 0.1])


def test_a_margin_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="delta"):
        HingeLoss(delta=0.0)
