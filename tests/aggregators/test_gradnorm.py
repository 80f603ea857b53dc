import math

import pytest
import torch
from pydantic import ValidationError

from ctwa.errors import CtwaError

EDGES = [[-0.1, 0.2], [math.nan, 0.2], [math.inf, 0.5], [0.0, 0.0], [-1.0, -2.0], [math.nan, math.nan]]


def norms(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64).square())


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def step(aggregator, gram_MM, losses_M):
    solution = aggregator.solve(gram_MM, losses_M=losses_M)
    return solution.weights_M, [solution.metrics[f"gradnorm/rate/{name}"] for name in aggregator.names]


@pytest.mark.parametrize("losses", EDGES)
@pytest.mark.parametrize("first", EDGES)
def test_losses_that_say_nothing_give_the_rate_1(make, first, losses):
    aggregator = make("gradnorm", 2)
    step(aggregator, norms(1, 2), tensor(*first))
    weights_M, rates = step(aggregator, norms(1, 2), tensor(*losses))
    assert weights_M.isfinite().all()
    assert (weights_M > 0).all()
    assert all(rate > 0 and math.isfinite(rate) for rate in rates)


def test_signed_losses_of_either_sign_give_the_rate_1(make):
    """The published code has a NaN here: the surrogate loss of a policy gradient is near 0 with either sign."""
    aggregator = make("gradnorm", 2)
    aggregator.first_losses_M = tensor(0.05, 0.1)
    _, rates = step(aggregator, norms(1, 1), tensor(-0.1, 0.2))
    assert rates == [1, 1]


def test_first_losses_have_a_floor_and_wait_for_a_loss(make):
    aggregator = make("gradnorm", 3)
    for losses in ([0.0, math.nan, 0.5], [0.2, 0.8, 0.4], [0.3, 0.4, 0.1]):
        step(aggregator, norms(1, 1, 1), tensor(*losses))
    assert aggregator.first_losses_M.tolist() == [1e-3, 0.8, 0.5]


def test_the_slow_objective_gains_weight(make):
    aggregator = make("gradnorm", 2)
    for losses in ([1.0, 1.0], [0.9, 0.2], [0.9, 0.1], [0.9, 0.1]):
        weights_M, _ = step(aggregator, norms(1, 1), tensor(*losses))
    assert float(weights_M[0]) == pytest.approx(0.5 + 3 * 0.025 / 2)


def test_with_alpha_0_the_weighted_norms_become_equal(make):
    aggregator = make("gradnorm", 2, alpha=0.0, eta=0.01)
    for _ in range(200):
        solution = aggregator.solve(norms(1, 3))  # whatever the losses are
    assert float(solution.weights_M[0] / solution.weights_M[1]) == pytest.approx(3, abs=0.2)
    assert not any(key.startswith("gradnorm/rate/") for key in solution.metrics)


def test_a_weight_never_reaches_0(make):
    """A step longer than the weight would turn the objective's gradient around."""
    aggregator = make("gradnorm", 2, eta=0.5, raw=True)
    for _ in range(20):
        weights_M, _ = step(aggregator, norms(1, 1000), tensor(1, 1))
        assert (weights_M > 0).all()
        assert float(weights_M.sum()) == pytest.approx(1)


def test_raw_steps_scale_with_the_gradients(make):
    """As published: gradients ten times as long take the same step with a tenth of eta, and another with the same."""
    gram_MM, losses_M = norms(1, 2, 4), tensor(1, 1, 1)
    weights_M = make("gradnorm", 3, raw=True).solve(gram_MM, losses_M=losses_M).weights_M
    same_M = make("gradnorm", 3, raw=True, eta=0.0025).solve(100 * gram_MM, losses_M=losses_M).weights_M
    other_M = make("gradnorm", 3, raw=True).solve(100 * gram_MM, losses_M=losses_M).weights_M
    torch.testing.assert_close(same_M, weights_M, rtol=1e-12, atol=0)
    assert (other_M - weights_M).abs().max() > 0.1


def test_a_step_of_0_keeps_the_preference(make):
    aggregator = make("gradnorm", [0.2, 0.8], eta=0.0)
    weights_M, _ = step(aggregator, norms(1, 5), tensor(1, 2))
    torch.testing.assert_close(weights_M, tensor(0.2, 0.8), rtol=1e-12, atol=0)


def test_mistakes_are_named(make):
    with pytest.raises(CtwaError, match="'objective_1'"):
        make("gradnorm", [1.0, 0.0])
    with pytest.raises(ValidationError, match="alpha"):
        make("gradnorm", 2, alpha=-1)
    with pytest.raises(CtwaError, match="losses"):
        make("gradnorm", 2).solve(norms(1, 1))
