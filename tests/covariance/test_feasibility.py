import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctwa.covariance import (
    completion_weights,
    reward_covariance,
    target_feasibility,
    token_weights,
    weighted_covariance,
    within_prompt_covariance,
)
from ctwa.policy_loss import Vanilla


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_problem(seed: int, num_objectives: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factor_NM = torch.randn(2 * num_objectives, num_objectives, dtype=torch.float64, generator=generator)
    targets_M = 0.3 * torch.randn(num_objectives, dtype=torch.float64, generator=generator)
    return factor_NM.T @ factor_NM / len(factor_NM), targets_M


# Eight completions of one prompt, three binary objectives, with the covariance of the golden C6.
COMPLETIONS_NM = tensor([[0, 1, 1], [0, 1, 1], [1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]])
ONE_PROMPT_N = torch.zeros(8, dtype=torch.int64)
WEIGHTS_M = tensor([0.333, 0.333, 0.334])


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        (0, [0.156702543829, 0.269094699244, 0.270172155497]),
        (1, [0.146581807661, 0.251715042292, 0.252722910329]),
    ],
)
def test_covariances_of_an_on_policy_step(scale, correction, expected):
    """From rewards to covariances through every function of the statistic, against the closed form."""
    scores_N = COMPLETIONS_NM @ (scale * WEIGHTS_M)
    advantages_N = (scores_N - scores_N.mean()) / scores_N.std(correction=correction)
    zeros_NT = torch.zeros(8, 5, dtype=torch.float64)
    tokens = token_weights(
        zeros_NT, zeros_NT, advantages_N[:, None].expand(8, 5), torch.ones(8, 5), Vanilla(0.2, 0.2, dual=3.0)
    )
    w_N = completion_weights(tokens).weight_N
    measured_M = within_prompt_covariance(COMPLETIONS_NM, w_N[:, None], torch.tensor(True), ONE_PROMPT_N).mean_D
    torch.testing.assert_close(measured_M, tensor(expected), rtol=0, atol=1e-9)
    covariance_MM = reward_covariance(COMPLETIONS_NM, torch.ones(8, 3).bool(), ONE_PROMPT_N)
    closed_form_M = weighted_covariance(covariance_MM, scale * WEIGHTS_M) * math.sqrt(7 / 8) ** correction
    torch.testing.assert_close(measured_M, closed_form_M, rtol=0, atol=1e-12)


def test_centred_advantages_are_not_free_of_scale():
    covariance_MM = reward_covariance(COMPLETIONS_NM, torch.ones(8, 3).bool(), ONE_PROMPT_N)
    scores_N = COMPLETIONS_NM @ WEIGHTS_M
    for scale in (1.0, 10.0):
        w_N1 = scale * (scores_N - scores_N.mean())[:, None]
        measured_M = within_prompt_covariance(COMPLETIONS_NM, w_N1, torch.tensor(True), ONE_PROMPT_N).mean_D
        torch.testing.assert_close(measured_M, scale * tensor([0.036359375, 0.0624375, 0.0626875]), rtol=0, atol=1e-12)
        torch.testing.assert_close(measured_M, scale * covariance_MM @ WEIGHTS_M, rtol=0, atol=1e-12)


def test_golden_feasible(goldens):
    golden = goldens["C6_feasible"]
    covariance_MM = tensor(golden["C"])
    torch.testing.assert_close(
        reward_covariance(COMPLETIONS_NM, torch.ones(8, 3).bool(), ONE_PROMPT_N), covariance_MM, rtol=0, atol=1e-12
    )
    result = target_feasibility(covariance_MM, tensor(golden["c_star"]), ridge=0)
    assert result.value == pytest.approx(golden["v_star"], abs=1e-9)
    assert result.feasible is golden["feasible"]
    torch.testing.assert_close(result.weights_M, tensor(golden["lam_dir"]), rtol=0, atol=1e-9)
    reached_M = weighted_covariance(covariance_MM, result.weights_M)
    torch.testing.assert_close(reached_M, tensor(golden["c_at_lam"]), rtol=0, atol=1e-9)


def test_golden_infeasible(goldens):
    golden = goldens["C6_infeasible"]
    covariance_MM = tensor(golden["C"])
    result = target_feasibility(covariance_MM, tensor(golden["c_star"]), ridge=0)
    assert result.value == pytest.approx(golden["v_star"], abs=1e-9)
    assert result.feasible is golden["feasible"]
    at_equal_M = weighted_covariance(covariance_MM, tensor([1, 1]))
    torch.testing.assert_close(at_equal_M, tensor(golden["c_at_equal_lam"]), rtol=0, atol=1e-9)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), num_objectives=st.integers(1, 12))
def test_optimality_conditions(seed, num_objectives):
    covariance_MM, targets_M = random_problem(seed, num_objectives)
    result = target_feasibility(covariance_MM, targets_M, ridge=0)
    direction_M = covariance_MM @ result.weights_M
    scale = (result.weights_M @ targets_M) / (result.weights_M @ direction_M) if result.value else 0.0
    slack_M = scale * direction_M - targets_M
    assert (result.weights_M >= 0).all()
    assert (slack_M >= -1e-9).all()
    assert float((scale * result.weights_M) @ slack_M) == pytest.approx(0, abs=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), num_objectives=st.integers(1, 4))
def test_value_is_the_least_over_all_active_sets(seed, num_objectives):
    covariance_MM, targets_M = random_problem(seed, num_objectives)
    values = [0.0] if (targets_M <= 0).all() else []
    for size in range(1, num_objectives + 1):
        for active in map(list, itertools.combinations(range(num_objectives), size)):
            lam_A = torch.linalg.solve(covariance_MM[active][:, active], targets_M[active])
            if (covariance_MM[:, active] @ lam_A >= targets_M - 1e-12).all():
                values.append(float(lam_A @ targets_M[active]))
    assert target_feasibility(covariance_MM, targets_M, ridge=0).value == pytest.approx(min(values), abs=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), num_objectives=st.integers(2, 6))
def test_feasible_targets_are_met_by_the_weights_and_infeasible_ones_by_none(seed, num_objectives):
    covariance_MM, targets_M = random_problem(seed, num_objectives)
    targets_M = targets_M.abs()
    result = target_feasibility(covariance_MM, targets_M, ridge=0)
    shortfall = (targets_M - weighted_covariance(covariance_MM, result.weights_M)).max()
    if result.feasible:
        assert shortfall <= 1e-9
    else:
        generator = torch.Generator().manual_seed(seed)
        for weights_M in torch.rand(200, num_objectives, dtype=torch.float64, generator=generator):
            assert (targets_M - weighted_covariance(covariance_MM, weights_M)).max() > 0
        assert shortfall > 0


def test_infeasible_with_a_negative_target_too():
    result = target_feasibility(tensor([[0.25, -0.2], [-0.2, 0.25]]), tensor([0.49, -0.3]))
    assert not result.feasible


def test_targets_below_zero_ask_for_nothing():
    result = target_feasibility(torch.eye(2, dtype=torch.float64), tensor([-0.1, 0.0]))
    assert result.value == 0
    assert result.feasible
    assert result.weights_M.tolist() == [0, 0]


def test_a_saturated_objective_is_infeasible():
    rewards_NM = COMPLETIONS_NM.clone()
    rewards_NM[:, 0] = 1
    covariance_MM = reward_covariance(rewards_NM, torch.ones(8, 3).bool(), ONE_PROMPT_N)
    assert target_feasibility(covariance_MM, tensor([0.15, 0.08, 0.08])).value > 1000
    assert target_feasibility(covariance_MM, tensor([0.0, 0.08, 0.08])).feasible


def test_covariance_of_pairs_uses_the_rows_where_both_were_scored():
    scored_NM = torch.ones(8, 3).bool()
    scored_NM[[0, 3], 0] = False
    scored_NM[5, 1] = False
    covariance_MM = reward_covariance(COMPLETIONS_NM, scored_NM, ONE_PROMPT_N)
    both_N = scored_NM[:, 0] & scored_NM[:, 1]
    expected = torch.cov(COMPLETIONS_NM[both_N].T, correction=0)[0, 1]
    torch.testing.assert_close(covariance_MM[0, 1], expected, rtol=0, atol=1e-12)
    assert torch.equal(covariance_MM, covariance_MM.T)


def test_objectives_that_never_meet_are_judged_apart():
    """The third is alone; of the first two, whose rewards are opposite, not both can rise."""
    covariance_MM = tensor([[0.25, -0.2, math.nan], [-0.2, 0.25, math.nan], [math.nan, math.nan, 0.04]])
    for targets, value in (([0.1, 0.1, 0.1], 0.4), ([0.01, 0.01, 0.15], 0.15**2 / 0.04)):
        found = target_feasibility(covariance_MM, tensor(targets), ridge=0)
        assert found.value == pytest.approx(value)
        torch.testing.assert_close(found.weights_M, tensor([0.25, 0.25, 0.5]))
        reached_M = weighted_covariance(covariance_MM, found.weights_M)
        assert reached_M[2] == pytest.approx(0.2)  # its standard deviation, whatever the others are
        torch.testing.assert_close(reached_M[:2], weighted_covariance(covariance_MM[:2, :2], tensor([1.0, 1.0])))
    order = [2, 0, 1]
    turned = target_feasibility(covariance_MM[order][:, order], tensor([0.1, 0.1, 0.1]), ridge=0)
    assert turned.value == pytest.approx(0.4)
    torch.testing.assert_close(turned.weights_M, tensor([0.5, 0.25, 0.25]))


def test_a_pair_never_scored_together_leaves_no_observation():
    scored_NM = torch.ones(8, 3).bool()
    scored_NM[:4, 0], scored_NM[4:, 1] = False, False
    covariance_MM = reward_covariance(COMPLETIONS_NM, scored_NM, ONE_PROMPT_N)
    assert covariance_MM[0, 1].isnan()
    assert not covariance_MM.diagonal().isnan().any()
    result = target_feasibility(covariance_MM, tensor([0.15, 0.08, 0.08]))
    assert math.isnan(result.value)
    assert not result.feasible
