"""Common descent: the nearest weights under which no objective falls, by hand and against a search of all faces."""

from itertools import product

import pytest
import torch

from ctwa.aggregators.common_descent import CommonDescent, CommonDescentConfig
from ctwa.solvers.simplex import least_violation, nearest_on_simplex


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def solve(gram_MM, preference, errors_MM=None, **options):
    names = "abcdefgh"[: len(preference)]
    method = CommonDescent(CommonDescentConfig(**options), dict(zip(names, preference, strict=True)))
    return method.solve(gram_MM, errors_MM=errors_MM)


def test_the_weaker_of_two_that_conflict_gets_as_much_weight_as_keeps_it_where_it_is():
    """|g_a| = 1, |g_b| = 2, cosine -.8: a's progress is w_a - 1.6 w_b, which is 0 at w_a = 1.6 / 2.6."""
    solution = solve(matrix([1.0, -1.6], [-1.6, 4.0]), [0.5, 0.5])
    assert solution.weights_M.tolist() == pytest.approx([8 / 13, 5 / 13], abs=1e-12)
    assert solution.metrics["common_descent/binds/a"] == 1
    assert solution.metrics["common_descent/binds/b"] == 0
    assert solution.metrics["common_descent/missed/a"] == 0


def test_of_three_the_one_that_conflicts_with_nobody_pays_its_part():
    """a: w_a - 2 w_b >= 0. Nearest to thirds in the plane w_a = 2 w_b, sum 1: w = (10, 5, 6) / 21 ... by Lagrange."""
    gram_MM = matrix([1.0, -2.0, 0.0], [-2.0, 9.0, 0.0], [0.0, 0.0, 1.0])
    # From p along the projection of (1, -2, 0) on the vectors that sum to 0, (4, -5, 1) / 3: 1/3 - 2/3 + t 14/3 = 0.
    expected = [1 / 3 + 4 / 42, 1 / 3 - 5 / 42, 1 / 3 + 1 / 42]
    assert solve(gram_MM, [1.0, 1.0, 1.0]).weights_M.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("errors", "expected"), [(0.0, 8 / 13), (1.0, 1.3 / 2.4), (2.0, 0.5), (float("inf"), 0.5)])
def test_conflicts_within_their_errors_move_nothing(errors, expected):
    """With z standard errors of .1 and .3: (1 + .1 z) w_a - (1.6 - .3 z) w_b >= 0."""
    error = 1.0 if errors < float("inf") else float("inf")
    errors_MM = error * matrix([0.1, 0.3], [0.3, 0.1])
    solution = solve(matrix([1.0, -1.6], [-1.6, 4.0]), [0.5, 0.5], errors_MM, errors=min(errors, 2.0))
    assert float(solution.weights_M[0]) == pytest.approx(expected, abs=1e-12)


def test_objectives_that_cannot_be_had_together_lose_as_little_as_can_be_and_are_named():
    """An estimate with a negative eigenvalue: a and b conflict more than their norms allow; c is with both."""
    gram_MM = matrix([1.0, -1.5, 0.0], [-1.5, 1.0, 0.0], [0.0, 0.0, 1.0])
    solution = solve(gram_MM[:2, :2], [0.8, 0.2])
    assert solution.weights_M.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert [solution.metrics[f"common_descent/missed/{name}"] for name in "ab"] == pytest.approx([0.25, 0.25])
    # With c there is a way: all weight on it harms nobody.
    whole = solve(gram_MM, [0.4, 0.4, 0.2])
    assert whole.weights_M.tolist() == pytest.approx([0, 0, 1], abs=1e-8)
    assert not any(whole.metrics[f"common_descent/missed/{name}"] for name in "abc")


def test_an_objective_whose_squared_norm_is_estimated_below_0_has_its_condition_and_its_part_in_the_others():
    """a and c lose together whatever their weights are: (H w)_a = w_a - 2 w_c and (H w)_c = -2 w_a - w_c / 100."""
    gram_MM = matrix([1.0, 0.0, -2.0], [0.0, 1.0, 0.0], [-2.0, 0.0, -0.01])
    solution = solve(gram_MM, [1.0, 1.0, 1.0], 0.3 * torch.ones(3, 3), errors=0.0)
    assert solution.weights_M.tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert [solution.metrics[f"common_descent/binds/{name}"] for name in "abc"] == [1, 0, 1]
    assert float((gram_MM @ solution.weights_M).min()) >= -1e-6


@pytest.mark.parametrize(("squared", "error"), [(-0.01, 0), (-0.01, 0.04), (0, 0.04), (1e-12, 0.04), (0.01, 0.04)])
def test_it_does_not_matter_whether_what_is_next_to_nothing_is_above_0(squared, error):
    """a and b exclude each other, and neither is left out. In units of a norm of 1e-6 b's condition would be all."""
    solution = solve(matrix([1.0, -0.3], [-0.3, squared]), [0.5, 0.5], torch.full((2, 2), error), errors=0.0)
    assert 0.05 < float(solution.weights_M[0]) < 0.95
    assert all(solution.metrics[f"common_descent/missed/{name}"] > 0.01 for name in "ab")


@pytest.mark.parametrize("num", [2, 3, 5])
def test_every_condition_is_met_or_said_to_be_missed(num):
    """Estimates of which any entry may have either sign: no objective loses without a word."""
    generator = torch.Generator().manual_seed(num)
    num_below = num_missed = 0
    for _ in range(60):
        gradients_MD = torch.randn(num, 3, dtype=torch.float64, generator=generator)
        noise_MM = torch.randn(num, num, dtype=torch.float64, generator=generator)
        gram_MM = gradients_MD @ gradients_MD.T + 2 * (noise_MM + noise_MM.T)
        errors_MM = torch.rand(num, num, dtype=torch.float64, generator=generator)
        errors_MM = errors_MM + errors_MM.T
        solution = solve(gram_MM, [1.0] * num, errors_MM)
        bounds_MM = gram_MM + errors_MM
        loses_M = bounds_MM @ solution.weights_M < -1e-6 * bounds_MM.abs().max()
        assert float(solution.weights_M.sum()) == pytest.approx(1)
        missed_M = torch.tensor([solution.metrics[f"common_descent/missed/{name}"] for name in "abcdefgh"[:num]])
        assert not bool((loses_M & (missed_M == 0)).any())
        num_below += bool((bounds_MM.diagonal() <= 0).any())
        num_missed += bool((missed_M > 0).any())
    assert num_below
    assert num_missed


@pytest.mark.parametrize("longest", [1.0, 1e3, 1e6, 1e8, 1e10])
def test_no_objective_is_harmed_beside_a_gradient_that_is_far_longer(longest, random_gradients):
    """Of four gradients in three dimensions there may be one way alone to add them up without harm: to 0."""
    for seed in range(20):
        gradients_MD = random_gradients(seed, 4, dim=3)
        gradients_MD[0] *= longest
        gram_MM = gradients_MD @ gradients_MD.T
        weights_M = solve(gram_MM, [1.0] * 4).weights_M
        norms_M = gram_MM.diagonal().sqrt()
        worst = float((gram_MM @ weights_M / norms_M).min() / (weights_M * norms_M).sum())
        assert worst >= -1e-7, seed


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_nearest_of_a_fine_grid_of_the_simplex(seed, random_gradients):
    gradients_MD = random_gradients(seed, 3, dim=3)
    gram_MM = gradients_MD @ gradients_MD.T
    preference_M = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    weights_M = solve(gram_MM, preference_M.tolist()).weights_M
    assert float((gram_MM @ weights_M).min()) >= -1e-9
    steps = 60
    grid = [(i, j, steps - i - j) for i, j in product(range(steps + 1), repeat=2) if i + j <= steps]
    points_GM = torch.tensor(grid, dtype=torch.float64) / steps
    points_GM = points_GM[(points_GM @ gram_MM >= 0).all(1)]
    if len(points_GM):
        assert float((points_GM - preference_M).norm(dim=1).min()) >= float((weights_M - preference_M).norm()) - 1e-9


@pytest.mark.parametrize("num", [2, 3, 5, 8])
def test_conditions_are_met_as_far_as_any_weights_meet_them(num):
    """For estimates with negative eigenvalues: what is missed is a proof that no weights meet all conditions."""
    generator = torch.Generator().manual_seed(num)
    num_missed = 0
    for _ in range(20):
        half_MM = torch.randn(num, num, dtype=torch.float64, generator=generator)
        rows_MM = half_MM + half_MM.T + 0.3 * torch.eye(num, dtype=torch.float64)
        point_M = torch.full((num,), 1 / num, dtype=torch.float64)
        found_M = nearest_on_simplex(point_M, rows_MM)
        _, progress_M = least_violation(rows_MM)
        assert (found_M is None) == bool((progress_M < -1e-9).any())
        if found_M is None:
            num_missed += 1
            assert float((-progress_M @ rows_MM).max()) <= -float(progress_M.square().sum()) + 1e-9
    assert num_missed
