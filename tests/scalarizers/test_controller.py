import math

import pytest
import torch
from torch import Tensor

from ctwa.covariance import weighted_covariance
from ctwa.scalarizers.controller import ControllerOptions, WeightController

LAM_0 = [0.333, 0.333, 0.334]


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def controller_of(initial=LAM_0, targets=(0.15, 0.08, 0.08), **options) -> WeightController:
    return WeightController(ControllerOptions(**{"renormalize": False} | options), tensor(initial), tensor(targets))


@pytest.mark.parametrize("ema_init", ["first", "zero"])
def test_golden_steps(goldens, ema_init):
    golden = goldens[f"C7_controller_{ema_init}"]
    controller = controller_of(targets=golden["c_star"], eta=golden["eta_lambda"], tau=golden["tau"], ema_init=ema_init)
    for step, covariance_M in enumerate(golden["c_seq"]):
        deficit_M = controller.step(tensor(covariance_M))
        for values_M, key in (
            (controller.ema_M, "cbar"),
            (deficit_M, "deficit"),
            (controller.log_weights_M, "u"),
            (controller.weights_M, "lam"),
        ):
            torch.testing.assert_close(values_M, tensor(golden[key][step]), rtol=0, atol=1e-9)
    controller.options = ControllerOptions(**controller.options.model_dump() | {"renormalize": True})
    torch.testing.assert_close(controller.weights_M, tensor(golden["lam_normalised"]), rtol=0, atol=1e-9)


def test_debiased_average(goldens):
    golden = goldens["C7_controller_first"]
    controller = controller_of(ema_init="debiased")
    for covariance_M in golden["c_seq"]:
        controller.step(tensor(covariance_M))
    expected_M = tensor([0.335913551375, 0.333, 0.339242889252])
    torch.testing.assert_close(controller.weights_M, expected_M, rtol=0, atol=1e-9)


def test_golden_deficits_that_a_zero_start_makes_up(goldens):
    golden = goldens["C8_ema_zero_bias"]
    growths = {}
    for ema_init in ("zero", "first", "debiased"):
        controller = controller_of([1.0], [golden["c_star"]], ema_init=ema_init)
        deficits = [float(controller.step(tensor([golden["c_true"]]))) for _ in range(100)]
        growths[ema_init] = (sum(deficit > 0 for deficit in deficits), float(controller.growth_M))
    assert growths["zero"][0] == golden["steps_with_spurious_deficit"]
    assert growths["zero"][1] == pytest.approx(golden["total_spurious_du"], abs=1e-9)
    assert math.exp(growths["zero"][1]) == pytest.approx(golden["lam_ratio"], abs=1e-9)
    assert growths["first"] == growths["debiased"] == (0, 0.0)


def test_golden_growth_of_an_objective_that_never_moves(goldens):
    golden = goldens["C9_growth"]
    controller = controller_of([1.0], [0.15])
    for _ in range(810):
        controller.step(tensor([0.0]))
    assert float(controller.growth_M) == pytest.approx(golden["u_after_810"], abs=1e-9)
    assert float(controller.growth_M) / 810 == pytest.approx(golden["du_per_step_at_c0"], abs=1e-9)
    assert float(controller.weights_M) == pytest.approx(golden["lam_growth_810"], abs=1e-9)
    assert float(controller.step(tensor([0.0]))) * 0.05 == pytest.approx(golden["du_per_step_at_c0"], abs=1e-9)
    worst = controller_of([1.0], [0.15])
    assert float(worst.step(tensor([-0.5]))) * 0.05 == pytest.approx(golden["worst_du"], abs=1e-9)
    for du, key in ((0.0075, "steps_to_f32_overflow_at_c0"), (0.0325, "steps_to_f32_overflow_worst")):
        controller = controller_of()
        for num_steps, overflows in ((golden[key] - 1, False), (golden[key], True)):
            controller.growth_M = tensor([num_steps * du] * 3)
            assert bool(controller.weights_M[0].float().isinf()) is overflows
            assert controller.relative_weights_M.float().tolist() == tensor(LAM_0).float().tolist()


def test_equal_deficits_are_where_infeasible_targets_end(goldens):
    """With targets no weights can meet, the weights settle where the largest deficit is smallest."""
    golden = goldens["C6_infeasible"]
    covariance_MM, targets_M = tensor(golden["C"]), tensor(golden["c_star"])
    controller = controller_of([0.5, 0.5], golden["c_star"], eta=0.1, tau=1.0)
    for _ in range(2000):
        deficit_M = controller.step(weighted_covariance(covariance_MM, controller.relative_weights_M))
    shares_M = controller.relative_weights_M / controller.relative_weights_M.sum()
    torch.testing.assert_close(shares_M, tensor([0.50569019944, 0.49430980056]), rtol=0, atol=1e-9)
    torch.testing.assert_close(deficit_M, tensor([0.036141964623] * 2), rtol=0, atol=1e-9)
    for share in torch.linspace(0.01, 0.99, 99, dtype=torch.float64):
        other_M = targets_M - weighted_covariance(covariance_MM, torch.stack([share, 1 - share]))
        assert other_M.max() >= 0.036141964623 - 1e-9


def test_without_deficit_the_weights_are_the_initial_ones_to_the_last_bit():
    for renormalize in (False, True):
        controller = controller_of(renormalize=renormalize)
        controller.step(tensor([1.0, 1.0, 1.0]))
        assert controller.weights_M.tolist() == LAM_0
        assert controller.relative_weights_M.tolist() == LAM_0


def test_renormalised_weights_keep_their_ratios_and_their_sum():
    paper, renormalised = controller_of(), controller_of(renormalize=True)
    for _ in range(50):
        for controller in (paper, renormalised):
            controller.step(tensor([0.0, 0.1, -0.3]))
    torch.testing.assert_close(renormalised.weights_M.sum(), tensor(1.0), rtol=1e-14, atol=0)
    ratio_M = paper.weights_M / renormalised.weights_M
    torch.testing.assert_close(ratio_M, ratio_M[:1].expand(3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("renormalize", [False, True])
def test_weights_stay_finite_for_ever(renormalize):
    controller = controller_of(renormalize=renormalize)
    controller.growth_M = tensor([1e6, 0.0, 1e6 - 1])
    assert controller.weights_M.isfinite().all()
    assert controller.relative_weights_M[2] / controller.relative_weights_M[0] == pytest.approx(0.334 / 0.333 / math.e)


def test_an_unobserved_objective_holds_its_average_and_its_weight():
    controller = controller_of()
    controller.step(tensor([0.0, 0.0, 0.0]))
    before = (controller.ema_M.clone(), controller.growth_M.clone())
    deficit_M = controller.step(tensor([math.nan, 0.1, math.inf]))
    assert deficit_M[[0, 2]].tolist() == [0, 0]
    assert controller.ema_M[[0, 2]].equal(before[0][[0, 2]])
    assert controller.growth_M[[0, 2]].equal(before[1][[0, 2]])
    assert controller.ema_M[1] == pytest.approx(0.01)
    assert controller.num_observed_M.tolist() == [1, 2, 1]
    assert controller.num_held_M.tolist() == [1, 0, 1]


@pytest.mark.parametrize("ema_init", ["first", "debiased", "zero"])
def test_an_objective_first_observed_late_starts_then(ema_init):
    controller, fresh = controller_of(ema_init=ema_init), controller_of(ema_init=ema_init)
    controller.step(tensor([math.nan, 0.1, 0.1]))
    assert controller.ema_M[0].isnan()
    assert controller.growth_M[0] == 0
    controller.step(tensor([0.05, 0.1, 0.1]))
    fresh.step(tensor([0.05, 0.1, 0.1]))
    assert controller.ema_M[0] == fresh.ema_M[0]


def test_an_inactive_objective_is_measured_but_gains_no_weight():
    controller = controller_of()
    deficit_M = controller.step(tensor([0.0, 0.0, 0.0]), active_M=torch.tensor([False, True, True]))
    assert deficit_M.tolist() == [0, 0.08, 0.08]
    assert controller.ema_M.tolist() == [0, 0, 0]


def test_floor_is_a_share_of_the_largest_weight():
    controller = controller_of(weight_floor=1e-3)
    controller.growth_M = tensor([20.0, 0.0, 19.0])
    for weights_M in (controller.weights_M, controller.relative_weights_M):
        assert weights_M[1] / weights_M[0] == pytest.approx(1e-3)
    assert controller.log_weights_M[1] == pytest.approx(math.log(0.333))
