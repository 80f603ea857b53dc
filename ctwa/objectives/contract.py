"""The reward function contract: what a function may ask for by naming it, and what it may return.

This module and ``loading`` run in the worker processes, so they import nothing heavy.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ctwa
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.completion import Completion

PROMPT_ARGUMENTS = ("prompt", "ground_truth", "data_source", "extra_info", "reference_tokens", "row")
COMPLETION_ARGUMENTS = ("response", "response_tokens", "finished")
GROUP_ARGUMENTS = tuple(f"group_{name}" for name in COMPLETION_ARGUMENTS)
# What verl's reward functions call the response.
ALIASES = {"solution_str": "response", "model_output": "response", "predict_str": "response"}
OFFERED = (*COMPLETION_ARGUMENTS, *PROMPT_ARGUMENTS, *ALIASES, *GROUP_ARGUMENTS)
# By these names functions of other trainers take a whole batch.
BATCHED = ("prompts", "completions", "completion_ids", "solution_strs", "ground_truths", "data_sources", "extra_infos")

Reason = Literal["exception", "timeout", "none", "not_finite", "wrong_type", "crashed"]
MAX_TEXT = 300  # characters of an exception or a value that a message repeats


@dataclass(frozen=True)
class Outcome:
    """What one call gave for one completion: a finite value; None and the reason; or None where it does not apply."""

    value: float | None
    reason: Reason | None = None
    text: str = ""
    seconds: float = 0.0
    applies: bool = True

    @property
    def reward(self) -> float | Literal["not_applicable"] | None:
        """The entry of the reward matrix."""
        return self.value if self.applies else ctwa.NOT_APPLICABLE


@dataclass(frozen=True)
class Contract:
    """How a reward function is called.

    Attributes:
        arguments: the offered names it takes.
        is_async: it is a coroutine function.
        is_group: it takes ``group_*`` lists, and is called once a prompt with all its completions.
        required: those of the arguments that have no default.
    """

    arguments: tuple[str, ...]
    is_async: bool
    is_group: bool
    required: tuple[str, ...] = ()

    def collect(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The arguments of one call: of one completion, or for a group function of all completions of a prompt."""
        first = completions[0]
        return {
            name: [getattr(completion, name.removeprefix("group_")) for completion in completions]
            if name in GROUP_ARGUMENTS
            else getattr(first, ALIASES.get(name, name))
            for name in self.arguments
        }


def read_contract(function: Callable[..., Any], spec: str, kwargs: Mapping[str, Any]) -> Contract:
    """Read from a function's signature how it is called, with the objective's ``kwargs`` bound by name.

    Raises:
        CtwaError: the function requires what is not offered, does not take one of the ``kwargs``, or mixes one
            completion's arguments with ``group_*`` ones.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise CtwaError(
            f"the arguments of reward function '{spec}' cannot be read ({error}); write it as a def"
        ) from error
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise CtwaError(f"reward function '{spec}' yields; write return in place of yield")
    if not parameters:
        raise CtwaError(
            f"reward function '{spec}' takes no arguments, and so sees no response; name what it looks at, e.g. "
            "response: str"
        )
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}

    filled_in = [name for name in kwargs if name in OFFERED]
    if filled_in:
        raise CtwaError(
            f"kwargs of reward function '{spec}' give {_quoted(filled_in)}, which every call fills in from the "
            "completion; remove it from kwargs"
        )
    unknown = [name for name in kwargs if name not in named and not open_ended]
    if unknown:
        raise CtwaError(
            f"kwargs give {_quoted(unknown)}, which reward function '{spec}' does not take; it takes {_quoted(named)}"
            + did_you_mean(unknown[0], named)
        )
    positional = [name for name, parameter in named.items() if parameter.kind is parameter.POSITIONAL_ONLY]
    if positional:
        raise CtwaError(f"reward function '{spec}' takes {_quoted(positional)} by position only; remove the '/'")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in OFFERED and name not in kwargs]
    if batched := [name for name in missing if name in BATCHED]:
        raise CtwaError(
            f"reward function '{spec}' takes {_quoted(batched)} of a whole batch, as TRL's and verl's batched "
            "functions do; write a function beside it that takes the completions of a prompt and hands them on: "
            "def wrapped(prompt, group_response): return theirs(prompts=[prompt] * len(group_response), "
            "completions=group_response) (docs/rewards.md)"
        )
    if missing:
        raise CtwaError(
            f"reward function '{spec}' requires {_quoted(missing)}, which is not offered; it may name "
            f"{', '.join(OFFERED)}, or take the value from the objective's kwargs"
            + did_you_mean(missing[0], [*OFFERED, *(name for name in kwargs if name not in named)])
        )

    arguments = tuple(name for name in named if name in OFFERED)
    is_group = any(name in GROUP_ARGUMENTS for name in arguments)
    mixed = [name for name in arguments if ALIASES.get(name, name) in COMPLETION_ARGUMENTS]
    if is_group and mixed:
        raise CtwaError(
            f"reward function '{spec}' takes {_quoted(mixed)} of one completion together with group_* lists of all "
            f"completions of a prompt; write {_quoted('group_' + ALIASES.get(name, name) for name in mixed)} instead"
        )
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    required = tuple(name for name in arguments if named[name].default is inspect.Parameter.empty)
    return Contract(arguments, is_async, is_group, required)


def to_outcome(value: Any, seconds: float) -> Outcome:
    """Judge what a reward function returned for one completion.

    A finite number counts: Python's, numpy's, or a zero-dimensional array or tensor; of a dict its `score`, as in verl.
    None says "cannot be scored", `ctwa.NOT_APPLICABLE` (the text "not_applicable") that it need not be.
    """
    if isinstance(value, Mapping):
        if "score" not in value:
            text = f"returned the {_described(value)} without 'score'; return one number, or None"
            return Outcome(None, "wrong_type", text, seconds)
        value = value["score"]
    if value is None:
        return Outcome(None, "none", "the function returned None", seconds)
    if isinstance(value, str) and value == ctwa.NOT_APPLICABLE:
        return Outcome(None, seconds=seconds, applies=False)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real):
        return Outcome(None, "wrong_type", f"returned the {_described(value)}; return one number, or None", seconds)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return Outcome(None, "not_finite", f"returned {number}; return a finite number, or None", seconds)
    return Outcome(number, None, "", seconds)


def to_group_outcomes(values: Any, num_completions: int, seconds: float) -> list[Outcome]:
    """Judge what a group function returned: a list of one value a completion.

    In place of the list, None and `ctwa.NOT_APPLICABLE` say it of every completion.
    """
    seconds /= num_completions
    if values is None or (isinstance(values, str) and values == ctwa.NOT_APPLICABLE):
        return [to_outcome(values, seconds)] * num_completions
    if hasattr(values, "tolist"):  # numpy, torch
        values = values.tolist()
    if not isinstance(values, list | tuple):
        text = f"returned the {_described(values)} for a group; return a list of {num_completions} numbers"
        return [Outcome(None, "wrong_type", text, seconds)] * num_completions
    if len(values) != num_completions:
        text = f"returned {len(values)} values for a group of {num_completions} completions; return one a completion"
        return [Outcome(None, "wrong_type", text, seconds)] * num_completions
    return [to_outcome(value, seconds) for value in values]


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """``text``, cut at ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _described(value: Any) -> str:
    return f"{type(value).__name__} {shortened(repr(value), 80)}"


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
