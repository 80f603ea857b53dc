"""Functions written for TRL, verl's batches and verifiers, called as their own trainers call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.contract import Contract, read_contract
from ctwa.objectives.conventions import column_fault

PROMPT = [{"role": "system", "content": "You add."}, {"role": "user", "content": "What is 3 + 4?"}]


def contract_of(function: Callable[..., Any], **kwargs: Any) -> Contract:
    return read_contract(function, "r.py:f", kwargs)


def two(**fields: Any) -> list[Completion]:
    row = {
        "prompt": PROMPT,
        "reward_model": {"ground_truth": "7"},
        "data_source": "sums",
        "extra_info": {"index": 5},
        "level": 2,
        "answer": "It is 7. #### 7",
        **fields,
    }
    moment = Moment("val", 30, 0.75)
    return [
        Completion.from_row(row, response=text, response_tokens=2, token_ids=[ord(text), 0], moment=moment)
        for text in "78"
    ]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_a_function_of_trl_gets_lists_over_the_completions_and_every_column() -> None:
    def format_reward(completions, **kwargs): ...

    contract = contract_of(format_reward)
    assert contract.is_group
    assert contract.collect(two()) == {
        "prompts": [PROMPT] * 2,
        "completions": [said("7"), said("8")],
        "completion_ids": [[55, 0], [56, 0]],
        "level": [2, 2],
        "answer": ["It is 7. #### 7"] * 2,  # as the data has it
        "ground_truth": ["7", "7"],
        "data_source": ["sums", "sums"],
        "extra_info": [{"index": 5}] * 2,
        "step": 30,
        "progress": 0.75,
        "split": "val",
    }


def test_named_columns_are_those_of_the_data_and_the_ground_truth_where_it_has_none() -> None:
    def accuracy(prompts: list, completions: list, solution: list, level: list, threshold: float = 0.5) -> list: ...

    contract = contract_of(accuracy)
    assert contract.columns == ("level",)
    given = contract.collect(two())
    assert (given["solution"], given["level"]) == (["7", "7"], [2, 2])
    assert "threshold" not in given
    assert contract.collect(two(solution="Seven.", threshold=0.25)) | {"prompts": 0, "completions": 0} == {
        "prompts": 0,
        "completions": 0,
        "solution": ["Seven."] * 2,
        "level": [2, 2],
        "threshold": [0.25, 0.25],  # TRL's functions get a column that they name
    }


def test_a_column_that_the_data_lacks_is_named_with_those_it_has() -> None:
    def f(completions, levle): ...

    def g(completions, solution): ...

    columns = {"easy": contract_of(f).columns, "right": contract_of(g).columns}
    row = {"prompt": PROMPT, "reward_model": {"ground_truth": "7"}, "level": 2}
    assert column_fault(row | {"levle": 1}, columns) is None
    assert column_fault(row, columns) == (
        "it has no column 'levle', which the objective 'easy' asks for (it has 'level'); add the column, give the "
        "argument a default, or give it in the objective's kwargs"
    )
    assert contract_of(f, levle=3).columns == ()
    assert "'solution', which the objective 'right'" in (
        column_fault({"prompt": PROMPT}, {"right": ("solution",)}) or ""
    )


def test_prompts_and_completions_are_texts_where_the_prompt_is_one_or_the_function_says_so() -> None:
    def plain(prompts, completions): ...

    def texts(prompts: list[str], completions): ...

    def text(completion: str, prompt): ...

    def messages(completion: list[dict], prompt): ...

    texts.__annotations__["prompts"] = "List[str]"  # as `from __future__ import annotations` leaves it
    as_texts = {"prompts": ["You add.\nWhat is 3 + 4?"] * 2, "completions": ["7", "8"]}
    assert contract_of(texts).collect(two()) == as_texts
    assert contract_of(plain).collect(two(prompt="You add.\nWhat is 3 + 4?")) == as_texts
    assert contract_of(text).collect(two()) == {"completion": "7", "prompt": "You add.\nWhat is 3 + 4?"}
    assert contract_of(messages).collect(two()) == {"completion": said("7"), "prompt": PROMPT}


def test_a_rubric_of_verifiers_gets_one_completion() -> None:
    async def correct_answer(completion, answer, prompt, state, info, task, **kwargs): ...

    contract = contract_of(correct_answer)
    assert contract.is_async
    assert not contract.is_group
    given = {"prompt": PROMPT, "completion": said("7"), "answer": "7", "info": {"index": 5}, "task": "sums"}
    assert contract.collect(two()[:1]) == given | {"state": given}
    assert contract.collect(two(info={"own": 1}, task="t")[:1])["state"] == given | {"info": {"own": 1}, "task": "t"}

    def late(state, progress, **kwargs): ...

    assert set(contract_of(late).collect(two()[:1])) == {*given, "state", "progress"}


def test_lists_of_verl_and_of_verifiers() -> None:
    def compute_score(data_sources, solution_strs, ground_truths, extra_infos, **kwargs): ...

    def ranked(completions, answers, states): ...

    assert contract_of(compute_score, strict=True).collect(two()) == {
        "data_sources": ["sums"] * 2,
        "solution_strs": ["7", "8"],
        "ground_truths": ["7"] * 2,
        "extra_infos": [{"index": 5}] * 2,
    }
    given = contract_of(ranked).collect(two())
    assert given["answers"] == ["7", "7"]
    assert [state["completion"] for state in given["states"]] == [said("7"), said("8")]


def test_ones_own_functions_stay_that_whatever_they_call_their_options() -> None:
    def f(response, prompt, state=None, prompts=()): ...

    assert contract_of(f).collect(two()[:1]) == {"response": "7", "prompt": "You add.\nWhat is 3 + 4?"}

    def g(completions, response): ...  # a column of the data

    assert contract_of(g).columns == ("response",)


def test_objects_of_a_trainer_are_refused_where_a_function_cannot_do_without() -> None:
    def scheduled(completions, trainer_state, **kwargs): ...

    def parsed(completion, parser): ...

    def can_do_without(completions, trainer_state=None, **kwargs): ...

    with pytest.raises(CtwaError, match=r"requires 'trainer_state', an object of another trainer.*take step, progress"):
        contract_of(scheduled)
    with pytest.raises(CtwaError, match="requires 'parser', an object"):
        contract_of(parsed)
    assert "trainer_state" not in contract_of(can_do_without).collect(two())


def test_kwargs_of_the_objective_are_not_taken_for_columns() -> None:
    def f(completions, level): ...

    def misspelt(completion, respnse): ...

    assert "level" not in contract_of(f, level=9).collect(two())
    with pytest.raises(CtwaError, match="give 'completions', which every call fills in"):
        contract_of(f, completions=[])
    with pytest.raises(CtwaError, match="requires 'respnse', which is not offered; give it"):
        contract_of(misspelt)
