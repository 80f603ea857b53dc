import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import minimize

from ctwa.aggregators.clamp import kkt_violation, simplex_minimum
from ctwa.errors import CtwaError


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


class Case:
    """A random problem, and what CLAMP makes of it; everything is recomputed from the gradients."""

    def __init__(self, make, gradients_MD, seed, **options):
        generator = torch.Generator().manual_seed(seed)
        num = len(gradients_MD)
        self.preference_M = 0.05 + torch.rand(num, dtype=torch.float64, generator=generator)
        self.preference_M /= self.preference_M.sum()
        self.losses_M = 0.4 + 0.5 * torch.rand(num, dtype=torch.float64, generator=generator)
        self.gram_MM = gradients_MD @ gradients_MD.T
        self.solution = make("clamp", self.preference_M.tolist(), **options).solve(self.gram_MM, losses_M=self.losses_M)
        self.weights_M = self.solution.weights_M
        self.multiplier_M = self.weights_M / self.preference_M
        self.mu = self.solution.metrics["clamp/mu"]
        self.inner_M = self.gram_MM @ self.weights_M
        self.squared = self.weights_M @ self.inner_M
        self.weighted_M = self.preference_M * self.losses_M
        self.quadratic_MM = self.preference_M[:, None] * self.gram_MM * self.preference_M
        self.scale = max(float(self.quadratic_MM.diagonal().max()), self.mu * float(self.weighted_M.max()))

    def objective(self, multiplier_M):
        return multiplier_M @ self.quadratic_MM @ multiplier_M - self.mu * multiplier_M @ self.weighted_M


@pytest.fixture
def cases(make, random_gradients):
    def cases(num, seeds, *, options=None, **gradients):
        return [Case(make, random_gradients(seed, num, **gradients), seed, **(options or {})) for seed in seeds]

    return cases


MUS = [0.0, 0.01, 1.0, 10.0, 100.0, 1e6]


@pytest.mark.parametrize("mu", MUS)
@pytest.mark.parametrize("num", [2, 3, 5, 8])
@pytest.mark.parametrize("gradients", [{}, {"decades": 3}, {"dim": 2}, {"common": 3}])
def test_the_conditions_of_karush_kuhn_and_tucker_hold(cases, mu, num, gradients):
    for case in cases(num, range(6), options={"mu": mu}, **gradients):
        multiplier_M = case.multiplier_M
        assert (multiplier_M >= 0).all()
        assert float(multiplier_M.sum()) == pytest.approx(1, abs=1e-12)
        slope_M = 2 * case.preference_M * case.inner_M - case.mu * case.weighted_M
        level = multiplier_M @ slope_M
        assert float((level - slope_M).max()) <= 1e-9 * case.scale
        assert float((multiplier_M * (slope_M - level)).abs().max()) <= 1e-9 * case.scale


@pytest.mark.parametrize("mu", MUS)
@pytest.mark.parametrize("num", [2, 3, 5, 8])
def test_the_exact_inequality(cases, mu, num):
    """First-order optimality, objective by objective: with equality for those with a multiplier."""
    for case in cases(num, range(10), options={"mu": mu}):
        gap_M = case.mu / 2 * (case.multiplier_M @ case.weighted_M - case.weighted_M)
        slack_M = case.preference_M * case.inner_M - case.squared + gap_M
        assert float(slack_M.min()) >= -1e-9 * case.scale
        assert float(slack_M[case.multiplier_M > 0].abs().max()) <= 1e-9 * case.scale


@pytest.mark.parametrize("num", [2, 3, 5, 8])
def test_without_losses_every_objective_gains_by_the_squared_step_over_its_preference(cases, num):
    for case in cases(num, range(20), options={"mu": 0.0}):
        assert (case.preference_M * case.inner_M >= case.squared * (1 - 1e-9)).all()


@pytest.mark.parametrize("mu", MUS)
@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_papers_lemma_holds_under_the_sufficient_condition(cases, mu, num):
    """Lemma 5.3 as its proof has it: ``||g||^2 <= 2 max(p) <g_m, g>``."""
    for case in cases(num, range(40), options={"mu": mu}):
        gap = (case.multiplier_M @ case.weighted_M - case.weighted_M).max()
        if mu * gap <= case.squared:
            assert float(case.squared) <= float(2 * case.preference_M.max() * case.inner_M.min()) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("gradients", "preference", "losses", "mu"),
    [
        ([[3, 0], [-2, 2]], [0.8, 0.2], [0.69, 0.69], 100),
        ([[2, 0, 0], [0, 1, 0], [-1, 0, 1]], [1 / 3] * 3, [0.6, 0.7, 0.65], 5),
    ],
    ids=["L3", "L4"],
)
def test_the_papers_lemma_fails_where_mu_is_not_small(make, gradients, preference, losses, mu):
    """And an objective gets worse, which no step of MGDA allows."""
    gram_MM = tensor(*gradients) @ tensor(*gradients).T
    weights_M = make("clamp", preference, mu=mu).solve(gram_MM, losses_M=tensor(*losses)).weights_M
    inner_M = gram_MM @ weights_M
    assert float(weights_M @ inner_M) > 2 * max(preference) * float(inner_M.min())
    assert float(inner_M.min()) < 0


def test_how_often_the_papers_lemma_holds(goldens, make):
    """The record's own setting; the draws are others, so the frequencies agree up to their standard error."""
    generator = torch.Generator().manual_seed(0)
    num_draws = 200
    for mu, expected, expected_condition in goldens["L10_lemma_frequency"]["rows"]:
        aggregator, holds, condition = make("clamp", [0.8, 0.2], mu=mu), 0, 0
        for _ in range(num_draws):
            gradients_MD = torch.randn(2, 8, dtype=torch.float64, generator=generator)
            losses_M = 0.4 + 0.5 * torch.rand(2, dtype=torch.float64, generator=generator)
            gram_MM = gradients_MD @ gradients_MD.T
            weights_M = aggregator.solve(gram_MM, losses_M=losses_M).weights_M
            inner_M, squared = gram_MM @ weights_M, float(weights_M @ gram_MM @ weights_M)
            weighted_M = aggregator.preference_M * losses_M
            gap = weights_M @ losses_M - weighted_M.min()
            holds += squared <= 1.6 * float(inner_M.min()) * (1 + 1e-9)
            condition += mu * float(gap) <= squared
        assert holds / num_draws == pytest.approx(expected, abs=0.1)
        assert condition / num_draws == pytest.approx(expected_condition, abs=0.1)


@pytest.mark.parametrize("mu", MUS)
def test_two_objectives_in_closed_form(cases, mu):
    for case in cases(2, range(40), options={"mu": mu}, decades=2):
        (first, inner), (_, second) = case.quadratic_MM.tolist()
        difference = float(case.weighted_M[0] - case.weighted_M[1])
        multiplier = (second - inner + mu * difference / 2) / (first + second - 2 * inner)
        expected = min(max(multiplier, 0), 1)
        assert float(case.multiplier_M[0]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num", [3, 5])
@pytest.mark.parametrize("mu", [0.0, 1.0, 100.0])
def test_a_general_solver_does_no_better(cases, num, mu):
    for case in cases(num, range(4), options={"mu": mu}):
        quadratic, linear = case.quadratic_MM.numpy(), -case.mu * case.weighted_M.numpy()
        result = minimize(
            lambda x, q=quadratic, b=linear: x @ q @ x + b @ x,
            np.full(num, 1 / num),
            jac=lambda x, q=quadratic, b=linear: 2 * q @ x + b,
            bounds=[(0, 1)] * num,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        least = float(case.objective(case.multiplier_M))
        assert least <= result.fun + 1e-9 * case.scale
        assert result.fun == pytest.approx(least, abs=1e-5 * case.scale)


def test_mu_0_is_mgda_on_the_gradients_times_the_preference(make, cases):
    for case in cases(4, range(10), options={"mu": 0.0}):
        mgda_M = make("mgda", 4).solve(case.quadratic_MM).weights_M
        torch.testing.assert_close(case.multiplier_M, mgda_M, rtol=1e-8, atol=1e-10)


def test_a_large_mu_trains_the_largest_weighted_loss_alone(cases):
    for case in cases(4, range(10), options={"mu": 1e9}):
        assert int(case.multiplier_M.argmax()) == int(case.weighted_M.argmax())
        assert float(case.multiplier_M.max()) == pytest.approx(1, abs=1e-15)


def test_the_preference_is_turned_around_where_mu_is_0(make):
    """Orthogonal gradients of one length: weights as 1 / p."""
    weights_M = make("clamp", [0.8, 0.2], mu=0).solve(torch.eye(2), losses_M=tensor(0.7, 0.7)).weights_M
    assert float(weights_M[1] / weights_M[0]) == pytest.approx(4)


def test_gradients_and_mu_in_one_unit(make, random_gradients):
    """mu is a squared gradient over a loss; the relative one is without a unit."""
    gradients_MD = random_gradients(1, 3)
    gram_MM, losses_M = gradients_MD @ gradients_MD.T, tensor(0.5, 0.6, 0.7)
    mean = float(gram_MM.diagonal().mean())
    absolute = make("clamp", 3, mu=2 * mean).solve(gram_MM, losses_M=losses_M)
    assert absolute.metrics["clamp/relative_mu"] == pytest.approx(2)
    relative = make("clamp", 3, mu=2.0, relative=True).solve(gram_MM, losses_M=losses_M)
    assert relative.metrics["clamp/mu"] == pytest.approx(2 * mean)
    torch.testing.assert_close(relative.weights_M, absolute.weights_M, rtol=1e-12, atol=0)
    for power in (-900, -30, 60, 900):
        scaled = make("clamp", 3, mu=2.0, relative=True).solve(gram_MM * 2.0**power, losses_M=losses_M)
        assert torch.equal(scaled.weights_M, relative.weights_M)
    other_M = make("clamp", 3, mu=2 * mean).solve(100 * gram_MM, losses_M=losses_M).weights_M
    assert float((other_M - absolute.weights_M).abs().max()) > 0.01


def test_the_share_of_the_losses_is_reported(make):
    metrics = make("clamp", [0.5, 0.5], mu=4.0).solve(tensor([3.0, 0.0], [0.0, 1.0]), losses_M=tensor(0.6, 0.8)).metrics
    assert metrics["clamp/loss_share"] == pytest.approx(4 * 0.5 * 1.0 / (0.25 * 4))


def test_a_single_objective_of_weight_is_trained_at_full_length(make):
    """Taken literally, the others are ballast: they take multiplier, and at mu = 0 nothing is left."""
    gram_MM, losses_M = torch.diag(tensor(100.0, 1.0)), tensor(0.69, 0.69)
    for mu in (0.0, 100.0):
        assert make("clamp", [1.0, 0.0], mu=mu).solve(gram_MM, losses_M=losses_M).weights_M.tolist() == [1, 0]
    literal = make("clamp", [1.0, 0.0], mu=0.0, literal=True).solve(gram_MM, losses_M=losses_M)
    assert literal.weights_M.tolist() == [0, 0]
    literal = make("clamp", [1.0, 0.0], mu=100.0, literal=True).solve(gram_MM, losses_M=losses_M)
    assert float(literal.weights_M[0]) == pytest.approx(min(1, 100 * 0.69 / 200))


def test_who_has_no_part_leaves_the_others_their_solution(make, random_gradients):
    gradients_MD = random_gradients(3, 3)
    pair = [0, 2]
    gram_MM = gradients_MD @ gradients_MD.T
    pair_MM, losses_M = gram_MM[pair][:, pair], tensor(0.5, 0.6, 0.7)
    expected_M = make("clamp", [0.5, 0.3], mu=1.0).solve(pair_MM, losses_M=losses_M[pair]).weights_M * 0.8
    missing_M = losses_M.clone()
    missing_M[1] = torch.nan
    gradients_MD[1] = 0
    without_MM = gradients_MD @ gradients_MD.T
    # mu is a unit: preferences of 0.8 in sum make a problem of 0.64 times the size, and losses 0.8 times as large.
    for gram, losses, preference in ((gram_MM, missing_M, [0.5, 0.2, 0.3]), (without_MM, losses_M, [0.5, 0.2, 0.3])):
        solution = make("clamp", preference, mu=0.8).solve(gram, losses_M=losses)
        torch.testing.assert_close(solution.weights_M[pair], expected_M, rtol=1e-12, atol=1e-14)
        assert solution.weights_M[1] == 0
        assert solution.metrics["clamp/left_out"] == 1


def test_nobody_left_keeps_the_weights(make):
    aggregator = make("clamp", [1.0, 0.0])
    gram_MM = torch.diag(tensor(0.0, 2.0))
    assert aggregator.solve(gram_MM, losses_M=tensor(0.5, 0.5)).weights_M.tolist() == [1, 0]


def test_parallel_gradients_train_the_larger_loss(make):
    """The quadratic part is the same everywhere then, and only the losses decide."""
    gram_MM = torch.full((3, 3), 2.0, dtype=torch.float64)
    solution = make("clamp", 3).solve(gram_MM, losses_M=tensor(0.5, 0.9, 0.7))
    torch.testing.assert_close(solution.weights_M, tensor(0, 1 / 3, 0))


@pytest.mark.parametrize("num", [1, 2, 4])
def test_a_constant_has_its_minimum_everywhere_and_equal_shares_are_given(num):
    minimum_M = simplex_minimum(torch.zeros(num, num, dtype=torch.float64), torch.full((num,), 3.0).double())
    assert minimum_M.tolist() == [1 / num] * num


def test_a_hull_that_holds_0_is_seen(random_gradients):
    """The system of a face may be solvable although its Gram matrix is singular."""
    for vectors_MD in (tensor([1.0, 2.0], [-1.0, -2.0]), tensor([1.0, 0.0], [-0.5, 1.0], [-0.5, -1.0])):
        minimum_M = simplex_minimum(vectors_MD @ vectors_MD.T, torch.zeros(len(vectors_MD)).double())
        torch.testing.assert_close(minimum_M, torch.full_like(minimum_M, 1 / len(minimum_M)))


def test_the_violation_is_that_of_the_definition():
    quadratic_MM, linear_M = tensor([2.0, 0.5], [0.5, 1.0]), tensor(0.1, -0.2)
    points_CM = tensor([0.5, 0.5], [1.0, 0.0])
    for point_M, violation in zip(points_CM, kkt_violation(quadratic_MM, linear_M, points_CM), strict=True):
        slope_M = 2 * quadratic_MM @ point_M + linear_M
        level = point_M @ slope_M
        assert float(violation) == pytest.approx(
            max(float((level - slope_M).max()), float((point_M * (slope_M - level)).abs().max()))
        )


def test_pwg_modpo_is_linear(make, random_gradients):
    """What CLAMP's paper calls PWG-MODPO, gradients times the preference, needs no method of its own."""
    aggregator = make("linear", [0.8, 0.2])
    gradients_MD = random_gradients(0, 2)
    weights_M = aggregator.solve(gradients_MD @ gradients_MD.T).weights_M
    assert weights_M.tolist() == [0.8, 0.2]


def test_mistakes_are_named(make):
    for mu in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValidationError, match="mu"):
            make("clamp", 2, mu=mu)
    with pytest.raises(CtwaError, match="up to 14 objectives, and here are 15"):
        make("clamp", 15)
    with pytest.raises(CtwaError, match="losses"):
        make("clamp", 2).solve(torch.eye(2))


def test_faces_are_all_tried(random_gradients):
    """A minimum on every size of face turns up among random problems, so no size is left out."""
    sizes = set()
    for seed in range(60):
        gradients_MD = random_gradients(seed, 5, common=0.5 * (seed % 4))
        minimum_M = simplex_minimum(gradients_MD @ gradients_MD.T, torch.zeros(5).double())
        sizes.add(int((minimum_M > 0).sum()))
    assert sizes == {1, 2, 3, 4, 5}
