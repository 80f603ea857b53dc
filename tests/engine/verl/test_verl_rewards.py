"""verl's own reward functions under our contract, as docs/rewards.md says."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.objectives.contract import read_contract, to_outcome

BOXED = ("4", "\\boxed{4}", "\\boxed{5}")
SEARCH = ({"target": ["4"]}, "<answer>1</answer> <answer>4</answer>", "<answer>1</answer> <answer>5</answer>")
# Module, data source; ground truth, a right answer, a wrong one; their scores.
FUNCTIONS: list[tuple[str, str, tuple[Any, str, str], tuple[float, float]]] = [
    ("gsm8k", "", ("4", "#### 4", "#### 5"), (1, 0)),
    ("math_reward", "", BOXED, (1, 0)),
    ("math_dapo", "", ("4", "Answer: 4", "Answer: 5"), (1, -1)),
    ("search_r1_like_qa_em", "", SEARCH, (1, 0)),
    ("", "openai/gsm8k", ("4", "#### 4", "#### 5"), (1, 0)),
    ("", "HuggingFaceH4/MATH-500", BOXED, (1, 0)),
    ("", "aime24", ("4", "Answer: 4", "Answer: 5"), (1, -1)),
    ("", "numina_olympiads", BOXED, (1, 0)),
    ("", "searchR1_nq", SEARCH, (1, 0)),
]


def function_of(module: str) -> Any:
    if module:
        return import_module(f"verl.utils.reward_score.{module}").compute_score
    return import_module("verl.utils.reward_score").default_compute_score


def completion(source: str, ground_truth: Any, response: str) -> Completion:
    row = {"prompt": "2 + 2", "data_source": source, "reward_model": {"ground_truth": ground_truth}}
    return Completion.from_row(row, response=response, response_tokens=1)


@pytest.mark.parametrize(("module", "source", "texts", "expected"), FUNCTIONS)
def test_they_work_unchanged(module: str, source: str, texts: tuple[Any, str, str], expected: tuple) -> None:
    function = function_of(module)
    contract = read_contract(function, module, {})
    ground_truth, *responses = texts

    for response, value in zip(responses, expected, strict=True):
        outcome = to_outcome(function(**contract.collect([completion(source, ground_truth, response)])), 0.0)
        assert (outcome.value, outcome.text) == (value, "")


def test_the_batched_one_takes_a_prompts_completions() -> None:
    function = import_module("verl.utils.reward_score.math_batch").compute_score_batched
    contract = read_contract(function, "math_batch", {})

    assert contract.is_group
    assert function(**contract.collect([completion("", "4", each) for each in BOXED[1:]])) == [1, 0]


def test_math_verify_takes_the_response_by_its_name() -> None:
    contract = read_contract(function_of("math_verify"), "math_verify", {"timeout": 5.0})

    assert contract.collect([completion("", "4", "x")]) == {"model_output": "x", "ground_truth": "4"}


def test_what_prime_math_returns_is_no_number() -> None:
    function = function_of("prime_math")
    arguments = read_contract(function, "prime_math", {}).collect([completion("", "4", "\\boxed{4}")])

    assert to_outcome(function(**arguments), 0.0).reason == "wrong_type"


@pytest.mark.parametrize("module", ["prime_code", "sandbox_fusion"])
def test_those_with_arguments_of_their_own_are_refused(module: str) -> None:
    with pytest.raises(CtwaError, match=r"requires .*'test_cases', which is not offered"):
        read_contract(function_of(module), module, {})
