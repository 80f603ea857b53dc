import math

import pytest
import torch
from pydantic import ValidationError

from ctwa.aggregators.cagrad import worst_mixture
from ctwa.errors import CtwaError

both = pytest.mark.parametrize("method", ["cagrad", "cagrad_clip"])


class Case:
    """A random problem: gradients, preference, c, and what the methods make of them."""

    def __init__(self, make, gradients_MD, seed, c=None):
        generator = torch.Generator().manual_seed(seed)
        num = len(gradients_MD)
        preference_M = torch.rand(num, dtype=torch.float64, generator=generator)
        self.c = float(torch.rand((), generator=generator)) if c is None else c
        self.gradients_MD = gradients_MD
        self.gram_MM = gradients_MD @ gradients_MD.T
        self.preference_M = preference_M / preference_M.sum()
        self.g0_D = self.preference_M @ gradients_MD
        self.plain, self.clipped = (
            make(method, preference_M.tolist(), c=self.c).solve(self.gram_MM) for method in ("cagrad", "cagrad_clip")
        )

    def mixture_M(self):
        metrics = self.plain.metrics
        return torch.tensor([value for key, value in metrics.items() if "mixture" in key], dtype=torch.float64)

    def dual(self, mixture_M):
        radius = self.c * self.g0_D.norm()
        return mixture_M @ self.gradients_MD @ self.g0_D + radius * (mixture_M @ self.gradients_MD).norm()

    def step(self, solution):
        return solution.weights_M @ self.gradients_MD

    def cosine(self, solution):
        added_D = self.step(solution) - self.g0_D
        return float(torch.nn.functional.cosine_similarity(added_D, self.g0_D, dim=0))


@pytest.fixture
def cases(make, random_gradients):
    def cases(num, seeds, **options):
        return [Case(make, random_gradients(seed, num, **options), seed) for seed in seeds]

    return cases


@pytest.mark.parametrize("num", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("decades", [0, 3])
def test_strong_duality(cases, num, decades):
    """The certificate of optimality: the objective that fares worst fares as well as the dual says."""
    for case in cases(num, range(25), decades=decades):
        assert case.plain.metrics["cagrad/fallback"] == 0
        progress_M = case.gradients_MD @ case.step(case.plain)
        scale = case.g0_D.norm() * case.gradients_MD.norm(dim=1).max()
        assert abs(progress_M.min() - case.dual(case.mixture_M())) <= 1e-9 * scale


@pytest.mark.parametrize("num", [3, 5, 8])
def test_strong_duality_with_a_singular_gram_matrix(cases, num):
    for case in cases(num, range(25), dim=2, common=1):
        if not case.plain.metrics["cagrad/fallback"]:
            progress_M = case.gradients_MD @ case.step(case.plain)
            scale = case.g0_D.norm() * case.gradients_MD.norm(dim=1).max()
            assert abs(progress_M.min() - case.dual(case.mixture_M())) <= 1e-9 * scale


@pytest.mark.parametrize("num", [2, 3, 4, 5])
def test_no_random_mixture_is_better(cases, num):
    generator = torch.Generator().manual_seed(num)
    for case in cases(num, range(10)):
        least = case.dual(case.mixture_M())
        for power in (1, 8):
            samples_SM = torch.rand(200, num, dtype=torch.float64, generator=generator) ** power
            samples_SM = samples_SM / samples_SM.sum(1, keepdim=True)
            assert min(case.dual(mixture_M) for mixture_M in samples_SM) >= least - 1e-12 * least.abs()


@pytest.mark.parametrize("num", [3, 4, 5])
def test_a_sequence_of_quadratic_programmes_agrees(cases, num, least_nonnegative):
    """Majorise the norm by a quadratic that touches it at the last point, minimise that over the simplex, repeat."""
    for case in cases(num, range(2), common=1):
        radius = float(case.c * case.g0_D.norm())
        slope_M = case.gram_MM @ case.preference_M
        mixture_M = torch.full((num,), 1 / num, dtype=torch.float64)
        penalty = 1e6  # holds the sum at 1, up to its inverse
        for _ in range(60):
            norm = (mixture_M @ case.gram_MM @ mixture_M).sqrt()
            solved_M = least_nonnegative(radius / norm * case.gram_MM + penalty, slope_M - penalty)
            mixture_M = solved_M / solved_M.sum()
        least = case.dual(case.mixture_M())
        assert float(case.dual(mixture_M) - least) == pytest.approx(0, abs=1e-7 * float(case.g0_D.norm() ** 2))


@both
@pytest.mark.parametrize("num", [2, 3, 5])
def test_p1_the_weighted_loss_falls(cases, method, num):
    """On quadratic losses, which the bound of smoothness meets with equality; any step size up to 1 / l."""
    for seed, case in enumerate(cases(num, range(15))):
        solution = case.plain if method == "cagrad" else case.clipped
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(*[len(case.g0_D)] * 2, dtype=torch.float64, generator=generator)
        curvature = root @ root.T
        smoothness = float(torch.linalg.eigvalsh(curvature)[-1])
        step_D, squared, rho = case.step(solution), float(case.g0_D.square().sum()), case.cosine(solution)
        for eta in (0.1 / smoothness, 0.5 / smoothness, 1 / smoothness):
            gamma = 1 + case.c * rho - smoothness * eta / 2 * (1 + 2 * case.c * rho + case.c**2)
            change = -eta * case.g0_D @ step_D + eta**2 / 2 * step_D @ curvature @ step_D
            assert gamma >= (1 - case.c**2) / 2 - 1e-12
            assert float(change) <= -eta * squared * gamma + 1e-9 * eta * squared


@both
@pytest.mark.parametrize("num", [2, 3, 5])
def test_p2_the_step_stays_in_the_ball(cases, method, num):
    for case in cases(num, range(30), decades=1):
        step_D, c, norm = case.step(case.plain if method == "cagrad" else case.clipped), case.c, case.g0_D.norm()
        assert case.g0_D @ step_D >= (1 - c) * norm**2 * (1 - 1e-9)
        assert (1 - c) * norm * (1 - 1e-9) <= step_D.norm() <= (1 + c) * norm * (1 + 1e-9)
        assert float((step_D - case.g0_D).norm()) == pytest.approx(c * float(norm), rel=1e-9)


# P3, scaling and renaming, is asked of every method.


def test_p4_only_the_direction_of_the_clipped_mixture_counts(cases):
    for case in cases(3, range(20)):
        clipped_M = torch.minimum(case.mixture_M(), case.preference_M)
        clipped_M /= clipped_M.sum()
        direction_D = clipped_M @ case.gradients_MD
        expected_D = case.g0_D + case.c * case.g0_D.norm() * direction_D / direction_D.norm()
        torch.testing.assert_close(case.step(case.clipped), expected_D, rtol=1e-9, atol=1e-12)


@both
def test_p5_where_the_preference_is_the_worst_mixture_the_step_is_longer(make, random_gradients, method):
    gradients_MD = random_gradients(0, 2)
    gradients_MD /= gradients_MD.norm(dim=1, keepdim=True)
    for c in (0.1, 0.4, 0.9):
        weights_M = make(method, [0.5, 0.5], c=c).solve(gradients_MD @ gradients_MD.T).weights_M
        torch.testing.assert_close(weights_M, torch.full((2,), (1 + c) / 2, dtype=torch.float64), rtol=1e-9, atol=0)


def test_p6_clipping_turns_the_correction_towards_the_weighted_gradient_of_two(cases):
    for case in cases(2, range(100)):
        assert case.cosine(case.clipped) >= case.cosine(case.plain) - 1e-9


@pytest.mark.parametrize(("share", "c"), [(0.5, 0.4), (0.5, 0.8), (0.55, 0.4), (0.65, 0.8), (0.8, 0.4), (0.8, 0.8)])
def test_p7_clipping_two_gradients_of_one_length_changes_nothing_at_a_vertex(make, goldens, share, c):
    golden = {(row[0], row[1]): row[2] for row in goldens["R11_clip_effect_unit_norm"]["rows"]}[share, c]
    changed = []
    for cosine in torch.linspace(-0.99, 0.99, 40).tolist():
        gram_MM = torch.tensor([[1, cosine], [cosine, 1]], dtype=torch.float64)
        metrics = make("cagrad_clip", [share, 1 - share], c=c).solve(gram_MM).metrics
        norm = math.sqrt(share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * cosine)
        at_vertex = 2 * share - 1 >= c * norm
        assert metrics["cagrad/clip_active"] == (share > 0.5 and not at_vertex)
        changed.append(metrics["cagrad/clip_active"])
    # The record's pairs are random in four dimensions or so; whether it ever happens does not depend on that.
    assert any(changed) == (golden > 0)


def test_a_vertex_of_weight_is_not_clipped_whatever_the_number(make, cases):
    for case in cases(4, range(40), decades=2):
        mixture_M = case.mixture_M()
        if mixture_M.max() == 1:
            assert case.clipped.metrics["cagrad/clip_active"] == 0
            torch.testing.assert_close(case.clipped.weights_M, case.plain.weights_M, rtol=1e-9, atol=1e-12)


@both
def test_c_0_is_linear(make, random_gradients, method):
    gradients_MD = random_gradients(0, 4)
    """To the last bit: its weights are known without a gradient, so that a trainer takes linear's one backward pass."""
    aggregator = make(method, [1.0, 2.0, 3.0, 4.0], c=0.0)
    assert aggregator.has_fixed_weights
    assert torch.equal(aggregator.last_weights_M, aggregator.preference_M)
    weights_M = aggregator.solve(gradients_MD @ gradients_MD.T).weights_M
    assert torch.equal(weights_M, aggregator.preference_M)


@both
def test_rescaling_as_published(make, random_gradients, method):
    gradients_MD = random_gradients(0, 3)
    gram_MM = gradients_MD @ gradients_MD.T
    plain_M = make(method, 3, c=0.5).solve(gram_MM).weights_M
    weights_M = make(method, 3, c=0.5, rescale="published-code").solve(gram_MM).weights_M
    torch.testing.assert_close(weights_M, plain_M / 1.25)


def test_an_objective_without_a_gradient_leaves_the_others_their_solution(make, random_gradients):
    gradients_MD = random_gradients(3, 3)
    gradients_MD[1] = 0
    gram_MM = gradients_MD @ gradients_MD.T
    metrics = make("cagrad", [0.5, 0.2, 0.3]).solve(gram_MM).metrics
    pair = [0, 2]
    radius = 0.4 * float((torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64) @ gradients_MD).norm())
    expected_M = worst_mixture(gram_MM[pair][:, pair], torch.tensor([0.5, 0.3], dtype=torch.float64), radius)
    mixture = [metrics[f"cagrad/mixture/objective_{m}"] for m in range(3)]
    assert mixture == pytest.approx([float(expected_M[0]), 0, float(expected_M[1])], abs=1e-12)
    assert metrics["cagrad/fallback"] == 0


def test_a_step_no_objective_loses_by_is_found_where_there_is_one(make):
    """Linear harms the second objective here, and MGDA would forget the preference."""
    gradients_MD = torch.tensor([[3.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
    gram_MM = gradients_MD @ gradients_MD.T
    linear_M, cagrad_M = (
        make(m, [0.8, 0.2], **o).solve(gram_MM).weights_M for m, o in (("linear", {}), ("cagrad", {"c": 0.8}))
    )
    assert (gram_MM @ linear_M)[1] < 0
    assert (gram_MM @ cagrad_M > 0).all()


@both
def test_mistakes_are_named(make, method):
    for c in (1.0, -0.1, math.nan):
        with pytest.raises(ValidationError, match="c"):
            make(method, 2, c=c)
    with pytest.raises(CtwaError, match="up to 14 objectives, and here are 15"):
        make(method, 15)
