"""Scores that are products of rewards, which the number of objectives makes small."""

import pytest
import torch

from ctwa.batch import RewardMatrix, Rollout
from ctwa.scalarizers import build_scalarizer, method_options
from ctwa.scalarizers.group_relative import GroupRelative
from ctwa.scalarizers.per_objective import magnified, no_signal_frac
from tests.scalarizers.rollouts import Scores

GROUP_N = torch.arange(64) // 8
TRL_EPSILON = 1e-4


@pytest.mark.parametrize("num_objectives", [2, 8, 16, 32, 400])
@pytest.mark.parametrize("method", ["guard", "product"])
def test_many_objectives_train_as_few_do(method: str, num_objectives: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards_NM = 0.1 + 0.3 * torch.rand(64, num_objectives, dtype=torch.float64, generator=generator)
    columns = {f"objective-{m}": rewards_N.tolist() for m, rewards_N in enumerate(rewards_NM.T)}
    rollout = Rollout(RewardMatrix.from_columns(columns), GROUP_N, torch.ones(64, 1))
    options = {"exponent": float(num_objectives)} if method == "product" else {}
    weights = dict.fromkeys(columns, 1.0)
    scalarizer = build_scalarizer(method_options(method, **options), weights, scale_invariant=True)

    advantages_NT = scalarizer.advantages(rollout, GroupRelative(rollout, epsilon=TRL_EPSILON))

    # A few prompts may be small beside the largest score of so skewed a batch.
    assert float(advantages_NT.reshape(8, 8).std(1).quantile(0.75)) == pytest.approx(1.0, abs=0.05)


def test_scores_that_are_not_small_stay_to_the_bit_and_others_but_for_a_power_of_two() -> None:
    standardising, plain = Scores(scale_invariant=True), Scores()
    scores_N = torch.tensor([2.0**-6, 1e-9, 0.0, float("nan")], dtype=torch.float64)
    assert magnified(scores_N, standardising) is scores_N
    small_N = torch.tensor([1e-7, 3e-8, 0.0, float("nan")], dtype=torch.float64)
    assert magnified(small_N, plain) is small_N
    got_N = magnified(small_N, standardising)
    assert torch.equal(got_N[:3] * 2.0**-23, small_N[:3])
    assert 0.5 <= float(got_N[0]) < 1
    nothing_N = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(magnified(nothing_N, standardising), nothing_N)


def test_prompts_whose_scores_are_equal_have_no_signal() -> None:
    scores_N = torch.tensor([1e-9, 1e-9, 1e-9, 2e-9, float("nan"), 0.5], dtype=torch.float64)
    assert no_signal_frac(scores_N, torch.tensor([0, 0, 1, 1, 2, 2])) == pytest.approx(2 / 3)
