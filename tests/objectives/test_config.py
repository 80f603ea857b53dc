from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig, check_objectives, parse_objectives


def objective(**fields: Any) -> dict[str, Any]:
    return {"reward_fn": "r.py:f", **fields}


def test_defaults_and_order() -> None:
    objectives = parse_objectives({"b": objective(weight=0), "a": objective()})
    assert list(objectives) == ["b", "a"]
    assert objectives["a"] == ObjectiveConfig(
        reward_fn="r.py:f", weight=1.0, kwargs={}, timeout=10.0, on_failure="mask"
    )


@pytest.mark.parametrize("name", ["clarity", "two words", "[red]markup", "größe", "a.b:c"])
def test_names_may_hold_anything_a_metric_can(name: str) -> None:
    assert list(parse_objectives({name: objective()})) == [name]


@pytest.mark.parametrize(
    "name", ["", " ", " a", "a ", "a/b", "[/red]", "a\nb", "a\x1bb", "a\u2028b", "response_length"]
)
def test_names_that_cannot_be_shown_are_refused(name: str) -> None:
    with pytest.raises(CtwaError) as error:
        parse_objectives({name: objective()})
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, "objectives: there is no objective; give at least one"),
        ({"a": objective(weight=0)}, r"every objective \(a\) has weight 0; give at least one a positive weight"),
        ({"a": objective(weight=-1)}, "objectives.a.weight: Input should be greater than or equal to 0"),
        ({"a": objective(weight=float("nan"))}, "objectives.a.weight: Input should be a finite number"),
        ({"a": objective(timeout=0)}, "objectives.a.timeout: Input should be greater than 0"),
        ({"a": objective(wieght=1)}, "objectives.a.wieght is no key of the configuration; did you mean 'weight'"),
        ({"a": objective(on_failure="zero")}, "objectives.a.on_failure: Input should be 'mask' or 'stop'"),
        (
            {"a": objective(applies_to={"prompt": "x"})},
            "objectives.a.applies_to: 'prompt' is no column to tell rows by",
        ),
        *(
            (
                {"a": objective(applies_to={"data_source": wanted})},
                f"^objectives.a.applies_to: data_source: {told} is nothing to compare with; write a text, a number",
            )
            for wanted, told in (([], r"\[\]"), (None, "null"), (float("nan"), "nan"), ([1, {}], r"\[1, {}\]"))
        ),
        (
            {"a": objective(), "b": objective(gate={"by": "a", "at_least": 1, "otherwise": 1e300})},
            "objectives.b.gate.otherwise: Input should be less than or equal to 1",
        ),
        ({"a": objective(every=0)}, "objectives.a.every: Input should be greater than or equal to 1"),
        ({"a": objective(split="val")}, r"every objective \(a\) is of split: val; leave split out of at least one"),
        (
            {"a": objective(weight=0), "b": objective(split="val")},
            r"every objective \(a\) has weight 0; give at least one a positive weight",
        ),
        ({"a": {}}, "objectives.a.reward_fn is missing: give it a value"),
        ({"a": {"reward_fn": "accuracy"}}, "objectives.a.reward_fn: reward function 'accuracy' is not of the form"),
    ],
)
def test_mistakes_are_named_by_objective_and_field(objectives: dict[str, Any], message: str) -> None:
    with pytest.raises(CtwaError, match=message):
        parse_objectives(objectives)


def test_check_objectives_returns_what_it_was_given() -> None:
    objectives = {"a": ObjectiveConfig(reward_fn="r.py:f")}
    assert check_objectives(objectives) is objectives


@pytest.mark.parametrize(
    ("applies_to", "rows"),
    [
        ({}, "abcd"),
        ({"data_source": "gsm8k"}, "ab"),
        ({"data_source": ["gsm8k", "math"]}, "abcd"),
        ({"level": 1}, "ac"),  # a column goes before a key of extra_info
        ({"level": True}, ""),  # which is no 1
        ({"data_source": "gsm8k", "level": [2, 3]}, "b"),
        ({"hard": True}, "d"),
        ({"nowhere": "x"}, ""),
    ],
)
def test_an_objective_applies_to_the_rows_whose_columns_hold(applies_to: dict[str, Any], rows: str) -> None:
    def row(data_source: str, level: Any, **extra_info: Any) -> Completion:
        values = {"prompt": "?", "data_source": data_source, "level": level, "extra_info": {"level": 9, **extra_info}}
        return Completion.from_row(values, response="", response_tokens=1)

    found = {"a": row("gsm8k", 1), "b": row("gsm8k", 2), "c": row("math", 1.0), "d": row("math", "1", hard=True)}
    objectives = parse_objectives({"o": objective(applies_to=applies_to)})
    assert [name for name, each in found.items() if objectives["o"].applies(each)] == list(rows)
