"""How reward functions of other trainers name what they ask for: TRL's, verl's batched ones, and verifiers' rubrics.

The names that a function asks for say whose it is (``find_convention``):

* ``batch``: it names ``completions``, ``completion_ids`` (TRL, and verifiers' functions of a group) or
  ``solution_strs`` (verl). It is called with the completions of a prompt, each argument a list over them.
* ``rollout``: it names ``completion`` (verifiers). It is called with one completion.
* ``own``: it names ``response``, or another name of that (``contract``).
* Without any of these, ``prompts`` makes it one of a batch and ``state`` one of a rollout; the rest are ``own``.

Prompts and completions are messages where the data's prompt is, else texts; they are texts, too, for a function that
says so: ``completions: list[str]``, ``completion: str``.

TRL's call is in ``GRPOTrainer`` (every column but the prompt, as lists), verifiers' in ``Rubric``
(https://github.com/PrimeIntellect-ai/verifiers), verl's in its batch reward manager.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ctwa.objectives.completion import NAMED_COLUMNS, Completion, prompt_text

Convention = Literal["own", "batch", "rollout"]
# What verl's reward functions call the response.
ALIASES = {"solution_str": "response", "model_output": "response", "predict_str": "response"}
RUN_ARGUMENTS = ("step", "progress", "split")
"""Facts of a step, alike for all of its completions: of a batch they are no lists."""
TRUTHS = ("ground_truth", "answer", "solution")
"""What functions call the ground truth, where the data has no column of that name."""
_TELLING: tuple[tuple[str, Convention], ...] = (
    *((name, "batch") for name in ("completions", "completion_ids", "solution_strs")),
    ("completion", "rollout"),
    *((name, "own") for name in ("response", "group_response", *ALIASES)),
    ("prompts", "batch"),
    ("state", "rollout"),
)
"""The first of these that a function names says whose it is."""
TRAINERS_OWN = ("trainer_state", "log_extra", "log_metric", "environments", "parser")
"""What no configuration can give: objects of the trainer's or of the environment's."""

# The names of lists over the completions of a prompt, and what an item of each is.
BATCH_ITEMS = {
    "prompts": "prompt",
    "completions": "completion",
    "completion_ids": "token_ids",
    "answers": "answer",
    "infos": "info",
    "states": "state",
    "tasks": "task",
    "solution_strs": "response",
    "ground_truths": "ground_truth",
    "data_sources": "data_source",
    "extra_infos": "extra_info",
}
ROLLOUT_ITEMS = ("prompt", "completion", "answer", "info", "state", "task")
_OF_TRL = ("prompts", "completions", "completion_ids")
_TEXT = re.compile(r"str|(?:[\w.]+\.)?(?:list|List|Sequence|Iterable)\[str\]")


def find_convention(names: Sequence[str]) -> Convention:
    """Whose function it is that takes arguments of these names."""
    return next((convention for name, convention in _TELLING if name in names), "own")


def wants_texts(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function's annotations say that its prompts and completions are texts."""
    annotations = [
        parameters[name].annotation
        for name in ("completions", "completion", "prompts", "prompt")
        if name in parameters and parameters[name].annotation is not inspect.Parameter.empty
    ]
    shown = [each if isinstance(each, str) else inspect.formatannotation(each) for each in annotations]
    return any(_TEXT.fullmatch(each.replace(" ", "")) for each in shown)


def batch_arguments(
    names: Sequence[str], completions: Sequence[Completion], *, texts: bool, everything: bool
) -> dict[str, Any]:
    """The arguments of a function of the convention ``batch``.

    Args:
        names: that it asks for.
        completions: of one prompt.
        texts: prompts and completions are to be texts.
        everything: it takes whatever there is, as TRL gives it: all columns of the data.
    """
    first = completions[0]
    if everything:
        columns = [*first.row, "data_source", "extra_info", "ground_truth"]
        names = list(dict.fromkeys([*names, *_OF_TRL, *columns, *RUN_ARGUMENTS]))
        if first.token_ids is None:
            names.remove("completion_ids")
    given: dict[str, Any] = {}
    for name in names:
        if name in BATCH_ITEMS:
            given[name] = [_item(each, BATCH_ITEMS[name], texts=texts) for each in completions]
        elif name in first.row or name in OFFERED_AS_LISTS:
            given[name] = [_column(each, name) for each in completions]
        elif name in RUN_ARGUMENTS:
            given[name] = getattr(first, name)
    return given


def rollout_arguments(names: Sequence[str], completion: Completion, *, texts: bool, everything: bool) -> dict[str, Any]:
    """The arguments of a function of the convention ``rollout``, as ``batch_arguments`` has them."""
    if everything:
        names = list(dict.fromkeys([*names, *ROLLOUT_ITEMS]))
    return {name: _item(completion, name, texts=texts) for name in names}


def column_fault(row: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> str | None:
    """What is wrong with a row in verl's format that lacks a column, and what to write; None where nothing is.

    Args:
        row: of the data.
        columns: by objective, those that its function cannot do without.
    """
    truth = (row.get("reward_model") or {}).get("ground_truth")
    for objective, names in columns.items():
        for name in names:
            if name not in row and not (name in TRUTHS and truth is not None):
                there = ", ".join(f"'{column}'" for column in row if column not in NAMED_COLUMNS) or "no other"
                return (
                    f"it has no column '{name}', which the objective '{objective}' asks for (it has {there}); add the "
                    "column, give the argument a default, or give it in the objective's kwargs"
                )
    return None


OFFERED_AS_LISTS = (
    *TRUTHS,
    *("data_source", "extra_info", "reference_tokens", "response_tokens", "finished", "row"),
    *("messages", "tool_rewards"),
)
"""What a function of a batch may ask for beside columns; a column of the same name comes first."""


def _column(completion: Completion, name: str) -> Any:
    if name in completion.row:
        return completion.row[name]
    return completion.ground_truth if name in TRUTHS else getattr(completion, name)


def _item(completion: Completion, name: str, *, texts: bool) -> Any:
    """What verifiers and the items of a batch's lists call by this name; else an attribute of the completion."""
    is_text = texts or isinstance(completion.raw_prompt, str)
    match name:
        case "prompt":
            return prompt_text(completion.raw_prompt or completion.prompt) if is_text else list(completion.raw_prompt)
        case "completion":
            return completion.response if is_text else completion.messages
        case "answer":
            return completion.ground_truth
        case "info":
            return completion.row.get("info", completion.extra_info)
        case "task":
            return completion.row.get("task", completion.data_source)
        case "state":
            parts = [each for each in ROLLOUT_ITEMS if each != "state"]
            return {each: _item(completion, each, texts=texts) for each in parts}
        case "token_ids":
            return None if completion.token_ids is None else list(completion.token_ids)
    return getattr(completion, name)
