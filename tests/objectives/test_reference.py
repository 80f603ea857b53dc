import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ctwa.errors import CtwaError
from ctwa.objectives.reference import ReferenceConfig, ReferenceLength, build_reference


def build(**config: Any) -> ReferenceLength:
    return build_reference(TypeAdapter(ReferenceConfig).validate_python(config))


def test_fixed_by_number_ignores_lengths() -> None:
    reference = build(type="fixed", tokens=32)
    reference.start([1, 2])
    reference.update([5])
    assert reference.reference([10, 20], [0, 0]) == [32, 32]


def test_fixed_by_the_base_models_validation_is_set_once() -> None:
    reference = build(type="fixed")
    reference.start([10, 20, 33])
    reference.start([1])
    reference.update([500])
    assert reference.reference([10], [0]) == [21.0]


def test_fixed_without_a_number_or_a_validation_is_an_error() -> None:
    with pytest.raises(
        CtwaError, match=r"'fixed' without a number.* validate before training, or give tokens: <number>"
    ):
        build(type="fixed").reference([10], [0])


def test_group_is_the_mean_of_the_prompts_completions_whatever_their_order() -> None:
    assert build(type="group").reference([10, 1, 20, 3, 7], [4, 2, 4, 2, 9]) == [15, 2, 15, 2, None]


def test_a_lone_completion_is_measured_against_the_base_models_validation() -> None:
    reference = build(type="group")
    reference.start([30, 34])
    assert reference.reference([10, 1, 3], [4, 2, 2]) == [32, 2, 2]
    assert build(type="group", alone=40).reference([10], [0]) == [40]


def test_running_is_the_mean_over_previous_batches_without_the_current_one() -> None:
    reference = build(type="running", initial=40)
    assert reference.reference([1000], [0]) == [40]
    reference.update([10, 20])
    assert reference.reference([1000], [0]) == [15]
    reference.update([60])
    assert reference.reference([1000, 1], [0, 1]) == [30, 30]


def test_running_starts_from_the_validation() -> None:
    reference = build(type="running")
    with pytest.raises(CtwaError, match="'running' and no batch has been seen; validate before training, or give"):
        reference.reference([1], [0])
    reference.start([10, 11])
    assert reference.reference([1], [0]) == [10.5]
    reference.update([4])
    assert reference.reference([1], [0]) == [4]


def test_a_running_window_forgets() -> None:
    reference = build(type="running", initial=1, window=2)
    for lengths in ([100], [10, 10], [40]):
        reference.update(lengths)
    assert reference.reference([1], [0]) == [20]


@pytest.mark.parametrize(
    "config", [{"type": "fixed"}, {"type": "group"}, {"type": "running"}, {"type": "running", "window": 2}]
)
def test_a_restored_state_gives_the_same_references_to_the_last_bit(config: dict[str, Any]) -> None:
    batches = [[13, 29, 7], [11, 3], [17, 23, 31, 2]]
    straight, before = build(**config), build(**config)
    for reference in (straight, before):
        reference.start([3, 7, 10])
        reference.update(batches[0])
    after = build(**config)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    for reference in (straight, after):
        for batch in batches[1:]:
            reference.update(batch)
    assert after.state_dict() == straight.state_dict()
    assert after.reference([5, 6, 7], [0, 0, 1]) == straight.reference([5, 6, 7], [0, 0, 1])


def test_a_number_in_the_configuration_outranks_the_checkpoints() -> None:
    saved = build(type="fixed", tokens=30)
    changed = build(type="fixed", tokens=32)
    changed.load_state_dict(saved.state_dict())
    assert changed.reference([1], [0]) == [32]


def test_another_strategys_state_is_refused() -> None:
    with pytest.raises(
        CtwaError, match=r"checkpoint's reference length is of type 'group' .* configuration's is 'running'"
    ):
        build(type="running").load_state_dict(build(type="group").state_dict())


@pytest.mark.parametrize(
    "config",
    [
        {"type": "fixed", "tokens": 0},
        {"type": "fixed", "tokens": float("inf")},
        {"type": "fixed", "window": 2},
        {"type": "running", "window": 0},
        {"type": "median"},
    ],
)
def test_mistakes_in_the_configuration_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(**config)


@pytest.mark.parametrize(("strategy", "field"), [("fixed", "tokens"), ("group", "alone"), ("running", "initial")])
def test_a_configuration_says_whether_it_needs_the_validation(strategy: str, field: str) -> None:
    read = TypeAdapter(ReferenceConfig).validate_python
    assert read({"type": strategy}).needs_validation
    assert not read({"type": strategy, field: 32}).needs_validation
