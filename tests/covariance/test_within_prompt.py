import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout
from ctwa.covariance import within_prompt_covariance
from ctwa.scalarizers.base import weighted_advantages
from ctwa.scalarizers.group_relative import GroupRelative


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_batch(seed: int, num_rows: int = 48, num_groups: int = 7, num_objectives: int = 3):
    generator = torch.Generator().manual_seed(seed)
    rewards_NM = torch.randn(num_rows, num_objectives, dtype=torch.float64, generator=generator)
    weights_N1 = torch.randn(num_rows, 1, dtype=torch.float64, generator=generator)
    valid_NM = torch.rand(num_rows, num_objectives, generator=generator) < 0.7
    group_N = torch.randint(num_groups, (num_rows,), generator=generator)
    return rewards_NM, weights_N1, valid_NM, group_N


def by_loop(x_N: Tensor, y_N: Tensor, valid_N: Tensor, group_N: Tensor, ddof: int, correlation: bool) -> float:
    """The same in plain sight: one objective, one group after the other."""
    values = []
    for group in group_N.unique():
        x, y = x_N[valid_N & (group_N == group)], y_N[valid_N & (group_N == group)]
        if len(x) < 2:
            continue
        value = ((x - x.mean()) * (y - y.mean())).sum() / (len(x) - ddof)
        values.append(value / (x.std(correction=ddof) * y.std(correction=ddof)) if correlation else value)
    return float(torch.stack(values).mean()) if values else math.nan


@pytest.fixture
def golden_batch(goldens):
    golden = goldens["C4_cov"]
    rewards_NM = tensor(golden["R"])
    group_N = torch.tensor([ord(uid) for uid in golden["uid"]])
    return golden, (rewards_NM, tensor(golden["w"])[:, None], torch.ones_like(rewards_NM).bool(), group_N)


@pytest.mark.parametrize(("ddof", "key"), [(0, "pop"), (1, "sample")])
def test_golden_covariance(golden_batch, ddof, key):
    golden, batch = golden_batch
    result = within_prompt_covariance(*batch, ddof=ddof)
    torch.testing.assert_close(result.groups_GD, tensor(golden[f"per_prompt_{key}"]), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.mean_D, tensor(golden[f"c_{key}"]), rtol=0, atol=1e-9)
    assert result.num_usable_D.tolist() == [2, 2]


def test_prompts_weigh_the_same_whatever_their_size(golden_batch):
    golden, batch = golden_batch
    assert within_prompt_covariance(*batch).mean_D[0] != pytest.approx(golden["c_pooled_pop"][0])


def test_golden_of_groups_split_over_ranks(goldens):
    """32 prompts of 16 completions on 4 ranks: the expected covariance of the part of a group that one rank sees."""
    golden = goldens["C10_rank_split_bias"]
    x_N, y_N = tensor(range(16)), tensor([(7 * i) % 11 for i in range(16)])
    whole = within_prompt_covariance(x_N[:, None], y_N[:, None], torch.tensor(True), torch.zeros(16, dtype=torch.int64))
    subsets_NS = (torch.arange(2**16)[None, :] >> torch.arange(16)[:, None]) & 1 == 1
    split = within_prompt_covariance(x_N[:, None], y_N[:, None], subsets_NS, torch.zeros(16, dtype=torch.int64))
    size_S = subsets_NS.sum(0)
    # One rank has 128 of the 512 rows; every subset of n of a group's 16 is as likely as every other.
    ways_S = tensor([float(math.comb(512 - 16, 128 - size)) for size in range(17)])[size_S]
    probability_S = ways_S / ways_S.max() * (size_S >= 2)
    expected = (probability_S * split.mean_D.nan_to_num()).sum() / probability_S.sum()
    assert float(expected / whole.mean_D) == pytest.approx(golden["ratio"], abs=1e-9)
    assert golden["factor_full"] == 15 / 16


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), ddof=st.sampled_from([0, 1]), correlation=st.booleans(), groups=st.integers(1, 30))
def test_equals_the_loop_over_groups(seed, ddof, correlation, groups):
    rewards_NM, weights_N1, valid_NM, group_N = random_batch(seed, num_groups=groups)
    result = within_prompt_covariance(
        rewards_NM, weights_N1, valid_NM, group_N, ddof=ddof, correlation=correlation
    ).mean_D
    expected = [
        by_loop(rewards_NM[:, m], weights_N1[:, 0], valid_NM[:, m], group_N, ddof, correlation) for m in range(3)
    ]
    torch.testing.assert_close(result, tensor(expected), rtol=1e-11, atol=1e-12, equal_nan=True)


def test_order_of_rows_and_labels_of_groups_do_not_matter():
    """What makes the result the same on every number of ranks: the batch comes in another order, and nothing else."""
    rewards_NM, weights_N1, valid_NM, group_N = random_batch(1)
    order_N = torch.randperm(len(group_N), generator=torch.Generator().manual_seed(2))
    one = within_prompt_covariance(rewards_NM, weights_N1, valid_NM, group_N).mean_D
    other = within_prompt_covariance(
        rewards_NM[order_N], weights_N1[order_N], valid_NM[order_N], 1000 - 3 * group_N[order_N]
    ).mean_D
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e300])
def test_rows_that_do_not_count_have_no_influence(garbage):
    rewards_NM, weights_N1, valid_NM, group_N = random_batch(3)
    valid_NM[5] = False
    clean = within_prompt_covariance(rewards_NM, weights_N1, valid_NM, group_N)
    rewards_NM, weights_N1 = torch.where(valid_NM, rewards_NM, garbage), weights_N1.clone()
    weights_N1[5] = garbage
    dirty = within_prompt_covariance(rewards_NM, weights_N1, valid_NM, group_N)
    assert torch.equal(clean.mean_D, dirty.mean_D)


def test_groups_with_one_row_are_skipped_and_no_group_is_not_zero():
    rewards_NM = tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 5.0]])
    weights_N1 = tensor([[1.0], [-1.0], [3.0]])
    valid_NM = torch.tensor([[True, True], [True, False], [True, True]])
    result = within_prompt_covariance(rewards_NM, weights_N1, valid_NM, torch.tensor([0, 0, 1]))
    assert result.mean_D[0] == 0.5
    assert result.mean_D[1].isnan()
    assert result.num_usable_D.tolist() == [1, 0]


def test_a_weight_that_is_not_finite_is_no_observation():
    rewards_NM, weights_N1, valid_NM, group_N = random_batch(4)
    weights_N1[valid_NM[:, 0].nonzero()[0]] = math.nan
    assert within_prompt_covariance(rewards_NM, weights_N1, valid_NM, group_N).mean_D[0].isnan()


def test_constant_objective_has_no_covariance_and_no_correlation():
    _, weights_N1, _, group_N = random_batch(5)
    ones_N1 = torch.full_like(weights_N1, 0.1)
    assert within_prompt_covariance(ones_N1, weights_N1, torch.tensor(True), group_N).mean_D.abs().item() < 1e-15
    result = within_prompt_covariance(ones_N1, weights_N1, torch.tensor(True), group_N, correlation=True)
    assert result.mean_D.isnan().all()
    assert result.num_usable_D.tolist() == [0]


def test_correlation_is_free_of_scale_and_of_ddof():
    rewards_NM, weights_N1, valid_NM, group_N = random_batch(6)
    one = within_prompt_covariance(rewards_NM, weights_N1, valid_NM, group_N, correlation=True)
    other = within_prompt_covariance(
        100 * rewards_NM + 7, 0.01 * weights_N1, valid_NM, group_N, correlation=True, ddof=1
    )
    torch.testing.assert_close(one.mean_D, other.mean_D, rtol=1e-10, atol=0)
    assert (one.groups_GD.nan_to_num().abs() <= 1 + 1e-12).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 100.1, -7e9])
@pytest.mark.parametrize("num_rows", [3, 7, 10])
def test_equal_values_have_a_covariance_of_exactly_0(value, num_rows):
    """The rounding error of their mean would have a sign, and a standard deviation to divide by."""
    x_N1 = torch.full((num_rows, 1), value, dtype=torch.float64)
    y_N1 = torch.randn(num_rows, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    group_N = torch.zeros(num_rows, dtype=torch.int64)
    assert within_prompt_covariance(x_N1, y_N1, torch.tensor(True), group_N).mean_D.item() == 0
    assert within_prompt_covariance(x_N1, y_N1, torch.tensor(True), group_N, correlation=True).mean_D.isnan().all()


def test_an_offset_costs_no_digits():
    generator = torch.Generator().manual_seed(0)
    x_N1, y_N1 = torch.randn(2, 12, 1, dtype=torch.float64, generator=generator)
    x_N1 = (x_N1 * 2**20).round() / 2**20  # so that the offset itself rounds nothing
    group_N = torch.arange(12) // 4
    expected = within_prompt_covariance(x_N1, y_N1, torch.tensor(True), group_N).mean_D
    shifted = within_prompt_covariance(x_N1 + 2.0**30, y_N1, torch.tensor(True), group_N).mean_D
    torch.testing.assert_close(shifted, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("of_rewards", "of_weights"), [(1e-10, 1e-6), (1e10, 1e10), (1e-10, 1e150)])
def test_a_correlation_has_no_unit(of_rewards, of_weights):
    rewards_NM, weights_N1, valid_NM, group_N = random_batch(0)
    plain = within_prompt_covariance(rewards_NM, weights_N1, valid_NM, group_N, correlation=True)
    other = within_prompt_covariance(
        of_rewards * rewards_NM, of_weights * weights_N1, valid_NM, group_N, correlation=True
    )
    torch.testing.assert_close(other.groups_GD, plain.groups_GD, equal_nan=True)


def test_what_differs_by_rounding_has_no_correlation():
    """0.3 + 0.3 + 0.3 over 3 and 0.3: a baseline's advantage on completions of three tokens and of one."""
    weights_N1 = 0.3 + tensor([[0.0], [5.6e-17], [0.0], [-5.6e-17]])
    x_N1 = tensor([[1.0], [2.0], [3.0], [5.0]])
    found = within_prompt_covariance(x_N1, weights_N1, torch.tensor(True), torch.zeros(4).long(), correlation=True)
    assert found.num_usable_D.tolist() == [0]


def test_prompts_whose_scores_are_equal_but_for_rounding_have_no_correlation():
    """0.1 + 0.2 and 0.3: GRPO divides the difference, 5.6e-17, by 1e-6."""
    rewards = RewardMatrix.from_columns({"a": [1, 0, 1, 0], "b": [1, 0, 1, 0], "c": [0, 1, 0, 1]})
    rollout = Rollout(rewards, torch.zeros(4).long(), torch.ones(4, 1))
    weights_N1 = weighted_advantages(rollout, GroupRelative(rollout), {"a": 0.1, "b": 0.2, "c": 0.3})
    assert 0 < weights_N1.abs().max() < 1e-10
    found = within_prompt_covariance(
        rewards.rewards_NM, weights_N1, rewards.scored_NM, rollout.group_N, correlation=True
    )
    assert found.num_usable_D.tolist() == [0, 0, 0]


def test_rewards_that_cancel_have_no_correlation():
    x_N1 = tensor([[1 - 0.9 - 0.1], [0.0], [0.3 - 0.1 - 0.2], [0.0]])
    y_N1 = tensor([[1.0], [2.0], [3.0], [5.0]])
    found = within_prompt_covariance(x_N1, y_N1, torch.tensor(True), torch.zeros(4).long(), correlation=True)
    assert found.num_usable_D.tolist() == [0]
