import pytest
import torch
from pydantic import ValidationError

from ctwa.errors import CtwaError


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def test_a_learning_rate_of_0_keeps_the_weights(make):
    """A warm-up starts there."""
    weights_M = make("dynamic", [0.2, 0.8]).solve(diagonal(1, 5), learning_rate=0.0).weights_M
    torch.testing.assert_close(weights_M, torch.tensor([0.2, 0.8], dtype=torch.float64), rtol=1e-14, atol=0)


def test_learning_rate_over_mu_times_the_gram_matrix_is_what_counts(make):
    """The method is not scale free: mu has to follow the scale of the gradients."""
    expected_M = make("dynamic", 3).solve(diagonal(1, 2, 3), learning_rate=1e-6).weights_M
    for scale in (1e-3, 7.0, 1e6):
        weights_M = make("dynamic", 3, mu=1e-5 * scale).solve(scale * diagonal(1, 2, 3), learning_rate=1e-6).weights_M
        torch.testing.assert_close(weights_M, expected_M, rtol=1e-9, atol=0)
    assert not torch.allclose(make("dynamic", 3).solve(7 * diagonal(1, 2, 3), learning_rate=1e-6).weights_M, expected_M)


def test_steps_add_up(make):
    twice, once = make("dynamic", 2), make("dynamic", 2)
    twice.solve(diagonal(1, 2), learning_rate=1e-6)
    weights_M = twice.solve(diagonal(3, 1), learning_rate=1e-6).weights_M
    expected_M = once.solve(diagonal(4, 3), learning_rate=1e-6).weights_M
    torch.testing.assert_close(weights_M, expected_M, rtol=1e-12, atol=0)


def test_a_weight_that_rounded_to_0_comes_back(make):
    aggregator = make("dynamic", 2, mu=1e-6)
    assert aggregator.solve(diagonal(0, 2000), learning_rate=1e-6).weights_M.tolist() == [0, 1]
    weights_M = aggregator.solve(diagonal(2000, 0), learning_rate=1e-6).weights_M
    torch.testing.assert_close(weights_M, torch.tensor([0.5, 0.5], dtype=torch.float64), rtol=1e-9, atol=0)


def test_mistakes_are_named(make):
    with pytest.raises(CtwaError, match="'objective_1'"):
        make("dynamic", [1.0, 0.0])
    with pytest.raises(ValidationError, match="mu"):
        make("dynamic", 2, mu=0)
    with pytest.raises(CtwaError, match="learning rate"):
        make("dynamic", 2).solve(diagonal(1, 1))
