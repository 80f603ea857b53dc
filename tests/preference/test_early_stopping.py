import json
import math

import pytest
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.preference.early_stopping import EarlyStopping, EarlyStoppingConfig

PREFERENCE = {"helpful": 3.0, "harmless": 1.0}


def make(patience=10, preference=PREFERENCE):
    return EarlyStopping(EarlyStoppingConfig(patience=patience), preference)


def observe_all(stopping, values):
    """Evaluations whose weighted loss is the given value; stops where it says so. Returns the steps taken."""
    for index, value in enumerate(values):
        stopping.observe(50 * index, {"helpful": value / 0.75, "harmless": 0.0})
        if stopping.stop:
            return index + 1
    return len(values)


def test_the_value_is_the_largest_weighted_loss():
    stopping = make()
    assert stopping.observe(50, {"helpful": 0.6, "harmless": 1.0}) == {
        "early_stopping/value": pytest.approx(0.45),
        "early_stopping/best_value": pytest.approx(0.45),
        "early_stopping/evaluations_since_best": 0.0,
    }
    assert stopping.observe(100, {"helpful": 0.1, "harmless": 2.4})["early_stopping/value"] == pytest.approx(0.6)
    assert (stopping.best_step, stopping.best_value) == (50, pytest.approx(0.45))


def test_it_stops_after_ten_evaluations_without_a_new_least_value():
    stopping = make()
    assert observe_all(stopping, [0.7, 0.6, 0.5, *[0.55] * 20]) == 3 + 10
    assert stopping.best_step == 100


def test_an_equal_value_is_not_better():
    stopping = make(patience=2)
    assert observe_all(stopping, [0.5, 0.5, 0.5]) == 3
    assert stopping.best_step == 0


def test_a_better_value_starts_the_count_again():
    stopping = make(patience=3)
    assert observe_all(stopping, [0.5, 0.6, 0.6, 0.4, 0.6, 0.6, 0.3]) == 7
    assert (stopping.best_step, stopping.num_since_best, stopping.stop) == (300, 0, False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_never_better(value):
    stopping = make(patience=3)
    assert stopping.observe(0, {"helpful": value, "harmless": 0.1}) == {"early_stopping/evaluations_since_best": 1.0}
    assert stopping.best_step is None
    stopping.observe(50, {"helpful": 0.5, "harmless": 0.1})
    assert stopping.best_step == 50
    for step in (100, 150, 200):
        stopping.observe(step, {"helpful": 0.1, "harmless": value})
    assert (stopping.best_step, stopping.stop) == (50, True)


def test_an_objective_of_weight_0_has_no_say():
    stopping = make(preference={"helpful": 2.0, "harmless": 0.0})
    assert stopping.observe(0, {"helpful": 0.5})["early_stopping/value"] == 0.5
    assert stopping.observe(50, {"helpful": 0.4, "harmless": math.nan})["early_stopping/value"] == 0.4


def test_a_restart_in_the_middle_changes_nothing():
    values = [0.7, 0.6, 0.65, 0.59, 0.6, 0.6, 0.6]
    whole, first = make(patience=3), make(patience=3)
    observe_all(whole, values)
    observe_all(first, values[:3])
    second = make(patience=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for index, value in enumerate(values[3:], start=3):
        second.observe(50 * index, {"helpful": value / 0.75, "harmless": 0.0})
    assert second.state_dict() == whole.state_dict()
    assert second.stop
    assert whole.stop


def test_the_state_before_the_first_evaluation_is_plain_too():
    stopping = make()
    stopping.load_state_dict(json.loads(json.dumps(make().state_dict(), allow_nan=False)))
    assert (stopping.best_step, stopping.best_value) == (None, None)


def test_mistakes_are_named():
    with pytest.raises(CtwaError, match="no validation loss for \\['harmless'\\]"):
        make().observe(0, {"helpful": 0.5})
    with pytest.raises(CtwaError, match="weight above 0"):
        make(preference={"helpful": 0.0})
    with pytest.raises(CtwaError, match="'helpful' has the weight nan"):
        make(preference={"helpful": math.nan, "harmless": 1.0})
    with pytest.raises(CtwaError, match="preference"):
        make().load_state_dict(make(preference={"helpful": 1.0, "harmless": 1.0}).state_dict())
    with pytest.raises(CtwaError, match="version 2"):
        make().load_state_dict(make().state_dict() | {"version": 2})
    for options in ({"patience": 0}, {"patients": 3}):
        with pytest.raises(ValidationError, match=next(iter(options))):
            EarlyStoppingConfig(**options)
