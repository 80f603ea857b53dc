import math
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.contract import OFFERED, read_contract, to_group_outcomes, to_outcome


def contract_of(function: Callable[..., Any], **kwargs: Any) -> Any:
    return read_contract(function, "r.py:f", kwargs)


def test_a_function_gets_what_it_names(completions: Callable[..., list[Completion]]) -> None:
    def f(
        response: str, response_tokens: int, reference_tokens: float, finished: bool, row: dict, split: str
    ) -> float: ...

    made = completions(1, reference_tokens=9.5, moment=Moment("train", 3, 0.25))
    assert contract_of(f).collect(made) == {
        "split": "train",
        "response": "response 0",
        "response_tokens": 10,
        "reference_tokens": 9.5,
        "finished": True,
        "row": {"level": 2},
    }


def test_verls_signature_works_unchanged(completions: Callable[..., list[Completion]]) -> None:
    def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs): ...

    contract = contract_of(compute_score, strict=True)
    assert contract.collect(completions(1)) == {
        "data_source": "test",
        "solution_str": "response 0",
        "ground_truth": "7",
        "extra_info": {"index": 0},
    }
    assert not contract.is_async
    assert not contract.is_group


def test_a_group_function_gets_lists_of_completions_and_single_prompt_values(
    completions: Callable[..., list[Completion]],
) -> None:
    def f(group_response: list, group_response_tokens: list, group_finished: list, ground_truth: str) -> list: ...

    contract = contract_of(f)
    assert contract.is_group
    assert contract.collect(completions(2)) == {
        "group_response": ["response 0", "response 1"],
        "group_response_tokens": [10, 11],
        "group_finished": [True, True],
        "ground_truth": "7",
    }


def test_async_functions_and_callable_objects() -> None:
    async def f(response: str) -> float: ...

    class Judge:
        async def __call__(self, response: str) -> float: ...

    class Length:
        def __call__(self, response_tokens: int) -> float: ...

    assert contract_of(f).is_async
    assert contract_of(Judge()).is_async
    assert contract_of(Length()).arguments == ("response_tokens",)
    assert not contract_of(Length()).is_async


def test_optional_arguments_that_are_not_offered_keep_their_defaults() -> None:
    def f(response: str, threshold: float = 0.5) -> float: ...

    assert contract_of(f).arguments == ("response",)
    assert contract_of(f, threshold=0.7).arguments == ("response",)


def test_an_unknown_required_argument_is_named_with_what_is_offered() -> None:
    def f(respnse: str) -> float: ...

    with pytest.raises(CtwaError) as error:
        contract_of(f)
    assert str(error.value) == (
        "reward function 'r.py:f' requires 'respnse', which is not offered; give it a default, or a value in the "
        "objective's kwargs (--kwargs of `ctwa check-reward`); did you mean 'response'?"
    )

    def g(response: str, zzz: int) -> float: ...

    with pytest.raises(CtwaError, match=rf"'zzz', which .*`\)\. What is offered: {', '.join(OFFERED)}$"):
        contract_of(g)


def test_functions_that_cannot_be_rewards_are_told_at_once() -> None:
    def yields(response: str):
        yield 1.0

    def sees_nothing() -> float: ...

    with pytest.raises(CtwaError, match=r"'r\.py:f' yields; write return in place of yield"):
        contract_of(yields)
    with pytest.raises(CtwaError, match=r"'r\.py:f' takes no arguments, and so sees no response"):
        contract_of(sees_nothing)
    for function in (lambda *args: len(args), lambda **kwargs: len(kwargs), lambda least=1: least):
        with pytest.raises(CtwaError, match=r"'r\.py:f' names nothing that is offered, and so sees no response"):
            contract_of(function)


def test_kwargs_the_function_does_not_take_are_refused() -> None:
    def f(response: str, threshold: float) -> float: ...

    with pytest.raises(
        CtwaError,
        match=r"kwargs give 'treshold', which reward function 'r.py:f' does not take; it takes "
        r"'response', 'threshold'; did you mean 'threshold'\?",
    ):
        contract_of(f, treshold=1)


def test_kwargs_cannot_replace_what_a_completion_gives() -> None:
    def f(response: str) -> float: ...

    with pytest.raises(
        CtwaError, match=r"kwargs of reward function 'r.py:f' give 'response', which every call fills in"
    ):
        contract_of(f, response="x")


def test_one_completions_arguments_do_not_mix_with_the_groups() -> None:
    def f(solution_str: str, group_finished: list) -> list: ...

    with pytest.raises(CtwaError, match=r"takes 'solution_str' of one completion .* write 'group_response' instead"):
        contract_of(f)


def test_positional_only_arguments_are_refused() -> None:
    def f(response: str, /) -> float: ...

    with pytest.raises(CtwaError, match="takes 'response' by position only; remove the '/'"):
        contract_of(f)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (True, 1.0),
        (0.25, 0.25),
        (Fraction(1, 4), 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (np.array(2.0), 2.0),
        (torch.tensor(0.5), 0.5),
        ({"score": 0.25, "acc": True, "pred": "4"}, 0.25),
        ({"score": np.float64(0.5)}, 0.5),
    ],
)
def test_finite_numbers_count(value: Any, expected: float) -> None:
    outcome = to_outcome(value, 0.0)
    assert (outcome.value, outcome.reason) == (expected, None)
    assert type(outcome.value) is float


TIMES = [
    np.timedelta64(5, "ns"),  # a number to numpy, and 5 as Python's own
    np.timedelta64(5, "s"),
    np.timedelta64("NaT"),
    np.datetime64(5, "ns"),
    np.array(5, "m8[ns]"),
    timedelta(seconds=5),
]


@pytest.mark.parametrize(
    ("value", "reason", "text"),
    [
        (None, "none", "the function returned None"),
        (math.nan, "not_finite", "returned nan; return a finite number, or None"),
        (-math.inf, "not_finite", "returned -inf; return a finite number, or None"),
        (1e308, "not_finite", "returned 1e+308; return a number of at most 1e+15 in size, or None"),
        (-(10**16), "not_finite", "returned -1e+16; return a number of at most 1e+15 in size, or None"),
        (10**400, "not_finite", "returned inf; return a finite number, or None"),
        (np.float64("nan"), "not_finite", "returned nan; return a finite number, or None"),
        ("1.0", "wrong_type", "returned the str '1.0'; return one number, or None"),
        ([1.0], "wrong_type", "returned the list [1.0]; return one number, or None"),
        (
            {"reward": 1.0},
            "wrong_type",
            "returned the dict {'reward': 1.0} without 'score'; return one number, or give the objective a key "
            "(--key of `ctwa check-reward`)",
        ),
        (
            {},
            "wrong_type",
            "returned the dict {} without 'score'; return one number, or give the objective a key "
            "(--key of `ctwa check-reward`)",
        ),
        ({"score": None}, "none", "the function returned None"),
        ({"score": math.nan, "acc": 1.0}, "not_finite", "returned nan; return a finite number, or None"),
        ({"score": "1"}, "wrong_type", "returned the str '1'; return one number, or None"),
        (
            {"score": {"score": 1.0}},
            "wrong_type",
            "returned the dict {'score': 1.0}; return one number, or None",
        ),
        (
            (True, True, "4"),
            "wrong_type",
            "returned the tuple (True, True, '4'); return one number, or None",
        ),
        (1j, "wrong_type", "returned the complex 1j; return one number, or None"),
        (
            np.array([1.0]),
            "wrong_type",
            "returned the ndarray array([1.]); return one number, or None",
        ),
        (np.str_("1"), "wrong_type", "returned the str '1'; return one number, or None"),
        (np.ma.masked_invalid([math.nan]).mean(), "none", "the function returned the MaskedConstant masked"),
        ({"score": np.ma.masked}, "none", "the function returned the MaskedConstant masked"),
        *(
            (time, "wrong_type", f"returned the {type(time).__name__} {time!r}; return one number, or None")
            for time in TIMES
        ),
    ],
)
def test_everything_else_is_unscored_with_a_reason(value: Any, reason: str, text: str) -> None:
    outcome = to_outcome(value, 0.0)
    assert (outcome.value, outcome.reason, outcome.text) == (None, reason, text)


def test_what_numpy_masks_in_a_group_is_unscored() -> None:
    for values in (np.ma.array([1.0, 2.0], mask=[False, True]), [1.0, np.ma.masked]):
        assert [outcome.reason for outcome in to_group_outcomes(values, 2, 0.0)] == [None, "none"]


@pytest.mark.parametrize("values", [[1, 0.5], (1, 0.5), np.array([1, 0.5]), torch.tensor([1, 0.5])])
def test_a_group_function_returns_one_value_a_completion(values: Any) -> None:
    assert [outcome.value for outcome in to_group_outcomes(values, 2, 0.0)] == [1.0, 0.5]


def test_each_value_of_a_group_is_judged_by_itself() -> None:
    assert [outcome.reason for outcome in to_group_outcomes([1.0, {"score": 1}, None, math.nan, "1"], 5, 0.0)] == [
        None,
        None,
        "none",
        "not_finite",
        "wrong_type",
    ]


@pytest.mark.parametrize(
    ("values", "reason", "text"),
    [
        ([1.0], "wrong_type", "returned 1 values for a group of 3 completions; return one a completion"),
        (1.0, "wrong_type", "returned the float 1.0 for a group; return a list of 3 numbers"),
        (np.float64(1.0), "wrong_type", "returned the float 1.0 for a group; return a list of 3 numbers"),
        (None, "none", "the function returned None"),
        (np.ma.masked, "none", "the function returned None"),
        (
            np.array([5, 6, 7], "m8[ns]"),
            "wrong_type",
            "returned the ndarray array([5, 6, 7], dtype='timedelta64[ns]') for a group; return a list of 3 numbers",
        ),
    ],
)
def test_a_group_that_cannot_be_read_is_unscored(values: Any, reason: str, text: str) -> None:
    assert {(o.value, o.reason, o.text) for o in to_group_outcomes(values, 3, 0.0)} == {(None, reason, text)}


def test_a_function_sees_the_messages_of_every_turn_and_the_tools_rewards(
    completions: Callable[..., list[Completion]],
) -> None:
    def f(messages: list, tool_rewards: list) -> float: ...

    def trl(completions: list, tool_rewards: list) -> list: ...

    turns = ({"role": "assistant", "content": "3 + 4 ="}, {"role": "tool", "content": "7"})
    raw_prompt = [{"role": "user", "content": "What is 3 + 4?"}]
    (called,) = completions(1, turns=turns, tool_rewards=[0.5], raw_prompt=raw_prompt)
    assert contract_of(f).collect([called]) == {"messages": list(turns), "tool_rewards": [0.5]}
    assert contract_of(trl).collect([called]) == {"completions": [list(turns)], "tool_rewards": [[0.5]]}
    assert called.transcript == "[assistant] 3 + 4 =\n[tool] 7"

    one_turn = [{"role": "assistant", "content": "response 0"}]
    assert contract_of(f).collect(completions(1)) == {"messages": one_turn, "tool_rewards": []}
