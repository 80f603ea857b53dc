"""What every method does with gradients that make trouble: none, the same, opposite ones, of very different lengths."""

import pytest
import torch

from tests.aggregators.every_aggregator import NON_CONFLICTING_IN_TROUBLE, every_method, gram

# Random gradients with what real batches have: objectives without a signal, with the same one, with nearly the same or
# the opposite one, of very different lengths.
KINDS = ["zero", "duplicate", "nearly parallel", "opposite", "nearly opposite", "decades", "few dimensions"]


def troubled(seed, num, kind):
    generator = torch.Generator().manual_seed(1000 * num + seed)

    def rand(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    gradients_MD = torch.randn(num, 2 if kind == "few dimensions" else num, dtype=torch.float64, generator=generator)
    if kind == "decades":
        return gradients_MD * 10 ** (10 * rand(num, 1) - 5)
    for index in range(1, num):
        if rand(1) > 0.5:
            other_D = gradients_MD[int(rand(1) * index)]
            noise_D = 10 ** (-15 * rand(1)) * torch.randn(len(other_D), dtype=torch.float64, generator=generator)
            gradients_MD[index] = {
                "zero": 0 * other_D,
                "duplicate": other_D,
                "nearly parallel": other_D + noise_D,
                "opposite": -3 * other_D,
                "nearly opposite": noise_D - other_D,
                "few dimensions": gradients_MD[index],
            }[kind]
    return gradients_MD * 10 ** (24 * float(rand(1)) - 12 if seed % 2 else 0)


@every_method
@pytest.mark.parametrize("kind", KINDS)
def test_troubled_gradients_give_finite_weights(make, solve, method, kind):
    for num in range(1, 9):
        for seed in range(2):
            weights_M = solve(
                make(method, torch.linspace(1, 2, num).tolist()), gram(troubled(seed, num, kind))
            ).weights_M
            assert weights_M.isfinite().all()
            assert (weights_M >= 0).all()


@pytest.mark.parametrize("method", NON_CONFLICTING_IN_TROUBLE)
@pytest.mark.parametrize("kind", KINDS)
def test_troubled_gradients_harm_none_where_that_is_promised(make, solve, method, kind):
    """Up to what inner products in float64 tell of a direction."""
    for num in range(2, 9):
        for seed in range(6):
            gradients_MD = troubled(seed, num, kind)
            norms_M = gradients_MD.norm(dim=1)
            known = norms_M > 0
            weights_M = solve(make(method, num), gram(gradients_MD)).weights_M
            rise_M = -(gradients_MD @ (weights_M @ gradients_MD))[known] / norms_M[known]
            assert float(rise_M.max()) <= 2e-7 * float(weights_M @ norms_M)


@every_method
@pytest.mark.parametrize("num", range(1, 9))
def test_objectives_without_a_gradient_change_nothing_for_the_others(make, solve, random_gradients, method, num):
    """The step is that of the problem without them, times the preference for those that are left."""
    for seed in range(2):
        for missing in sorted({1, num // 2, num - 1} - {0, num}):
            gradients_MD = random_gradients(seed, num, dim=num, decades=2 * (seed % 2))
            order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
            left = order[missing:].sort().values
            gradients_MD[order[:missing]] = 0
            preference = torch.linspace(1, 2, num, dtype=torch.float64)
            share = float(preference[left].sum() / preference.sum())
            losses_M = torch.linspace(0.5, 0.9, num)
            mu = {"mu": 2.0} if method == "clamp" else {}
            scaled = {"mu": 2.0 / share} if method == "clamp" else {}
            whole = make(method, preference.tolist(), **mu)
            reduced = make(method, preference[left].tolist(), **scaled)
            for step in range(2):
                losses_M = losses_M / (1 + step * torch.linspace(0, 1, num))
                weights_M = solve(whole, gram(gradients_MD), losses_M).weights_M[left]
                expected_M = solve(reduced, gram(gradients_MD[left]), losses_M[left]).weights_M
                factor = 1 if method in ("mgda", "torchjd") else share
                if method in ("gradnorm", "dynamic"):  # a state, to the sum of 1
                    weights_M, factor = weights_M / weights_M.sum(), 1
                torch.testing.assert_close(
                    weights_M @ gradients_MD[left],
                    factor * expected_M @ gradients_MD[left],
                    rtol=1e-9,
                    atol=1e-9 * float(gradients_MD.norm(dim=1).max()),
                )
            assert whole.num_fallback == 0


@pytest.mark.parametrize("method", ["cagrad", "clamp", "linear", "mgda", "upgrad"])
@pytest.mark.parametrize("num", [1, 3, 5])
def test_two_objectives_of_one_gradient_are_as_one(make, solve, random_gradients, method, num):
    for seed in range(6):
        gradients_MD = random_gradients(seed, num)
        preference = torch.linspace(1, 2, num, dtype=torch.float64)
        twice_MD = torch.cat([gradients_MD, gradients_MD[:1]])
        split = torch.cat([preference, preference[:1] / 2])
        split[0] /= 2
        if method == "clamp":  # it minimises over multipliers: its duplicates have the preference of the one
            split = torch.cat([preference, preference[:1]])
        expected_D = solve(make(method, preference.tolist()), gram(gradients_MD)).weights_M @ gradients_MD
        step_D = solve(make(method, split.tolist()), gram(twice_MD)).weights_M @ twice_MD
        if method == "clamp":
            step_D *= split.sum() / preference.sum()
            expected_D, step_D = (each_D / each_D.norm() for each_D in (expected_D, step_D))
        torch.testing.assert_close(step_D, expected_D, rtol=1e-8, atol=1e-9)


@every_method
def test_answers_that_are_not_believed_are_counted_and_saved(make, solve, random_gradients, method, monkeypatch):
    def stopped(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    gram_MM = gram(random_gradients(3, 4, common=-1.0))
    expected_M = solve(make(method, 4), gram_MM).weights_M
    monkeypatch.setattr("scipy.optimize.nnls", stopped)
    aggregator = make(method, 4)
    torch.testing.assert_close(solve(aggregator, gram_MM).weights_M, expected_M, rtol=1e-9, atol=1e-12)
    assert (aggregator.num_fallback > 0) == (method in ("mgda", "upgrad", "cagrad", "cagrad_clip"))
    restored = make(method, 4)
    restored.load_state_dict(aggregator.state_dict())
    assert restored.num_fallback == aggregator.num_fallback
