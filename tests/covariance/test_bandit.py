import doctest
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctwa.covariance import bandit
from ctwa.covariance.bandit import TwoModes, covariance, covariance_law, natural_gradient, tilt, train_bandit
from ctwa.scalarizers.controller import ControllerOptions, WeightController


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def walk(modes: TwoModes, step_size: float, num_steps: int) -> list[TwoModes]:
    steps = [modes]
    for _ in range(num_steps):
        steps.append(steps[-1].step(step_size))
    return steps


def test_golden_two_modes(goldens):
    golden = goldens["T1_two_mode"]
    modes = TwoModes(golden["p0"], golden["s_good"], golden["s_bad"], golden["r_good"], golden["r_bad"])
    steps = [walk(modes, golden["eta"], 10)[t] for t in (0, 1, 2, 5, 10)]
    assert [step.p_bad for step in steps] == pytest.approx(golden["p"], abs=1e-9)
    assert [step.expected_reward for step in steps] == pytest.approx(golden["Er"], abs=1e-9)
    assert modes.covariance == pytest.approx(golden["cov0"], abs=1e-9)
    assert golden["eta"] * modes.covariance == pytest.approx(golden["first_order"], abs=1e-9)
    exact = modes.step(golden["eta"]).expected_reward - modes.expected_reward
    assert exact == pytest.approx(golden["exact_delta"], abs=1e-9)


def test_two_modes_where_the_score_helps():
    modes = TwoModes(p_bad=0.9, score_good=2.0, score_bad=0.5, reward_good=3.0, reward_bad=-1.0)
    steps = walk(modes, 1.0, 4)
    p_bad = [0.9, 0.667572138257, 0.309432142297, 0.090893362409, 0.021821948763]
    expected = [-0.6, 0.329711446972, 1.762271430812, 2.636426550364, 2.912712204948]
    assert [step.p_bad for step in steps] == pytest.approx(p_bad, abs=1e-9)
    assert [step.expected_reward for step in steps] == pytest.approx(expected, abs=1e-9)
    assert modes.covariance == pytest.approx(0.54, abs=1e-9)


def test_golden_two_modes_with_equal_scores(goldens):
    golden = goldens["T3_two_mode_neutral"]
    steps = walk(TwoModes(0.5, 1.0, 1.0, 1.0, 0.0), 0.7, 3)
    assert [step.p_bad for step in steps] == pytest.approx(golden["p"], abs=1e-9)
    assert steps[0].covariance == golden["cov0"]


def test_two_modes_are_a_bandit_with_two_arms():
    modes = TwoModes(0.3, 0.4, 1.0, 1.0, 0.0)
    p_A, scores_A, rewards_A = tensor([[0.7, 0.3], [0.4, 1.0], [1.0, 0.0]])
    assert modes.step(0.5).p_bad == pytest.approx(float(tilt(p_A, scores_A, 0.5)[1]), abs=1e-15)
    assert modes.covariance == pytest.approx(float(covariance(p_A, rewards_A, scores_A)), abs=1e-15)


@pytest.fixture
def law(goldens):
    golden = goldens["T4_cov_law"]
    return golden, tensor(golden["p"]), tensor(golden["r"]), tensor(golden["s"])


def test_golden_covariance_law(law):
    golden, p_A, rewards_A, scores_A = law
    assert float(covariance(p_A, rewards_A, scores_A)) == pytest.approx(golden["cov"], abs=1e-9)
    for step_size, exact, first, second in golden["table_eta_exact_first_second"]:
        change = tilt(p_A, scores_A, step_size) @ rewards_A - p_A @ rewards_A
        assert float(change) == pytest.approx(exact, abs=1e-9)
        assert covariance_law(p_A, rewards_A, scores_A, step_size) == pytest.approx((first, second), abs=1e-9)
    first, second = covariance_law(p_A, rewards_A, scores_A, 1.0)
    assert 2 * (second - first) == pytest.approx(golden["third_central"], abs=1e-9)


@pytest.mark.parametrize(("order", "slope"), [(0, 2.0), (1, 3.0)])
def test_error_of_the_law_has_the_next_order(law, order, slope):
    golden, p_A, rewards_A, scores_A = law
    step_sizes_S = torch.logspace(-3, -1, 9, dtype=torch.float64)
    errors = []
    for step_size in step_sizes_S.tolist():
        change = float(tilt(p_A, scores_A, step_size) @ rewards_A - p_A @ rewards_A)
        errors.append(abs(change - covariance_law(p_A, rewards_A, scores_A, step_size)[order]))
    log_step_S, log_error_S = step_sizes_S.log(), tensor(errors).log()
    fitted = torch.cov(torch.stack([log_step_S, log_error_S]))[0, 1] / log_step_S.var()
    assert float(fitted) == pytest.approx(slope, abs=0.05)
    assert golden["log_slope_first_order"] == pytest.approx(2.0, abs=0.05)


def test_natural_gradient_solves_the_fisher_system_and_its_step_is_the_tilt(law):
    _, p_A, _, scores_A = law
    direction_A = natural_gradient(p_A, scores_A)
    fisher_AA = torch.diag(p_A) - p_A[:, None] * p_A
    torch.testing.assert_close(fisher_AA @ direction_A, p_A * direction_A, rtol=0, atol=1e-15)
    stepped_A = torch.softmax(p_A.log() + 0.3 * direction_A, dim=0)
    torch.testing.assert_close(stepped_A, tilt(p_A, scores_A, 0.3), rtol=0, atol=1e-15)


def test_golden_interference(goldens):
    golden = goldens["E1_bandit_interference"]
    p_A, rewards_AM, targets_M = tensor(golden["p0"]), tensor(golden["arms"]), tensor(golden["c_star"])
    traces = {}
    for method, eta in {"linear": 0.0, "ctwa": golden["eta_lambda"]}.items():
        options = ControllerOptions(eta=eta, tau=golden["tau"], renormalize=False)
        controller = WeightController(options, tensor(golden["lam0"]), targets_M)
        trace = train_bandit(p_A, rewards_AM, targets_M, controller, step_size=golden["eta"], num_steps=golden["T"] + 1)
        traces[method] = trace
        expected_SM = trace.expected_SM[[10, 50, 200, golden["T"]]]
        torch.testing.assert_close(expected_SM, tensor(golden[f"{method}_E"]), rtol=0, atol=1e-9)
        torch.testing.assert_close(trace.drawdown_M, tensor(golden[f"{method}_drawdown"]), rtol=0, atol=1e-9)
        assert trace.expected_SM[0].tolist() == pytest.approx(golden["E0"], abs=1e-9)
    weights_SM = traces["ctwa"].weights_SM[[1, 10, 50, golden["T"]]]
    torch.testing.assert_close(weights_SM, tensor(golden["ctwa_lam"]), rtol=0, atol=1e-9)
    feasibility_S = traces["ctwa"].feasibility_S
    assert int((feasibility_S > 1).nonzero()[0]) == golden["v_star_le1_until"]


def test_golden_feasibility_of_the_first_step(goldens):
    golden = goldens["E1_bandit_interference"]
    p_A, rewards_AM = tensor(golden["p0"]), tensor(golden["arms"])
    centred_AM = rewards_AM - p_A @ rewards_AM
    covariance_MM = centred_AM.T @ (p_A[:, None] * centred_AM)
    value = bandit.target_feasibility(covariance_MM, tensor(golden["c_star"]), ridge=0).value
    assert value == pytest.approx(golden["v_star_first"], abs=1e-9)


def test_examples_in_docstrings_and_documentation_hold():
    page = Path(__file__).parents[2] / "docs" / "methods" / "ctwa.md"
    for results in (doctest.testmod(bandit), doctest.testfile(str(page), module_relative=False)):
        assert results.attempted > 0
        assert results.failed == 0
