import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctwa
from ctwa.errors import CtwaError
from ctwa.scalarizers.compromise import Compromise, CompromiseConfig
from ctwa.scalarizers.linear import Linear, LinearConfig
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def compromise(weights: dict | str = "ab", **options) -> Compromise:
    weights = dict.fromkeys(weights, 1.0) if isinstance(weights, str) else weights
    return Compromise(CompromiseConfig(**options), weights)


def see(method: Compromise, **means: float | None) -> dict[str, float]:
    """A batch of two completions with these mean rewards; the shortfalls after it, by objective."""
    rollout = rollout_of({name: [mean, mean] for name, mean in means.items()})
    metrics = method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))
    return {key.rpartition("/")[2]: value for key, value in metrics.items()}


def after(means: dict[str, list[float]], weights: dict = WEIGHTS, **options) -> Compromise:
    """A method that saw batches with these mean rewards: the first is the start, the last all that is remembered."""
    method = compromise(weights, **{"warmup": 1, "half_life": 1e-9} | options)
    for index in range(len(next(iter(means.values())))):
        see(method, **{name: series[index] for name, series in means.items()})
    return method


def test_by_hand():
    """Shortfalls .5, 1 and 1.5 of gaps that were .8, .5 and .4."""
    method = after({"a": [0.2, 0.6], "b": [0.5, 0.5], "c": [0.6, 0.4]}, alpha=2)
    assert method.shortfall_M.tolist() == pytest.approx([0.5, 1, 1.5])
    raised = {"a": 0.5 * 0.25, "b": 0.3 * 1, "c": 0.2 * 2.25}
    assert method.weights == pytest.approx({name: each / sum(raised.values()) for name, each in raised.items()})

    columns = {"a": [0.0, 1.0], "b": [1.0, 0.5], "c": [0.25, 0.75]}
    scores = method.advantages(rollout_of(columns), Scores())[:, 0].tolist()
    expected = [sum(raised[name] * columns[name][row] for name in raised) / sum(raised.values()) for row in (0, 1)]
    assert scores == pytest.approx(expected)


def test_weights_are_the_slope_of_the_global_criterion():
    start, now, alpha = {"a": 0.2, "b": 0.5, "c": 0.6}, {"a": 0.6, "b": 0.55, "c": 0.4}, 1.5
    shortfall_M = torch.tensor([(1 - now[name]) / (1 - start[name]) for name in WEIGHTS], requires_grad=True)
    (torch.tensor([*WEIGHTS.values()]) * shortfall_M ** (1 + alpha)).sum().backward()
    slope_M = shortfall_M.grad

    method = after({name: [start[name], now[name]] for name in start}, alpha=alpha)
    assert [*method.weights.values()] == pytest.approx((slope_M / slope_M.sum()).tolist())


def test_alpha_0_is_linear_to_the_bit(make_batch):
    names = ["a", "b", "c"]
    linear = {"a": 0.7, "b": 0.1, "c": 0.3}
    method = compromise(linear, alpha=0)
    for seed in range(8):
        batch = make_batch(names, seed=seed)
        expected = Linear(LinearConfig(), linear).advantages(batch.rollout, batch.estimate())
        assert torch.equal(method.advantages(batch.rollout, batch.estimate()), expected)
        batch.step(method)
    assert method.weights == linear


def test_equal_shortfalls_give_the_objectives_own_weights_to_the_bit():
    method = after({"a": [0.0, 0.5], "b": [0.5, 0.75], "c": [0.75, 0.875]}, alpha=3)
    assert method.shortfall_M.tolist() == [0.5, 0.5, 0.5]
    assert method.weights == WEIGHTS


def test_a_large_alpha_leaves_the_furthest_behind_alone():
    method = after({"a": [0.2, 0.6], "b": [0.2, 0.5], "c": [0.2, 0.9]}, alpha=1e6)
    assert method.weights == {"a": 0, "b": 1, "c": 0}


MEANS = st.lists(st.lists(st.floats(0, 0.9), min_size=3, max_size=3), min_size=2, max_size=5)


@settings(max_examples=50)
@given(MEANS, st.floats(0.01, 10))
def test_properties(series, alpha):
    """The sum stays, more lacking is never less weight, and an objective's name is all that its weight goes by."""
    means = {name: [batch[m] for batch in series] for m, name in enumerate("abc")}
    method = after(means, alpha=alpha, half_life=3)
    assert sum(method.weights.values()) == pytest.approx(1)
    factors = [method.weights[name] / WEIGHTS[name] for name in "abc"]
    raised = sorted(zip(method.shortfall_M.tolist(), factors, strict=True))
    assert all(one[1] <= other[1] * (1 + 1e-9) for one, other in itertools.pairwise(raised))

    renamed = {"a": "z", "b": "y", "c": "x"}
    other = after(
        {renamed[name]: values for name, values in means.items()},
        {renamed[name]: weight for name, weight in WEIGHTS.items()},
        alpha=alpha,
        half_life=3,
    )
    assert {name: other.weights[renamed[name]] for name in "abc"} == pytest.approx(method.weights, abs=1e-12)


@settings(max_examples=50)
@given(MEANS, st.floats(-100, 100), st.floats(1, 1000))
def test_scale_and_shift_of_a_reward_with_its_largest_value_move_no_weight(series, shift, scale):
    means = {name: [0.9 * batch[m] for batch in series] for m, name in enumerate("abc")}
    moved = means | {"b": [scale * value + shift for value in means["b"]]}
    method, other = after(means), after(moved, largest={"b": scale + shift})
    assert other.weights == pytest.approx(method.weights, abs=1e-6)


def test_an_objective_that_is_learned_loses_its_weight_and_one_that_falls_gains():
    method = compromise(warmup=1, half_life=1e-9)
    see(method, a=0.5, b=0.5)
    weights = []
    for a in (0.3, 0.5, 0.7, 0.9, 1.0):
        see(method, a=a, b=0.5)
        weights.append(method.weights["a"])
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > weights[1] == 1 > weights[2]
    assert weights[-1] == 0


def test_the_mean_forgets_by_the_half_life():
    method = compromise(warmup=1, half_life=2)
    see(method, a=0.2, b=0.5)
    shortfalls = [see(method, a=0.6, b=0.5)["a"] for _ in range(4)]
    assert shortfalls == pytest.approx([1 - 0.5 * (1 - 0.5 ** (steps / 2)) for steps in (1, 2, 3, 4)])


def test_in_the_warmup_the_weights_are_the_objectives_own():
    method = compromise({"a": 2.0, "b": 1.0}, warmup=3, half_life=1e-9)
    for a in (0.1, 0.3, 0.5):
        assert see(method, a=a, b=0.5) == {"a": 1, "b": 1}
        assert method.weights == {"a": 2, "b": 1}
    assert see(method, a=0.65, b=0.5) == pytest.approx({"a": 0.5, "b": 1})  # it began at .3


def test_an_objective_that_begins_at_its_largest_reward_comes_back_when_it_falls():
    method = compromise(warmup=1, half_life=1e-9, alpha=1)
    see(method, a=1.0, b=0.5)
    shortfalls = [see(method, a=a, b=0.5)["a"] for a in (1.0, 0.95, 0.9)]
    assert shortfalls == pytest.approx([0, 1, 2])
    assert method.weights == pytest.approx({"a": 4 / 3, "b": 2 / 3})


def test_where_nothing_is_lacking_the_weights_are_the_objectives_own():
    assert after({"a": [0.5, 1.0], "b": [0.2, 1.0], "c": [1.0, 1.0]}).weights == WEIGHTS


def test_an_objective_that_scored_nothing_stands_still():
    method = compromise(warmup=1)
    see(method, a=0.5, b=0.5)
    before = see(method, a=0.7, b=0.5)
    assert see(method, a=None, b=0.5)["a"] == before["a"] < 1
    away = ctwa.NOT_APPLICABLE
    rollout = rollout_of({"a": [away, away], "b": [0.5, 0.5]})
    method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))
    assert float(method.shortfall_M[0]) == before["a"]


def test_one_objective_and_one_of_weight_0_keep_their_weights():
    assert after({"a": [0.5, 0.9]}, {"a": 0.25}).weights == {"a": 0.25}
    method = after({"b": [0.5, 0.1], "a": [0.5, 0.9], "c": [0.5, 0.2]}, {"b": 0.0, "a": 1.0, "c": 3.0})
    assert method.weights["b"] == 0
    assert [*method.weights] == ["b", "a", "c"]
    assert "b" not in see(method, b=5.0, a=0.9, c=0.2)  # nor is it held to a largest reward


def test_a_state_goes_on():
    method = after({"a": [0.1, 0.5, 0.3], "b": [0.5, 0.7, 0.9], "c": [0.4, 0.4, 0.2]}, half_life=3)
    resumed = compromise(WEIGHTS, warmup=1, half_life=3)
    resumed.load_state_dict(json.loads(json.dumps(method.state_dict())))
    assert resumed.weights == method.weights
    for each in (method, resumed):
        see(each, a=0.9, b=0.2, c=0.4)
    assert resumed.weights == method.weights


def test_a_run_that_ends_in_the_warmup_is_said_to_move_no_weight():
    assert list(CompromiseConfig(warmup=4).unreached(5)) == ["warmup=4: no weight moves in 5 steps"]
    assert list(CompromiseConfig(warmup=3).unreached(5)) == []
    assert list(CompromiseConfig(alpha=0).unreached(5)) == []
    assert CompromiseConfig(alpha=0).idle().keys() == {"warmup", "half_life"}
    assert not CompromiseConfig().idle()


def test_weights_move_in_the_second_step_after_the_warmup():
    method = compromise(warmup=3)
    scored = []
    for mean in (0.5, 0.5, 0.5, 0.9, 0.9):
        scored.append(method.weights["a"])
        see(method, a=mean, b=0.5)
    assert scored[:4] == [scored[0]] * 4
    assert scored[4] < scored[0]


def test_mistakes_are_named():
    with pytest.raises(
        CtwaError, match=r"'b' has the reward 1\.5 in row 1, .* takes 1 for the largest .*largest=\{b: "
    ):
        compromise().advantages(rollout_of({"a": [1.0, 1.0], "b": [0.0, 1.5]}), Scores())
    with pytest.raises(CtwaError, match=r"the method's largest names \['d'\]"):
        compromise(largest={"d": 2.0})
