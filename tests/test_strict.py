"""What every configuration refuses, whatever it is of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, Field

from ctwa.aggregators import registry as aggregators
from ctwa.engine import caid_settings, prefer_settings, settings
from ctwa.errors import CtwaError
from ctwa.evaluation import config
from ctwa.preference import registry as losses
from ctwa.scalarizers import registry as scalarizers
from ctwa.strict import StrictModel, validated

#: whose classes are looked at
_ = aggregators, scalarizers, losses, settings, prefer_settings, caid_settings, config


class Part(StrictModel):
    """Of another."""

    share: float = 0.5


class Whole(StrictModel):
    """Every way in which a number is asked for, and two in which true is no number."""

    count: int = 1
    share: float = 1.0
    bounded: Annotated[float, Field(gt=0, le=2)] | None = None
    several: list[int] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    by_name: dict[str, float] | None = None
    one_or_each: float | dict[str, float] = 1.0
    named: Literal["all"] | int = "all"
    part: Part = Part()
    parts: dict[str, Part] | None = None
    chosen: bool | float = 0.5
    on: bool = False


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    ("key", "place", "spelled"),
    [
        ("count", lambda it: it, "count"),
        ("share", lambda it: it, "share"),
        ("bounded", lambda it: it, "bounded"),
        ("several", lambda it: [3, it], "several.1"),
        ("pair", lambda it: [it, 1], "pair.0"),
        ("by_name", lambda it: {"a": it}, "by_name.a"),
        ("one_or_each", lambda it: it, "one_or_each.float"),
        ("one_or_each", lambda it: {"a": it}, "one_or_each.a"),
        ("named", lambda it: it, "named.int"),
        ("part", lambda it: {"share": it}, "part.share"),
        ("parts", lambda it: {"a": {"share": it}}, "parts.a.share"),
    ],
)
def test_true_and_false_are_no_numbers(key: str, place: Any, spelled: str, value: bool) -> None:
    with pytest.raises(CtwaError) as error:
        validated(Whole, {key: place(value)})
    assert f"{spelled}: {str(value).lower()} is no number; write one" in str(error.value)
    assert "function" not in str(error.value)


def test_but_where_they_are_asked_for() -> None:
    made = validated(Whole, {"chosen": True, "on": True, "count": 2.0, "share": 1, "by_name": {"a": 1}})
    assert (made.chosen, made.on, made.count, made.by_name) == (True, True, 2, {"a": 1.0})


def test_no_setting_of_ours_takes_true_for_a_number() -> None:
    """Of every method, loss and command."""
    taken, seen = [], 0
    for model in sorted(set(_below(StrictModel)), key=lambda each: (each.__module__, each.__name__)):
        for name, field in model.model_fields.items():
            is_union = get_origin(field.annotation) in (Union, UnionType)
            kinds = {*get_args(field.annotation)} if is_union else {field.annotation}
            if not model.__module__.startswith("ctwa.") or bool in kinds or not {int, float} & kinds:
                continue
            seen += 1
            try:
                validated(model, {name: True})
            except CtwaError as error:
                if re.search(rf"\b{name}(\.\w+)?: true is (no number|neither a number)", str(error), re.IGNORECASE):
                    continue
            taken.append(f"{model.__name__}.{name}")
    assert taken == []
    assert seen > 150


def _below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in model.__subclasses__():
        yield each
        yield from _below(each)
