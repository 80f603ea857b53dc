import math
from typing import Any

import pytest
import torch

from ctwa import NOT_APPLICABLE
from ctwa.batch import RewardMatrix
from ctwa.errors import CtwaError
from ctwa.objectives.config import parse_objectives
from ctwa.objectives.shaping import Shaped, Shaping, Standardise

GROUP_N = torch.tensor([0, 0, 0, 1, 1, 1])
RAW = RewardMatrix.from_columns({"right": [1, 0, 1, None, 1, 0], "short": [-4.0, 3.0, 0.0, 9.0, 9.0, None]})


def shaping(standardise: Any = "none", **short: Any) -> Shaping:
    objectives = {"right": {"reward_fn": "r.py:f"}, "short": {"reward_fn": "r.py:f", **short}}
    return Shaping(parse_objectives(objectives), standardise)


def shaped(train: bool = True, **short: Any) -> list[float | None]:
    return shaping(**short).shape(RAW, GROUP_N, train=train).matrix.to_columns()["short"]


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    plain = shaping()
    assert plain.shape(RAW, GROUP_N, train=True).matrix is RAW
    assert plain.changes == ()
    assert plain.described() == []
    assert plain.metrics(plain.shape(RAW, GROUP_N, train=True)) == {}


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ({"clip": [-1, 5]}, [-1, 3, 0, 5, 5, None]),
        ({"clip": [None, 5]}, [-4, 3, 0, 5, 5, None]),
        ({"transform": "sqrt"}, [-2, 3**0.5, 0, 3, 3, None]),
        ({"transform": "log"}, [-math.log(5), math.log(4), 0, math.log(10), math.log(10), None]),
        ({"transform": "tanh", "scale": 2}, [2 * math.tanh(-4), 2 * math.tanh(3), 0, 2, 2, None]),
        ({"transform": "sigmoid"}, [1 / (1 + math.exp(4)), 1 / (1 + math.exp(-3)), 0.5, 0.99987660, 0.99987660, None]),
        ({"transform": "rank"}, [0, 1, 0.5, 0.5, 0.5, None]),
        # Clip, then transform, then scale.
        ({"clip": [-1, 4], "transform": "sqrt", "scale": 10}, [-10, 10 * 3**0.5, 0, 20, 20, None]),
        # What was not scored stays so, and nobody knows about row 3, whose gate was not scored.
        ({"gate": {"by": "right", "at_least": 1}}, [-4, 0, 0, None, 9, None]),
        ({"gate": {"by": "right", "at_most": 0.5, "otherwise": -1}}, [-1, 3, -1, None, -1, None]),
        ({"scale": 2, "gate": {"by": "right", "at_least": 1, "otherwise": 7}}, [-8, 7, 0, None, 18, None]),
    ],
)
def test_values_by_hand(short: dict[str, Any], expected: list[float | None]) -> None:
    assert shaped(**short) == [value if value is None else pytest.approx(value, abs=1e-6) for value in expected]
    assert shaped(train=False, **short) == shaped(**short)


def test_a_gate_looks_at_what_the_function_returned() -> None:
    objectives = {
        "right": {"reward_fn": "r.py:f", "scale": 0.1, "gate": {"by": "short", "at_least": 0}},
        "short": {"reward_fn": "r.py:f", "gate": {"by": "right", "at_least": 1}},
    }
    columns = Shaping(parse_objectives(objectives)).shape(RAW, GROUP_N, train=True).matrix.to_columns()
    assert columns == {"right": [0, 0, 0.1, None, 0.1, None], "short": [-4, 0, 0, None, 9, None]}


@pytest.mark.parametrize(("bound", "others"), [("at_least", (0.799999, 0.800001)), ("at_most", (0.800001, 0.799999))])
def test_rounding_closes_no_gate(bound: str, others: tuple[float, float]) -> None:
    values = [0.7 + 0.1, float(torch.tensor(0.8)), 0.8, 1 - 0.2, *others]
    raw = RewardMatrix.from_columns({"right": values, "short": [1.0] * 6})
    gated = shaping(gate={"by": "right", bound: 0.8}).shape(raw, torch.zeros(6, dtype=torch.int64), train=True)
    assert gated.matrix.to_columns()["short"] == [1, 1, 1, 1, 0, 1]


def test_a_gate_does_not_apply_where_its_objective_does_not() -> None:
    raw = RewardMatrix.from_columns({"right": [1, NOT_APPLICABLE, 0], "short": [2.0, 3.0, NOT_APPLICABLE]})
    gated = shaping(gate={"by": "right", "at_least": 1}).shape(raw, torch.zeros(3, dtype=torch.int64), train=True)
    assert gated.matrix.to_columns()["short"] == [2.0, NOT_APPLICABLE, NOT_APPLICABLE]


def test_metrics_say_what_is_trained_on_and_how_often_a_gate_was_open() -> None:
    gated = shaping(gate={"by": "right", "at_least": 1})
    metrics = gated.metrics(gated.shape(RAW, GROUP_N, train=True))
    assert metrics == {
        "objective/short/shaped_mean": pytest.approx(5 / 4),
        "objective/short/shaped_std": pytest.approx(torch.tensor([-4.0, 0, 0, 9]).std(correction=0).item()),
        "objective/short/gate_open_frac": 3 / 4,
    }


def test_rewards_of_unlike_scale_are_brought_to_one() -> None:
    batch = shaping("batch", scale=1000)
    values = batch.shape(RAW, GROUP_N, train=True).matrix
    for name in values.names:
        column, scored = values.column(name)
        assert column[scored].mean().item() == pytest.approx(0, abs=1e-12)
        assert column[scored].std(correction=0).item() == pytest.approx(1)
    # Of held-out rewards the mean is looked at.
    assert batch.shape(RAW, GROUP_N, train=False).matrix.to_columns()["short"][0] == -4000


def test_a_shaped_reward_that_is_too_large_for_statistics_is_refused() -> None:
    raw = RewardMatrix.from_columns({"right": [1.0], "short": [-1e12]})
    with pytest.raises(CtwaError, match=r"objective 'short' has a reward of -1e\+18 after .* above 1e\+15 in size"):
        shaping(scale=1e6).shape(raw, torch.zeros(1, dtype=torch.int64), train=True)


def test_equal_rewards_have_no_spread_to_divide_by() -> None:
    equal = RewardMatrix.from_columns({"right": [0.1] * 6, "short": [None] * 6})
    for kind in ("batch", "running"):
        assert shaping(kind).shape(equal, GROUP_N, train=True).matrix.to_columns() == {
            "right": [0.0] * 6,
            "short": [None] * 6,
        }


def test_running_moments_are_those_of_all_batches_and_survive_a_resume_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(6, dtype=torch.float64, generator=generator) * 3 + 5 for _ in range(4)]

    def step(which: Shaping, values: torch.Tensor) -> Shaped:
        return which.shape(RewardMatrix.from_columns({"right": [1] * 6, "short": values.tolist()}), GROUP_N, train=True)

    running = shaping("running")
    for values in batches[:3]:
        step(running, values)
    resumed = shaping("running")
    resumed.load_state_dict(running.state_dict())
    last = step(resumed, batches[3]).matrix.rewards_NM
    assert torch.equal(last, step(running, batches[3]).matrix.rewards_NM)
    seen = torch.cat(batches)
    assert torch.allclose(last[:, 1], (batches[3] - seen.mean()) / seen.std(correction=0))


@pytest.mark.parametrize("kind", ["batch", "running"])
def test_more_of_a_batch_is_standardised_as_the_batch_was(kind: Standardise) -> None:
    first, more = ({"right": [1] * 6, "short": [float(x) for x in values]} for values in (range(6), range(100, 106)))
    which = shaping(kind)
    which.shape(RewardMatrix.from_columns(first), GROUP_N, train=True)
    learnt = which.state_dict()
    found = which.shape(RewardMatrix.from_columns(more), GROUP_N, train=True, further=True).matrix.rewards_NM[:, 1]
    of_first = torch.tensor(first["short"], dtype=torch.float64)
    expected = (torch.tensor(more["short"], dtype=torch.float64) - of_first.mean()) / of_first.std(correction=0)
    assert torch.allclose(found, expected)
    assert which.state_dict() == learnt
    # What the first had nothing of is standardised by what there is.
    which = shaping("batch")
    which.shape(RewardMatrix.from_columns(first | {"short": [None] * 6}), GROUP_N, train=True)
    alone = which.shape(RewardMatrix.from_columns(more), GROUP_N, train=True, further=True)
    assert torch.allclose(alone.matrix.rewards_NM[:, 1], (of_first - of_first.mean()) / of_first.std(correction=0))


@pytest.mark.parametrize("kind", ["batch", "running"])
@pytest.mark.parametrize("unit", [1e-10, 1.0, 1e5])
@pytest.mark.parametrize("offset", [0.0, 1e9, -1e9])
def test_what_varies_has_the_standard_deviation_1_whatever_its_unit(kind: str, unit: float, offset: float) -> None:
    steps = torch.tensor([1.0, 2.0, 3.0, 4.0, 4.0, 7.0], dtype=torch.float64)
    values = RewardMatrix.from_columns({"short": (unit * (offset + steps)).tolist()})
    found_N = shaping(kind).shape(values, GROUP_N, train=True).matrix.rewards_NM[:, 0]
    assert torch.allclose(found_N, (steps - steps.mean()) / steps.std(correction=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["batch", "running"])
@pytest.mark.parametrize("transform", [None, "log", "sqrt", "tanh", "sigmoid"])
@pytest.mark.parametrize("value", [0.1, -0.3, 1 / 3, 1e-9, 1e9 + 0.1, 1e15])
def test_what_is_the_same_everywhere_becomes_0(kind: str, transform: str | None, value: float) -> None:
    which = shaping(kind, transform=transform, scale=0.7)
    for num in (1, 3, 13, 1001, 7):
        values = RewardMatrix.from_columns({"short": [value] * num})
        found = which.shape(values, torch.arange(num) // 4, train=True)
        assert not found.matrix.rewards_NM.any()


@pytest.mark.parametrize("kind", ["batch", "running"])
def test_what_cancels_but_for_rounding_becomes_0(kind: str) -> None:
    values = RewardMatrix.from_columns({"short": [1 - 0.9 - 0.1, 0.0, 0.3 - 0.1 - 0.2, 0.0, 0.0, 0.0]})
    assert values.rewards_NM.any()
    assert not shaping(kind).shape(values, GROUP_N, train=True).matrix.rewards_NM.any()


def test_moments_that_are_missing_are_said_to_be() -> None:
    with pytest.raises(CtwaError, match=r"standardise=batch; write that"):
        shaping("running").load_state_dict(shaping("batch").state_dict())
    with pytest.raises(CtwaError, match=r"standardise=none; write that"):
        shaping("running").load_state_dict(shaping().state_dict())
    shaping("batch").load_state_dict(shaping().state_dict())


def test_a_gate_by_what_is_only_evaluated_is_refused() -> None:
    right, gate = {"reward_fn": "r.py:f", "split": "val"}, {"by": "right", "at_least": 1}
    with pytest.raises(CtwaError, match="scored in validations alone"):
        parse_objectives({"right": right, "short": {"reward_fn": "r.py:f", "gate": gate}})
    both = parse_objectives({"a": {"reward_fn": "r.py:f"}, "right": right, "b": right | {"gate": gate}})
    # In training there is neither.
    raw = RewardMatrix.from_columns({"a": [1.0, 2.0]})
    trained = Shaping(both).shape(raw, torch.zeros(2, dtype=torch.int64), train=True)
    assert trained.matrix.to_columns() == {"a": [1.0, 2.0]}
    assert Shaping(both).metrics(trained) == {}


@pytest.mark.parametrize(
    ("short", "message"),
    [
        ({"gate": {"by": "right"}}, "has no bound; write at_least or at_most"),
        ({"gate": {"by": "right", "at_least": 2, "at_most": 1}}, "is never open"),
        ({"gate": {"by": "short", "at_least": 1}}, "has a gate by itself"),
        ({"gate": {"by": "rihgt", "at_least": 1}}, "no objective; write one of right, short; did you mean 'right'"),
        ({"clip": [1, 1]}, "leaves one value"),
        ({"clip": [None, None]}, "neither bound is given"),
        ({"transform": "cube"}, "transform"),
        ({"scale": 0}, "greater than 0"),
    ],
)
def test_mistakes_are_refused(short: dict[str, Any], message: str) -> None:
    with pytest.raises(CtwaError, match=message):
        shaping(**short)


def test_a_plan_can_say_what_is_done() -> None:
    every = shaping("batch", clip=[None, 2], transform="rank", scale=0.5, gate={"by": "right", "at_least": 1})
    assert every.described() == [
        "short clipped to [-inf, 2], rank, times 0.5, where 1 <= right, else 0",
        "standardised over a step's completions",
    ]
