"""Declared state: what is saved, under which key, and that it comes back. Old checkpoints hold these keys."""

import json
import math
from typing import Any, ClassVar

import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.state import Stateful


class Inner:
    def __init__(self) -> None:
        self.growth_M = torch.zeros(2, dtype=torch.float64)
        self.num_held_M = torch.zeros(2, dtype=torch.int64)


class Base(Stateful):
    STATE: ClassVar[tuple[str, ...]] = ("num_fallback", "_controller.growth_M", "_controller.num_held_M")

    def __init__(self, names: tuple[str, ...] = ("a", "b")) -> None:
        self.names = names
        self.num_fallback = 0
        self._controller = Inner()

    def identity(self) -> dict[str, Any]:
        return {"version": 1, "objectives": list(self.names)}


class Derived(Base):
    STATE = ("_previous_M", "points", "part")

    def __init__(self) -> None:
        super().__init__()
        self._previous_M: list[torch.Tensor] = []
        self.points: list[dict[str, float]] = []
        self.part = Base()


@pytest.mark.parametrize(
    ("key", "value"),
    [("growth", {"a": 0.5}), ("num_held", None), ("previous", [{"b": 1}]), ("part", {"version": 1}), ("points", ...)],
)
def test_a_state_that_is_not_whole_changes_nothing(key: str, value: Any) -> None:
    source, target = Derived(), Derived()
    for each in (source, source.part):
        each.num_fallback = 5
        each._controller.growth_M += 1
    source._previous_M = [torch.ones(2, dtype=torch.float64)]
    state, before = source.state_dict(), target.state_dict()
    if value is ...:
        del state[key]
    else:
        state[key] = value
    with pytest.raises(CtwaError, match=r"restore the file|start a new run"):
        target.load_state_dict(state)
    assert target.state_dict() == before

    target.load_state_dict(source.state_dict())
    assert target.state_dict() == source.state_dict() != before


def test_every_class_adds_what_it_declares_and_vectors_are_saved_by_name():
    one, other = Derived(), Derived()
    one._controller.growth_M = torch.tensor([0.1, math.nan], dtype=torch.float64)
    one._controller.num_held_M += 3
    one._previous_M = [torch.tensor([1.0, 2.0], dtype=torch.float64)]
    one.points.append({"b": 0.5})
    one.part.num_fallback = 7
    state = one.state_dict()
    assert state == {
        "version": 1,
        "objectives": ["a", "b"],
        "num_fallback": 0,
        "growth": {"a": 0.1, "b": None},
        "num_held": {"a": 3, "b": 3},
        "previous": [{"a": 1.0, "b": 2.0}],
        "points": [{"b": 0.5}],
        "part": Base().state_dict() | {"num_fallback": 7},
    }

    other.load_state_dict(json.loads(json.dumps(state, allow_nan=False)))
    assert other.state_dict() == state
    assert other._controller.num_held_M.dtype == torch.int64
    one.points[0]["b"] = 1.0
    assert state["points"] == [{"b": 0.5}]


def test_a_state_without_a_declared_value_is_none():
    state = Base().state_dict()
    with pytest.raises(CtwaError):
        Base().load_state_dict({key: value for key, value in state.items() if key != "growth"})
    with pytest.raises(CtwaError, match="objectives"):
        Base(("a", "c")).load_state_dict(state)
