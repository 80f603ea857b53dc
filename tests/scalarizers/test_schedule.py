import pytest
import torch
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.scalarizers.linear import Linear, LinearConfig
from ctwa.scalarizers.schedule import Schedule, ScheduleConfig

POINTS = [
    {"step": 0, "weights": {"a": 1.0, "b": 0.0}},
    {"step": 4, "weights": {"a": 0.0, "b": 2.0}},
    {"step": 6, "weights": {"a": 1.0, "b": 1.0}},
]


def schedule(points: list = POINTS, weights: dict | None = None, **options) -> Schedule:
    return Schedule(ScheduleConfig(points=points, **options), weights or {"a": 1.0, "b": 1.0})


def weights_of(scalarizer: Schedule, batch, num_steps: int) -> list[tuple[float, float]]:
    seen = []
    for _ in range(num_steps):
        seen.append((scalarizer.weights["a"], scalarizer.weights["b"]))
        batch.step(scalarizer)
    return seen


def test_linear_goes_through_the_points(make_batch):
    assert weights_of(schedule(), make_batch(["a", "b"]), 9) == [
        *[(1.0, 0.0), (0.75, 0.5), (0.5, 1.0), (0.25, 1.5)],
        *[(0.0, 2.0), (0.5, 1.5), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)],
    ]


def test_piecewise_keeps_each_point_until_the_next(make_batch):
    scalarizer = schedule(interpolation="piecewise")

    assert weights_of(scalarizer, make_batch(["a", "b"]), 8) == [(1.0, 0.0)] * 4 + [(0.0, 2.0)] * 2 + [(1.0, 1.0)] * 2


def test_a_constant_schedule_is_linear_scalarization(make_batch):
    weights = {"a": 0.3, "b": 0.7}
    scalarizer = schedule([{"step": 0, "weights": weights}], weights={"a": 9.0, "b": 1.0})
    linear = Linear(LinearConfig(), weights)
    for seed in range(3):
        batch = make_batch(["a", "b"], seed=seed)
        one, other = (each.advantages(batch.rollout, batch.estimate()) for each in (scalarizer, linear))
        assert torch.equal(one, other)
        batch.step(scalarizer)


def test_the_score_has_the_weights_of_its_step(make_batch):
    batch = make_batch(["a", "b"])
    scalarizer = schedule()
    batch.step(scalarizer)
    linear = Linear(LinearConfig(), {"a": 0.75, "b": 0.5})

    one, other = (each.advantages(batch.rollout, batch.estimate()) for each in (scalarizer, linear))
    assert torch.equal(one, other)


def test_the_step_survives_a_restart(make_batch):
    batch = make_batch(["a", "b"])
    whole = weights_of(schedule(), batch, 7)
    first, second = schedule(), schedule()
    before = weights_of(first, batch, 3)
    second.load_state_dict(first.state_dict())

    assert before + weights_of(second, batch, 4) == whole


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least 1"),
        ([{"step": 1, "weights": {"a": 1.0}}], "write the first at step 0"),
        ([{"step": 0, "weights": {"a": 1.0}}, {"step": 0, "weights": {"a": 2.0}}], "each later than the last"),
        ([POINTS[0], POINTS[2], POINTS[1]], "each later than the last"),
        ([{"step": 0, "weights": {"a": 0.0}}], "at step 0 are all 0"),
        ([{"step": 0, "weights": {"a": -1.0}}], "greater than or equal to 0"),
        ([{"step": 0.5, "weights": {"a": 1.0}}], "integer"),
        ([{"step": 0, "weights": {"a": 1.0}, "lr": 1}], "lr"),
    ],
)
def test_mistakes_in_the_config(points, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleConfig(points=points)


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}])
def test_every_point_names_every_objective(weights):
    with pytest.raises(CtwaError, match="point at step 0 names"):
        schedule(weights=weights)
