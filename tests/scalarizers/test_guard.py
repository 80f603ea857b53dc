import pytest
import torch

import ctwa
from ctwa.errors import CtwaError
from ctwa.scalarizers.guard import Guard, GuardConfig, guarded_sum
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

CLOSED, OPEN = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
EIGHT_CASES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double()
"""Every outcome of three objectives of 0 and 1."""
WEIGHTS_M = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def guard(names: str = "abc", **options) -> Guard:
    return Guard(GuardConfig(**options), dict.fromkeys(names, 1.0))


def see(method: Guard, **means: float | None) -> dict[str, float]:
    """A batch of two completions with these mean rewards; what is watched after it."""
    columns = {name: [mean, mean] for name, mean in means.items()}
    rollout = rollout_of(columns)
    return method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))


@pytest.fixture
def rewards_NM() -> torch.Tensor:
    return torch.rand(32, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_by_hand():
    values_NM = torch.tensor([[0.2, 1.0, 0.5]], dtype=torch.float64)
    gates_M = torch.tensor([1.0, 0.25, 0.0], dtype=torch.float64)
    # Factors .2, 1 and 1.
    assert guarded_sum(values_NM, WEIGHTS_M, gates_M).item() == pytest.approx(0.5 * 0.2 + 0.3 * 0.2 + 0.2 * 0.5 * 0.2)


def test_with_all_gates_closed_it_is_the_product_and_with_all_open_the_weighted_sum(rewards_NM):
    torch.testing.assert_close(guarded_sum(rewards_NM, WEIGHTS_M, CLOSED), rewards_NM.prod(1), rtol=1e-13, atol=0)
    torch.testing.assert_close(guarded_sum(rewards_NM, WEIGHTS_M, OPEN), rewards_NM @ WEIGHTS_M, rtol=1e-13, atol=0)
    assert torch.equal(guarded_sum(EIGHT_CASES, WEIGHTS_M, CLOSED), EIGHT_CASES.prod(1))


def test_behind_one_closed_gate_the_others_count_only_with_it():
    gates_M = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    score_N = guarded_sum(EIGHT_CASES, WEIGHTS_M, gates_M)
    assert torch.equal(score_N, EIGHT_CASES[:, 0] * (EIGHT_CASES @ WEIGHTS_M))


def test_a_better_reward_never_makes_a_worse_score_nor_an_opened_gate(rewards_NM):
    gates_M = torch.tensor([0.9, 0.1, 0.5], dtype=torch.float64)
    score_N = guarded_sum(rewards_NM, WEIGHTS_M, gates_M)
    for column in torch.eye(3, dtype=torch.float64):
        assert (guarded_sum((rewards_NM + 0.1 * column).clamp(max=1), WEIGHTS_M, gates_M) >= score_N).all()
        assert (guarded_sum(rewards_NM, WEIGHTS_M, gates_M - 0.1 * column) >= score_N).all()


def test_a_gate_opens_with_the_gain_and_closes_as_it_is_lost():
    method = guard("ab", warmup=2, half_life=1e-9, margin=0.2)
    gates = [see(method, a=a, b=0.5)["guard/gate/a"] for a in (0.3, 0.5, 0.45, 0.55, 0.8, 0.5, 0.2)]
    assert gates == pytest.approx([1, 1, 0.75, 0.25, 0, 0.5, 1])  # it began at .4
    assert see(method, a=0.5, b=0.5) == pytest.approx(
        {"guard/gate/a": 0.5, "guard/gain/a": 0.1, "guard/gate/b": 1, "guard/gain/b": 0, "guard/no_signal_frac": 1}
    )


def test_the_gate_of_one_that_cannot_gain_the_margin_opens_with_all_that_it_lacks():
    method = guard("ab", warmup=1, half_life=1e-9, margin=0.4)
    seen = [see(method, a=a, b=b) for a, b in ((0.8, 1.0), (0.9, 1.0), (1.0, 0.97))]
    assert [each["guard/gate/a"] for each in seen] == pytest.approx([1, 0.5, 0])
    assert [each["guard/gate/b"] for each in seen] == [1, 1, 1]  # it began at its bound


def test_the_mean_that_is_held_against_the_beginning_forgets_by_the_half_life():
    method = guard("ab", warmup=1, half_life=2, margin=0.1)
    see(method, a=0.2, b=0.5)
    gains = [see(method, a=0.6, b=0.5)["guard/gain/a"] for _ in range(4)]
    assert gains == pytest.approx([0.4 * (1 - 0.5 ** (steps / 2)) for steps in (1, 2, 3, 4)])


def test_in_the_warmup_gates_are_closed_and_nothing_is_said_of_gains():
    method = guard("ab", warmup=3)
    for a in (0.1, 0.9, 0.5):
        assert see(method, a=a, b=0.5) == {"guard/gate/a": 1, "guard/gate/b": 1, "guard/no_signal_frac": 1}


def test_a_batch_that_did_not_score_an_objective_leaves_its_gate():
    method = guard("ab", warmup=1, margin=0.4)
    see(method, a=0.2, b=0.5)
    before = see(method, a=0.6, b=0.5)
    assert see(method, a=None, b=0.5)["guard/gate/a"] == before["guard/gate/a"] < 1


def test_what_does_not_apply_to_a_completion_has_neither_weight_nor_gate():
    away = ctwa.NOT_APPLICABLE
    method = guard()
    rollout = rollout_of({"a": [0.25, 0.25, away, away], "b": [1.0, away, 0.5, away], "c": [None] * 4})
    scores_N = method.advantages(rollout, Scores())[:, 0]
    assert scores_N.tolist() == pytest.approx([0.25, 0.25, 0.5, 0])  # c was never scored: the last has no score


def test_a_completion_that_lacks_a_reward_has_no_score_and_its_others_move_the_gates():
    method = guard("ab", warmup=1, half_life=1e-9, margin=0.5)
    see(method, a=0.25, b=0.5)
    rollout = rollout_of({"a": [0.5, None, 0.25], "b": [0.5, 1.0, None]})
    assert (method.advantages(rollout, Scores())[1:] == 0).all()
    assert method.observe_update(update_of(rollout, torch.zeros(3, 2)))["guard/gain/b"] == pytest.approx(0.25)


def test_the_margin_is_what_an_objective_lacks_between_a_least_one_and_the_option():
    for margin, start, expected in ((0.4, 0.8, 0.2), (0.4, 0.99, 0.05), (0.02, 0.5, 0.02), (0.02, 0.99, 0.02)):
        method = guard("a", warmup=1, half_life=1e-9, margin=margin)
        see(method, a=start)
        gained = min(expected / 2, 1 - start)
        assert see(method, a=start + gained)["guard/gate/a"] == pytest.approx(1 - gained / expected)


def test_a_run_that_ends_in_the_warmup_is_said_to_open_no_gate():
    assert list(GuardConfig(warmup=5).unreached(5)) == ["warmup=5: no gate opens in 5 steps"]
    assert list(GuardConfig(warmup=4).unreached(5)) == []
    method = guard("ab", warmup=4, half_life=1e-9)
    gates = [see(method, a=a, b=0.5)["guard/gate/a"] for a in (0.2, 0.2, 0.2, 0.2, 0.9)]
    assert gates == [1, 1, 1, 1, 0]


def test_bounds_are_moved_to_0_and_1():
    plain, bounded = guard("ab", warmup=1), guard("ab", warmup=1, bounds={"b": (-10.0, 10.0)})
    for b in (0.5, 0.6, 0.4):
        one, other = (
            rollout_of({"a": [0.2, 0.4], "b": [b, 1.0]}),
            rollout_of({"a": [0.2, 0.4], "b": [20 * b - 10, 10.0]}),
        )
        torch.testing.assert_close(bounded.advantages(other, Scores()), plain.advantages(one, Scores()))
    torch.testing.assert_close(bounded.gates_M, plain.gates_M)


def test_a_run_goes_on_with_other_bounds():
    """As it is told to where a reward is out of those that it began with."""
    before, resumed = guard("ab", warmup=1), guard("ab", warmup=1, bounds={"a": (0.0, 2.0)})
    for method in (before, resumed):
        for mean in (0.4, 0.6):
            see(method, a=mean, b=0.5)
    other = guard("ab", warmup=1, bounds={"a": (0.0, 2.0)})
    other.load_state_dict(before.state_dict())
    assert see(other, a=1.4, b=0.5) == see(resumed, a=1.4, b=0.5)
    assert other.gates_M.tolist() == resumed.gates_M.tolist()
    with pytest.raises(CtwaError, match="version 1"):  # its means may be in the unit of its bounds
        other.load_state_dict(before.state_dict() | {"version": 1})


def test_a_reward_out_of_its_bounds_is_named():
    with pytest.raises(CtwaError, match=r"'b' has the reward 1\.5 in row 1, .* between 0 and 1; .*bounds\.b=\[LOWEST,"):
        guard("ab").advantages(rollout_of({"a": [1.0, 1.0], "b": [0.0, 1.5]}), Scores())
    with pytest.raises(CtwaError, match="the method's bounds names"):
        guard(bounds={"d": (0.0, 2.0)})
    with pytest.raises(CtwaError, match="lowest reward and then the highest"):
        guard(bounds={"a": (1.0, 0.0)})
