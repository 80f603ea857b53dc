import math

import pytest
import torch
from torchjd.aggregation import FairGradWeighting


def gram_of(gradients_MD):
    return gradients_MD @ gradients_MD.T


@pytest.mark.parametrize("num", [1, 2, 3, 5, 8])
def test_improvements_are_shared_by_bargaining_power(make, random_gradients, num):
    """The condition that the solution is known by: ``w_m <g_m, x>`` is the preference, up to one factor."""
    for seed in range(20):
        gradients_MD = random_gradients(seed, num, decades=3 * (seed % 2), common=-1.0 * (seed % 3))
        aggregator = make("nash_mtl", torch.linspace(0.01, 1, num).tolist())
        solution = aggregator.solve(gram_of(gradients_MD))
        shares_M = solution.weights_M * (gradients_MD @ (solution.weights_M @ gradients_MD))
        torch.testing.assert_close(shares_M / shares_M.sum(), aggregator.preference_M, rtol=1e-8, atol=1e-11)
        assert float(solution.weights_M.sum()) == pytest.approx(1)
        assert solution.metrics == {"nash_mtl/agreement": 1}


@pytest.mark.parametrize("num", [2, 3, 6])
def test_no_step_of_its_length_has_a_larger_product_of_improvements(make, random_gradients, num):
    gradients_MD = random_gradients(num, num, common=-0.5)
    aggregator = make("nash_mtl", list(range(1, num + 1)))
    step_D = aggregator.solve(gram_of(gradients_MD)).weights_M @ gradients_MD
    generator = torch.Generator().manual_seed(0)
    others_SD = step_D + 0.3 * step_D.norm() * torch.randn(2000, len(step_D), dtype=torch.float64, generator=generator)
    others_SD = others_SD / others_SD.norm(dim=1, keepdim=True) * step_D.norm()

    def product(steps_SD):
        improvements_SM = steps_SD @ gradients_MD.T
        return torch.where(improvements_SM > 0, improvements_SM, 0.0).log() @ aggregator.preference_M

    assert product(others_SD).max() <= product(step_D[None])[0]


@pytest.mark.parametrize("num", [2, 3, 5])
def test_torchjd_agrees(make, random_gradients, num):
    """FairGrad with alpha 1 has the equations of Nash-MTL, for equal powers, and another solver."""
    for seed in range(10):
        gram_MM = gram_of(random_gradients(seed, num))
        expected_M = FairGradWeighting(alpha=1.0)(gram_MM)
        weights_M = make("nash_mtl", num).solve(gram_MM).weights_M
        torch.testing.assert_close(weights_M, expected_M / expected_M.sum(), rtol=1e-5, atol=1e-7)


def test_the_length_of_a_gradient_does_not_matter(make, random_gradients):
    gradients_MD = random_gradients(3, 4, common=-0.5)
    expected_D = make("nash_mtl", 4).solve(gram_of(gradients_MD)).weights_M @ gradients_MD
    scaled_MD = gradients_MD * torch.tensor([1e-5, 3.0, 1e4, 1.0], dtype=torch.float64)[:, None]
    step_D = make("nash_mtl", 4).solve(gram_of(scaled_MD)).weights_M @ scaled_MD
    torch.testing.assert_close(step_D / step_D.norm(), expected_D / expected_D.norm(), rtol=0, atol=1e-9)


def test_two_orthogonal_gradients_by_hand(make):
    """``w_m^2 ||g_m||^2`` goes as the preference: weights sqrt(.8) / 2 and sqrt(.2), as 1 to 1."""
    weights_M = make("nash_mtl", [0.8, 0.2]).solve(torch.diag(torch.tensor([4.0, 1.0]))).weights_M
    assert weights_M.tolist() == pytest.approx([0.5, 0.5], rel=1e-12)


@pytest.mark.parametrize("preference", [[1.0, 1.0], [0.999, 0.001]])
def test_where_no_step_serves_all_there_is_none(make, preference):
    for gradients_MD in (
        torch.tensor([[1.0, 2.0], [-2.0, -4.0]], dtype=torch.float64),
        torch.tensor([[1.0, 1e-9], [-1.0, 1e-9]], dtype=torch.float64),  # what is left over is rounding
    ):
        solution = make("nash_mtl", preference).solve(gram_of(gradients_MD))
        assert solution.metrics == {"nash_mtl/agreement": 0}
        assert (solution.weights_M @ gradients_MD).norm() < 1e-8


@pytest.mark.parametrize("angle", [1e-2, 1e-3, 1e-4])
def test_gradients_that_are_nearly_opposite_agree_on_what_is_left(make, angle):
    """Their shares are small differences of large numbers, and are not asked for more digits than those leave."""
    gradients_MD = torch.tensor([[1.0, angle], [-1.0, angle]], dtype=torch.float64)
    aggregator = make("nash_mtl", [0.9, 0.1])
    solution = aggregator.solve(gram_of(gradients_MD))
    assert solution.metrics == {"nash_mtl/agreement": 1}
    shares_M = solution.weights_M * (gradients_MD @ (solution.weights_M @ gradients_MD))
    torch.testing.assert_close(shares_M / shares_M.sum(), aggregator.preference_M, rtol=1e-4, atol=0)


def test_an_objective_without_power_or_gradient_is_left_out(make, random_gradients):
    gradients_MD = random_gradients(1, 3)
    pair_M = make("nash_mtl", [0.6, 0.4]).solve(gram_of(gradients_MD[:2])).weights_M
    without_power = make("nash_mtl", [0.6, 0.4, 0.0]).solve(gram_of(gradients_MD)).weights_M
    gradients_MD[2] = 0
    without_gradient = make("nash_mtl", [0.3, 0.2, 0.5]).solve(gram_of(gradients_MD)).weights_M
    torch.testing.assert_close(without_power, torch.cat([pair_M, torch.zeros(1)]), rtol=1e-12, atol=0)
    torch.testing.assert_close(without_gradient, torch.cat([0.5 * pair_M, torch.tensor([0.5])]), rtol=1e-12, atol=0)


def test_nothing_that_takes_part_keeps_the_weights(make):
    aggregator = make("nash_mtl", [1.0, 0.0])
    solution = aggregator.solve(torch.diag(torch.tensor([0.0, 1.0])))
    assert solution.weights_M.tolist() == [1, 0]
    assert all(math.isfinite(value) for value in solution.metrics.values())
