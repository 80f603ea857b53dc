import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctwa.scalarizers.relative_controller import RelativeController, RelativeOptions

LAM_0 = [0.333, 0.333, 0.334]
CONSTANTS = {"tau": 0.1, "theta": 0.1, "eta": 0.1, "kappa": 0.03, "clip": 1.2, "warmup": 3, "gate_tau": 0.2}


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def controller_of(initial=LAM_0, solved_at=None, **options) -> RelativeController:
    solved_at_M = tensor([math.inf] * len(initial) if solved_at is None else solved_at)
    return RelativeController(RelativeOptions(**CONSTANTS | options), tensor(initial), solved_at_M)


def feed(controller: RelativeController, gain, error=None, times: int = 1) -> Tensor:
    error_M = torch.zeros(len(gain), dtype=torch.float64) if error is None else tensor(error)
    for _ in range(times):
        deficit_M = controller.step(tensor(gain), error_M)
    return deficit_M


def test_first_steps_by_hand():
    """Gains of -.004, .008 and .001 a step without noise: relative gains -1/2, 1 and 1/8 from the first on."""
    controller = controller_of()
    for _ in range(3):
        assert feed(controller, [-0.004, 0.008, 0.001]).tolist() == [0, 0, 0]
        assert controller.weights_M.tolist() == LAM_0
    torch.testing.assert_close(controller.relative_gain_M, tensor([-0.5, 1, 0.125]), rtol=1e-12, atol=0)

    deficit_M = feed(controller, [-0.004, 0.008, 0.001])
    torch.testing.assert_close(deficit_M, tensor([0.6, 0, 0]), rtol=1e-12, atol=0)
    # .06 for one of three, centred: .04, -.02, -.02
    torch.testing.assert_close(controller.growth_M, tensor([0.04, -0.02, -0.02]), rtol=1e-12, atol=0)
    unscaled = [0.333 * math.exp(0.04), 0.333 * math.exp(-0.02), 0.334 * math.exp(-0.02)]
    torch.testing.assert_close(
        controller.weights_M, tensor([weight / sum(unscaled) for weight in unscaled]), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(controller.log_weights_M, tensor(LAM_0).log() + controller.growth_M)

    feed(controller, [-0.004, 0.008, 0.001])
    # .97 * .04 + .06 - .02, .97 * -.02 - .02
    torch.testing.assert_close(controller.growth_M, tensor([0.0788, -0.0394, -0.0394]), rtol=1e-12, atol=0)


def test_moving_averages_by_hand():
    controller = controller_of()
    controller.step(tensor([0.01, 0.0, 0.0]), tensor([0.003, 0.0, 0.0]))
    assert controller.ema_M[0].item() == pytest.approx(0.01, rel=1e-12)
    assert controller.standard_error_M[0].item() == pytest.approx(0.003, rel=1e-12)
    controller.step(tensor([0.03, 0.0, 0.0]), tensor([0.004, 0.0, 0.0]))
    # weights .09 and .1 over .19
    first, second = 0.09 / 0.19, 0.1 / 0.19
    assert controller.ema_M[0].item() == pytest.approx(first * 0.01 + second * 0.03, rel=1e-12)
    variance = first * 0.003**2 + second * 0.004**2
    assert controller.standard_error_M[0].item() == pytest.approx(
        math.sqrt(variance * (first**2 + second**2)), rel=1e-12
    )


def by_the_letter(gains, errors, rewards, initial, gate: float) -> list[float]:
    """The whole controller in plain Python, for measurements without gaps."""
    num = len(initial)
    average, variance, reward, growth = ([0.0] * num for _ in range(4))
    for step, (gain, error, mean) in enumerate(zip(gains, errors, rewards, strict=True), start=1):
        average = [0.9 * a + 0.1 * x for a, x in zip(average, gain, strict=True)]
        variance = [0.9 * a + 0.1 * x * x for a, x in zip(variance, error, strict=True)]
        reward = [0.8 * a + 0.2 * x for a, x in zip(reward, mean, strict=True)]
        bias = 1 - 0.9**step
        ema = [a / bias for a in average]
        squares = sum((0.1 * 0.9**i / bias) ** 2 for i in range(step))
        sd = [math.sqrt(v / bias * squares) for v in variance]
        scale = max(max(abs(e) for e in ema), sum(sd) / num)
        deficit = [min(max(0.1 - e / scale, 0), 1) for e in ema]
        deficit = [0 if r / (1 - 0.8**step) >= gate else d for d, r in zip(deficit, reward, strict=True)]
        if step > 3:
            growth = [0.97 * v + 0.1 * d for v, d in zip(growth, deficit, strict=True)]
            growth = [min(max(v - sum(growth) / num, -1.2), 1.2) for v in growth]
    unscaled = [weight * math.exp(v) for weight, v in zip(initial, growth, strict=True)]
    return [weight / sum(unscaled) * sum(initial) for weight in unscaled]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), num_objectives=st.sampled_from([1, 2, 3, 8]), drift=st.sampled_from([0.0, 0.01]))
def test_equals_the_controller_in_plain_python(seed, num_objectives, drift):
    generator = torch.Generator().manual_seed(seed)
    gain_SM, error_SM, reward_SM = torch.rand(3, 60, num_objectives, dtype=torch.float64, generator=generator)
    gain_SM = 0.01 * (gain_SM - 0.5) - drift * torch.linspace(-1, 1, num_objectives, dtype=torch.float64)
    initial = [1 / (1 + i) for i in range(num_objectives)]
    controller = controller_of(initial, [0.6] * num_objectives)
    for gain_M, error_M, reward_M in zip(gain_SM, 0.004 * error_SM, reward_SM, strict=True):
        controller.observe_rewards(reward_M)
        controller.step(gain_M, error_M)
    expected = by_the_letter(gain_SM.tolist(), (0.004 * error_SM).tolist(), reward_SM.tolist(), initial, 0.6)
    torch.testing.assert_close(controller.weights_M, tensor(expected), rtol=1e-9, atol=0)


def test_a_weight_leaks_back_with_the_time_constant_of_kappa():
    controller = controller_of(warmup=0)
    feed(controller, [-0.01, 0.01, 0.01], times=10)
    raised_M = controller.growth_M
    assert raised_M[0] > 0.5
    for num_steps in range(1, 34):
        assert feed(controller, [1.0, 1.0, 1.0]).tolist() == [0, 0, 0]  # from here on all rise alike
        torch.testing.assert_close(controller.growth_M, 0.97**num_steps * raised_M, rtol=1e-12, atol=0)
    assert float(controller.growth_M[0] / raised_M[0]) == pytest.approx(1 / math.e, abs=2e-3)


def test_growth_is_clipped_both_ways():
    controller = controller_of(kappa=0.0, warmup=0)
    feed(controller, [-0.01, 0.01, -0.01], times=100)
    # Centred first, then clipped: .65 + .1 less a third of the sum of .75, -1.2 and .75 is .65 again.
    torch.testing.assert_close(controller.growth_M, tensor([0.65, -1.2, 0.65]), rtol=1e-9, atol=0)
    controller = controller_of(kappa=0.0, warmup=0)
    feed(controller, [-0.01, 0.01, 0.01], times=100)
    assert controller.growth_M[0] == 1.2
    assert controller.growth_M.abs().max() <= 1.2


def test_noise_larger_than_the_gains_leaves_no_relative_gain():
    controller = controller_of(warmup=0)
    deficit_M = feed(controller, [-0.001, 0.001, 0.0], [0.03, 0.03, 0.03])
    torch.testing.assert_close(controller.relative_gain_M, tensor([-1 / 30, 1 / 30, 0]), rtol=1e-12, atol=0)
    torch.testing.assert_close(deficit_M, tensor([0.1 + 1 / 30, 0.1 - 1 / 30, 0.1]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gain", [[0.0, 0.0, 0.0], [0.01, 0.01, 0.01], [-0.01, -0.01, -0.01]])
def test_objectives_that_do_alike_keep_their_weights(gain):
    controller = controller_of()
    feed(controller, gain, times=20)
    torch.testing.assert_close(controller.weights_M, tensor(LAM_0), rtol=1e-14, atol=0)


def test_one_objective_keeps_its_weight():
    controller = controller_of([2.0])
    for gain in (-0.01, 0.01, 0.0):
        feed(controller, [gain], times=5)
    assert controller.weights_M.tolist() == [2.0]


def test_a_solved_objective_has_no_deficit_and_leaks_back():
    controller = controller_of(solved_at=[0.95, math.inf, 0.95], warmup=0)
    for _ in range(10):
        controller.observe_rewards(tensor([0.5, 1.0, 0.94]))
        feed(controller, [-0.01, 0.01, -0.01])
    assert controller.solved_M.tolist() == [False, False, False]
    controller.observe_rewards(tensor([1.0, 1.0, 1.0]))
    # Objective 0 is remembered at about .6; objective 2 at .952.
    assert controller.solved_M.tolist() == [False, False, True]
    assert float(controller.mean_reward_M[0]) == pytest.approx(0.5 + 0.5 * 0.2 / (1 - 0.8**11), rel=1e-12)
    before_M = controller.growth_M
    deficit_M = feed(controller, [-0.01, 0.01, -0.01])
    assert deficit_M[0] == 1
    assert deficit_M[2] == 0
    assert controller.growth_M[2] < before_M[2]


def test_an_unmeasured_objective_holds_its_average_and_its_growth():
    controller = controller_of(warmup=0)
    feed(controller, [-0.01, 0.01, 0.0], times=5)
    before = (controller.ema_M, controller.standard_error_M, controller.growth_M)
    deficit_M = feed(controller, [math.nan, 0.01, -0.02], [0.0, 0.0, 0.0])
    assert deficit_M[0] == 0
    assert deficit_M[2] > 0
    for values_M, after_M in zip(
        before, (controller.ema_M, controller.standard_error_M, controller.growth_M), strict=True
    ):
        assert values_M[0] == after_M[0]
    assert float(controller.growth_M.sum()) == pytest.approx(0, abs=1e-15)
    assert controller.num_measured_M.tolist() == [5, 6, 6]
    feed(controller, [0.01, 0.01, 0.01], [math.nan, 0.0, math.inf])  # a gain of unknown error says nothing
    assert controller.num_held_M.tolist() == [2, 0, 1]
    growth_M = controller.growth_M
    feed(controller, [math.nan] * 3)
    assert controller.growth_M.equal(growth_M)


def test_an_objective_first_measured_late_has_its_own_warm_up():
    controller = controller_of()
    feed(controller, [math.nan, 0.01, -0.01], times=10)
    assert controller.relative_gain_M.isnan().tolist() == [True, False, False]
    assert controller.growth_M[0] == 0
    assert feed(controller, [-0.01, 0.01, -0.01], times=3)[0] == 0
    assert controller.growth_M[0] == 0
    assert feed(controller, [-0.01, 0.01, -0.01])[0] == 1


def test_nothing_measured_yet():
    controller = controller_of()
    for values_M in (controller.ema_M, controller.standard_error_M, controller.relative_gain_M):
        assert values_M.isnan().all()
    assert controller.weights_M.tolist() == LAM_0


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_weights_stay_within_their_bounds(tau):
    controller = controller_of(tau=tau, clip=1.2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        gain_M, error_M = torch.randn(2, 3, dtype=torch.float64, generator=generator)
        controller.step(100 * gain_M, error_M.abs())
    assert controller.weights_M.sum() == pytest.approx(1.0)
    assert (controller.relative_gain_M.abs() <= 1).all()
    assert controller.growth_M.abs().max() <= 1.2
