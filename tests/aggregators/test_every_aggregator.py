"""What every method has to do, whichever it is: a method added to the registry is tested here without a line more."""

import json
import math
import pickle

import pytest
import torch

from ctwa.errors import CtwaError
from tests.aggregators.every_aggregator import (
    FROM_THE_PREFERENCE,
    NON_CONFLICTING,
    NON_CONFLICTING_IN_PAIRS,
    SCALE_FREE,
    TO_THE_SUM_OF_1,
    every_method,
    gram,
)

WEIGHTS = {"accuracy": 0.5, "brevity": 0.2, "clarity": 0.3}


def grams(random_gradients, num_steps, num=3, **options):
    return [gram(random_gradients(seed, num, **options)) for seed in range(num_steps)]


def loss_steps(num_steps, num=3):
    generator = torch.Generator().manual_seed(7)
    return list(torch.rand(num_steps, num, dtype=torch.float64, generator=generator))


@every_method
@pytest.mark.parametrize("num", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("decades", [0, 3])
def test_weights_are_finite_and_a_step_is_taken(make, solve, random_gradients, method, num, decades):
    for seed in range(4):
        gradients_MD = random_gradients(seed, num, decades=decades, common=seed)
        aggregator = make(method, [1.0 + m for m in range(num)])
        solution = solve(aggregator, gram(gradients_MD))
        assert solution.weights_M.shape == (num,)
        assert solution.weights_M.dtype == torch.float64
        assert solution.weights_M.isfinite().all()
        assert (solution.weights_M >= 0).all()
        assert not solution.skipped
        assert (solution.weights_M @ gradients_MD).norm() > 0
        assert all(math.isfinite(value) for value in solution.metrics.values())
        assert torch.equal(aggregator.last_weights_M, solution.weights_M)


@every_method
def test_a_step_goes_along_the_weighted_gradients_of_losses_that_have_a_graph(make, method):
    """The weights are constants: the gradient of the weighted sum of the losses is that of the gradients."""
    aggregator = make(method, WEIGHTS)
    point_D = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    goals_MD = torch.eye(4, dtype=torch.float64)[:3]
    for _ in range(3):
        losses_M = 0.3 + (point_D - goals_MD).square().sum(1)
        gradients_MD = torch.stack(
            [torch.autograd.grad(loss, point_D, create_graph=True)[0] for loss in losses_M.unbind()]
        )
        gram_MM = gram(gradients_MD)
        solution = aggregator.solve(gram_MM, losses_M=losses_M, learning_rate=0.1, errors_MM=0.01 * gram_MM.abs())
        (found_D,) = torch.autograd.grad(solution.weights_M @ losses_M, point_D)
        assert torch.allclose(found_D, solution.weights_M @ gradients_MD.detach(), rtol=1e-12, atol=0)
        assert not aggregator.last_weights_M.requires_grad
        point_D = (point_D.detach() - 0.05 * found_D).requires_grad_()


@every_method
def test_metrics_are_of_the_objectives_by_name(make, solve, random_gradients, method):
    solution = solve(make(method, WEIGHTS), gram(random_gradients(0, 3)))
    for key in solution.metrics:
        # verl takes a key with either word for an extremum over ranks
        assert "max" not in key
        assert "min" not in key
        assert "objective" not in key
        assert key.count("/") == (2 if key.rpartition("/")[2] in WEIGHTS else 1)


@every_method
def test_it_starts_from_the_preference(make, method):
    aggregator = make(method, {"b": 3.0, "a": 1.0})
    assert aggregator.names == ("a", "b")
    assert aggregator.last_weights_M.tolist() == [0.25, 0.75]


@every_method
def test_the_order_of_the_objectives_changes_no_bit(make, solve, random_gradients, method):
    forwards, backwards = make(method, WEIGHTS), make(method, dict(reversed(WEIGHTS.items())))
    for gram_MM, losses_M in zip(grams(random_gradients, 3), loss_steps(3), strict=True):
        expected = solve(forwards, gram_MM, losses_M)
        assert torch.equal(solve(backwards, gram_MM, losses_M).weights_M, expected.weights_M)


@every_method
@pytest.mark.parametrize("num", [2, 3, 5])
def test_renaming_the_objectives_renames_their_weights(make, solve, random_gradients, method, num):
    weights_M = torch.linspace(0.1, 1, num).tolist()
    order = torch.randperm(num, generator=torch.Generator().manual_seed(num))
    aggregator = make(method, weights_M)
    renamed = make(method, [weights_M[m] for m in order])
    for gram_MM, losses_M in zip(grams(random_gradients, 4, num), loss_steps(4, num), strict=True):
        expected_M = solve(aggregator, gram_MM, losses_M).weights_M[order]
        actual_M = solve(renamed, gram_MM[order][:, order], losses_M[order]).weights_M
        torch.testing.assert_close(actual_M, expected_M, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", SCALE_FREE)
@pytest.mark.parametrize("num", [2, 3, 8])
def test_the_scale_of_the_gradients_does_not_matter(make, solve, random_gradients, method, num):
    gram_MM = gram(random_gradients(1, num, decades=1))
    expected_M = solve(make(method, num), gram_MM).weights_M
    for power in (-900, -30, 4, 60, 900):
        scaled_M = solve(make(method, num), gram_MM * 2.0**power).weights_M
        assert torch.equal(scaled_M, expected_M), f"powers of two round nothing, but 2^{power} changed {method}"
    for scale in (1e-14, 1 / 3, 1e17):
        scaled_M = solve(make(method, num), gram_MM * scale).weights_M
        torch.testing.assert_close(scaled_M, expected_M, rtol=1e-9, atol=1e-12)


@every_method
def test_a_state_restored_in_mid_run_continues_to_the_last_bit(make, solve, random_gradients, method):
    steps = list(zip(grams(random_gradients, 6), loss_steps(6), strict=True))
    steps.insert(2, (torch.full((3, 3), math.nan, dtype=torch.float64), torch.ones(3)))
    steps.insert(3, (torch.zeros(3, 3, dtype=torch.float64), torch.ones(3)))
    whole = make(method, WEIGHTS)
    for gram_MM, losses_M in steps[:5]:
        solve(whole, gram_MM, losses_M)
    restored = make(method, WEIGHTS)
    restored.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    pickled = pickle.loads(pickle.dumps(whole))
    assert torch.equal(restored.last_weights_M, whole.last_weights_M)
    assert (restored.num_skipped, restored.num_held) == (1, 1)
    for gram_MM, losses_M in steps[5:]:
        expected = solve(whole, gram_MM, losses_M)
        for continued in (restored, pickled):
            actual = solve(continued, gram_MM, losses_M)
            assert torch.equal(actual.weights_M, expected.weights_M)
            assert actual.metrics == expected.metrics
    assert repr(restored.state_dict()) == repr(whole.state_dict())  # repr: NaN is not equal to itself


@every_method
def test_a_foreign_state_is_refused(make, method):
    aggregator = make(method, WEIGHTS)
    other = make("mgda" if method == "linear" else "linear", WEIGHTS)
    with pytest.raises(CtwaError, match=f"method '{other.method}' where this run has '{method}'"):
        aggregator.load_state_dict(other.state_dict())
    with pytest.raises(CtwaError, match="objectives"):
        aggregator.load_state_dict(make(method, {"accuracy": 1.0, "style": 1.0}).state_dict())
    with pytest.raises(CtwaError, match="version 2"):
        aggregator.load_state_dict(aggregator.state_dict() | {"version": 2})


@every_method
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 1)])
def test_a_gram_matrix_that_is_not_finite_skips_the_step(make, solve, random_gradients, method, value, place):
    first, spoiled, last = grams(random_gradients, 3)
    spoiled[place] = spoiled[place[::-1]] = value
    untroubled, aggregator = make(method, WEIGHTS), make(method, WEIGHTS)
    expected = solve(untroubled, first)
    assert torch.equal(solve(aggregator, first).weights_M, expected.weights_M)
    solution = solve(aggregator, spoiled)
    assert solution.skipped
    assert torch.equal(solution.weights_M, expected.weights_M)
    assert aggregator.num_skipped == 1
    assert aggregator.num_held == 0
    # and leaves nothing behind
    assert torch.equal(solve(aggregator, last).weights_M, solve(untroubled, last).weights_M)


@every_method
@pytest.mark.parametrize("dim", [2, 3])
def test_a_gram_matrix_with_rounding_errors_is_no_trouble(make, solve, random_gradients, method, dim):
    """Five gradients in two dimensions, in single precision: singular but for the rounding, and not quite symmetric."""
    for seed in range(10):
        gradients_MD = random_gradients(seed, 5, dim=dim)
        gram_MM = gram(gradients_MD.float()).double()
        gram_MM[0, 1] *= 1 + 1e-7
        weights_M = solve(make(method, 5), gram_MM).weights_M
        assert weights_M.isfinite().all()
        assert (weights_M >= 0).all()
        if method in NON_CONFLICTING:
            harm_M = -gradients_MD @ (weights_M @ gradients_MD)
            assert harm_M.max() <= 1e-3


@every_method
def test_zero_gradients_keep_the_weights(make, solve, random_gradients, method):
    zero_MM = torch.zeros(3, 3, dtype=torch.float64)
    aggregator, untroubled = make(method, WEIGHTS), make(method, WEIGHTS)
    assert solve(aggregator, zero_MM).weights_M.tolist() == pytest.approx(list(WEIGHTS.values()))
    expected = solve(untroubled, gram(random_gradients(0, 3)))
    solve(aggregator, gram(random_gradients(0, 3)))
    solution = solve(aggregator, zero_MM)
    assert not solution.skipped
    assert torch.equal(solution.weights_M, expected.weights_M)
    assert (aggregator.num_held, aggregator.num_skipped) == (2, 0)


def solve_without_the_second(aggregator, solve, random_gradients):
    """The solution where the second of three objectives has no gradient, after one in which all had."""
    solve(aggregator, gram(random_gradients(0, 3)))
    gradients_MD = random_gradients(1, 3)
    gradients_MD[1] = 0
    return solve(aggregator, gram(gradients_MD)).weights_M


@every_method
def test_weights_that_hold_until_the_next_solution_are_of_one_solution(make, solve, random_gradients, method):
    """An objective without a gradient may have one again before: it has a weight, and the others are as solved."""
    aggregator = make(method, WEIGHTS)
    weights_M = solve_without_the_second(aggregator, solve, random_gradients)
    last_M = aggregator.last_weights_M
    assert last_M[1] > 0
    assert float(last_M.sum()) == pytest.approx(float(weights_M.sum()), rel=1e-12)
    torch.testing.assert_close(last_M[[0, 2]] * weights_M[0], weights_M[[0, 2]] * last_M[0], rtol=1e-12, atol=0)
    assert (weights_M[1] == 0) == aggregator.leaves_out
    if aggregator.leaves_out:  # the preference is what there is to go by
        assert float(last_M[1] / last_M.sum()) == pytest.approx(WEIGHTS["brevity"])
    else:
        assert torch.equal(last_M, weights_M)


@pytest.mark.parametrize("method", TO_THE_SUM_OF_1)
def test_where_weights_sum_to_1_those_that_are_kept_do(make, solve, random_gradients, method):
    aggregator = make(method, WEIGHTS)
    weights_M = solve_without_the_second(aggregator, solve, random_gradients)
    assert [float(each.sum()) for each in (weights_M, aggregator.last_weights_M)] == pytest.approx([1, 1])


@every_method
def test_an_objective_that_had_all_the_weight_and_loses_its_gradient_does_not_keep_it(make, solve, method):
    """MGDA gives all weight to the shortest of parallel gradients, as that of an objective that is all but learned."""
    aggregator = make(method, 2)
    solve(aggregator, torch.tensor([[4.0, 2e-3], [2e-3, 1e-6]], dtype=torch.float64))
    solve(aggregator, torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64)))
    assert aggregator.last_weights_M[0] > 0.4 * aggregator.last_weights_M.sum()


@every_method
def test_a_method_is_shown_float64_on_the_cpu(make, method, monkeypatch):
    """Whatever precision the caller has: a run that reads its numbers from float32 has no other solver."""
    aggregator, seen = make(method, 2), []
    weigh = aggregator.weights
    monkeypatch.setattr(aggregator, "weights", lambda gradients: (seen.append(gradients), weigh(gradients))[1])
    aggregator.solve(torch.eye(2), losses_M=torch.ones(2), learning_rate=1e-6, errors_MM=0.1 * torch.ones(2, 2))
    [gradients] = seen
    for values in (gradients.gram_MM, gradients.losses_M, gradients.errors_MM):
        assert (values.dtype, values.device.type) == (torch.float64, "cpu")


@every_method
def test_one_objective_is_trained_on_its_own_gradient(make, solve, method):
    weights_M = solve(make(method, {"accuracy": 0.3}), torch.tensor([[25.0]])).weights_M
    assert weights_M.tolist() == [pytest.approx(1.4 if method.startswith("cagrad") else 1.0)]


@every_method
@pytest.mark.parametrize("num", [2, 3, 8])
def test_identical_gradients_make_a_step_along_them(make, solve, method, num):
    gram_MM = torch.full((num, num), 5.0, dtype=torch.float64)
    weights_M = solve(make(method, num), gram_MM).weights_M
    assert (weights_M >= 0).all()
    # CLAMP's weights sum to an average of the preference.
    expected = 1 / num if method == "clamp" else 1.4 if method.startswith("cagrad") else 1.0
    assert float(weights_M.sum()) == pytest.approx(expected)


@every_method
def test_opposite_gradients_of_equal_weight_make_no_step(make, solve, method):
    gradients_MD = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    weights_M = solve(make(method, 2), gram(gradients_MD)).weights_M
    assert weights_M.isfinite().all()
    torch.testing.assert_close(weights_M @ gradients_MD, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


@every_method
def test_an_objective_without_a_gradient_does_not_stop_the_others(make, solve, method):
    gradients_MD = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-0.5, 1.0]], dtype=torch.float64)
    for scale in (0.0, 1e-14):
        gradients_MD[1] = scale * torch.tensor([-3.0, 2.0])
        weights_M = solve(make(method, 3), gram(gradients_MD)).weights_M
        assert weights_M.isfinite().all()
        assert (weights_M @ gradients_MD).norm() > 0.15


@pytest.mark.parametrize("method", NON_CONFLICTING)
@pytest.mark.parametrize("num", [2, 3, 5, 8])
def test_no_objective_loses_where_that_is_promised(make, solve, random_gradients, method, num):
    for seed in range(20):
        assert_non_conflicting(make, solve, random_gradients(seed, num, decades=3 * (seed % 2)), method)


@pytest.mark.parametrize("method", NON_CONFLICTING_IN_PAIRS)
def test_neither_of_two_objectives_loses_where_that_is_promised(make, solve, random_gradients, method):
    for seed in range(20):
        assert_non_conflicting(make, solve, random_gradients(seed, 2, dim=2), method)


def assert_non_conflicting(make, solve, gradients_MD, method):
    gram_MM = gram(gradients_MD)
    weights_M = solve(make(method, len(gram_MM)), gram_MM).weights_M
    step = (weights_M @ gram_MM @ weights_M).sqrt()
    assert (gram_MM @ weights_M >= -1e-9 * gram_MM.diagonal().sqrt() * step).all()


@pytest.mark.parametrize("method", FROM_THE_PREFERENCE)
@pytest.mark.parametrize("num", [2, 3, 8])
def test_without_conflicts_the_preference_stays(make, solve, random_gradients, method, num):
    """Of the methods that start from the preference: no correction where nothing conflicts."""
    gradients_MD = torch.eye(num, dtype=torch.float64) + 0.1
    options = {"c": 0.0} if method.startswith("cagrad") else {}
    aggregator = make(method, list(range(1, num + 1)), **options)
    weights_M = solve(aggregator, gram(gradients_MD)).weights_M
    torch.testing.assert_close(weights_M, aggregator.preference_M, rtol=1e-12, atol=0)


@every_method
def test_a_preference_that_says_nothing_is_refused(make, method):
    with pytest.raises(CtwaError, match="weight above 0"):
        make(method, [0.0, 0.0])
    with pytest.raises(CtwaError, match="'objective_1' has the weight -1"):
        make(method, [1.0, -1.0])


@every_method
def test_a_preference_too_large_to_add_up_is_refused(make, method):
    with pytest.raises(CtwaError, match="more than a number can hold"):
        make(method, [1e308, 1e308])
