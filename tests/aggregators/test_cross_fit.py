"""Cross-fitting: the Gram matrix of the expected gradients, from gradients whose noise is the larger part of them."""

import json

import pytest
import torch

from ctwa.aggregators import build_aggregator
from ctwa.aggregators.cross_fit import CrossFittedGram, halves_of, split_gram
from ctwa.aggregators.mgda import MgdaConfig

NAMES = ("accuracy", "clarity", "conciseness")
TRUE_MD = torch.tensor([[1.0, 0, 0, 0], [-0.4, 0.9, 0, 0], [0.3, 0, 2.0, 0]], dtype=torch.float64)
NOISE_MM = torch.tensor([[3.0, 1.0, 0.5], [1.0, 2.0, -0.5], [0.5, -0.5, 1.0]], dtype=torch.float64)
"""Of one prompt, in each of the four dimensions."""


def measured(num_prompts, num_batches, seed=0):
    """The plain and the cross-fitted matrices of batches whose objectives' gradients share their noise: (S, M, M)."""
    generator = torch.Generator().manual_seed(seed)
    factor_MM = torch.linalg.cholesky(NOISE_MM)
    plain, cross = [], []
    for _ in range(num_batches):
        noise_MBD = torch.randn(3, num_prompts, 4, dtype=torch.float64, generator=generator)
        gradients_BMD = TRUE_MD + torch.einsum("mk,kbd->bmd", factor_MM, noise_MBD)
        half_B = halves_of(torch.arange(num_prompts), torch.ones(num_prompts, dtype=torch.bool))
        halves_HD = torch.cat([gradients_BMD[half_B == half].sum(0) for half in (0, 1)]) / num_prompts
        num_rows = [int((half_B == half).sum()) for half in (0, 1)]
        for found, each in zip((plain, cross), split_gram(halves_HD @ halves_HD.T, num_rows), strict=True):
            found.append(each)
    return torch.stack(plain), torch.stack(cross)


@pytest.mark.parametrize("num_prompts", [8, 7, 3, 2])  # equal halves, and halves that differ by a prompt
def test_the_cross_fitted_matrix_is_unbiased_and_the_plain_one_is_off_by_the_noise(num_prompts):
    plain_SMM, cross_SMM = measured(num_prompts, 4000)
    bias_MM = NOISE_MM * 4 / num_prompts  # of a mean over the prompts, summed over the dimensions
    for found_SMM, expected_MM in ((cross_SMM, 0.0), (plain_SMM, bias_MM)):
        off_MM = found_SMM.mean(0) - TRUE_MD @ TRUE_MD.T - expected_MM
        error_MM = found_SMM.std(0) / len(found_SMM) ** 0.5
        assert float((off_MM / error_MM).square().mean().sqrt()) < 1.5
        assert bool((off_MM.abs() <= 3 * error_MM).all())
    assert torch.equal(cross_SMM, cross_SMM.mT)


def test_the_mean_over_a_run_is_within_its_own_standard_error_and_says_how_much_was_noise():
    off, noise_shares = [], []
    for seed in range(30):
        statistic = CrossFittedGram(NAMES, half_life=10.0)
        for plain_MM, cross_MM in zip(*measured(8, 100, seed), strict=True):
            statistic.observe(cross_MM, plain_MM)
        off.append((statistic.gram_RR - TRUE_MD @ TRUE_MD.T) / statistic.errors_RR)
        noise_shares.append(statistic.metrics()["conflict/noise_share"])
    assert float(torch.stack(off).square().mean().sqrt()) == pytest.approx(1, abs=0.2)
    true, noise = float(TRUE_MD.square().sum()), float(NOISE_MM.trace()) * 4 / 8
    assert sum(noise_shares) / 30 == pytest.approx(noise / (true + noise), abs=0.03)


def test_weights_halve_with_every_half_life():
    statistic = CrossFittedGram(("a",), half_life=1.0)
    for value in (4.0, 1.0, 2.0):
        statistic.observe(torch.tensor([[value]]).double(), torch.tensor([[9.0]]).double())
    mean = (4 / 4 + 1 / 2 + 2) / 1.75
    assert float(statistic.gram_RR) == pytest.approx(mean)
    variance = ((4 - mean) ** 2 / 4 + (1 - mean) ** 2 / 2 + (2 - mean) ** 2) / 1.75
    share = (1 / 16 + 1 / 4 + 1) / 1.75**2
    assert float(statistic.errors_RR) == pytest.approx((variance / (1 - share) * share) ** 0.5)
    assert float(statistic.plain_RR) == pytest.approx(9)


def test_a_mean_with_a_negative_eigenvalue_is_mended_where_a_method_needs_that():
    statistic = CrossFittedGram(("a", "b"), half_life=10.0)
    assert statistic.metrics() == {}
    assert statistic.errors_RR.isinf().all()
    cross_MM = torch.tensor([[1.0, -30.0], [-30.0, 400.0]]).double()  # a cosine of -1.5
    plain_MM = torch.tensor([[1.0, 0.0], [0.0, 400.0]]).double()
    statistic.observe(cross_MM, plain_MM)
    assert statistic.metrics()["conflict/lowest_eigenvalue"] == pytest.approx(-0.5)
    assert statistic.metrics()["conflict/cosine/a:b"] == pytest.approx(-1.5)
    # In units of the norms the eigenvalues are 2.5 and -.5: what is left is 2.5 / 2 of (1, -1).
    mended_MM = torch.tensor([[1.25, -25.0], [-25.0, 500.0]]).double()
    torch.testing.assert_close(statistic.semi_definite(), mended_MM)
    weights_M = build_aggregator(MgdaConfig(), {"a": 1.0, "b": 1.0}).solve(statistic.semi_definite()).weights_M
    assert weights_M.tolist() == pytest.approx([20 / 21, 1 / 21])


def test_a_state_restored_in_mid_run_continues_to_the_last_bit():
    plain_SMM, cross_SMM = measured(4, 6)
    whole = CrossFittedGram(NAMES, half_life=3.0)
    for step in range(3):
        whole.observe(cross_SMM[step], plain_SMM[step])
    restored = CrossFittedGram(NAMES, half_life=3.0)
    restored.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for step in range(3, 6):
        for each in (whole, restored):
            each.observe(cross_SMM[step], plain_SMM[step])
    assert restored.state_dict() == whole.state_dict()
    assert torch.equal(restored.errors_RR, whole.errors_RR)


def test_halves_are_whole_prompts_that_have_a_gradient_every_other_one():
    group_N = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    takes_part_N = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1], dtype=torch.bool)
    assert halves_of(group_N, takes_part_N).tolist() == [0, 0, 1, 1, -1, -1, 0, 0, 1, 1, 0, 0]
    assert halves_of(group_N, torch.zeros(12, dtype=torch.bool)).tolist() == [-1] * 12


def test_without_a_second_half_nothing_is_known():
    plain_RR, cross_RR = split_gram(torch.diag(torch.tensor([2.0, 0.0])).double(), [4, 0])
    assert plain_RR.tolist() == [[2.0]]
    assert cross_RR is None
