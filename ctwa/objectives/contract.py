"""The reward function contract: what a function may ask for by naming it, and what it may return.

This module and ``loading`` run in the worker processes, so they import nothing heavy.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import ctwa
from ctwa.arguments import is_time, plain
from ctwa.errors import CtwaError, did_you_mean, is_seen
from ctwa.objectives.completion import Completion
from ctwa.objectives.conventions import (
    ALIASES,
    BATCH_ITEMS,
    OFFERED_AS_LISTS,
    ROLLOUT_ITEMS,
    RUN_ARGUMENTS,
    TRAINERS_OWN,
    TRUTHS,
    Convention,
    batch_arguments,
    find_convention,
    rollout_arguments,
    wants_texts,
)

PROMPT_ARGUMENTS = ("prompt", "ground_truth", "data_source", "extra_info", "reference_tokens", "row")
COMPLETION_ARGUMENTS = ("response", "response_tokens", "finished", "messages", "tool_rewards")
GROUP_ARGUMENTS = tuple(f"group_{name}" for name in COMPLETION_ARGUMENTS)
OFFERED = (*COMPLETION_ARGUMENTS, *PROMPT_ARGUMENTS, *RUN_ARGUMENTS, *ALIASES, *GROUP_ARGUMENTS)
OFFERED_BY: dict[Convention, tuple[str, ...]] = {
    "own": OFFERED,
    "batch": (*BATCH_ITEMS, *OFFERED_AS_LISTS, *RUN_ARGUMENTS),
    "rollout": (*ROLLOUT_ITEMS, *COMPLETION_ARGUMENTS, *PROMPT_ARGUMENTS, *RUN_ARGUMENTS),
}
"""What there is beside the data's columns, which only functions of a batch are given by name."""

Reason = Literal["exception", "timeout", "none", "not_finite", "wrong_type", "crashed"]
MAX_VALUE = 1e15  # of a reward: the squares of larger ones, summed, are not finite in single precision
MAX_TEXT = 300  # characters of an exception or a value that a message repeats


@dataclass(frozen=True)
class Outcome:
    """What one call gave for one completion: a finite value; None and the reason; or None where it does not apply."""

    value: float | None
    reason: Reason | None = None
    text: str = ""
    seconds: float = 0.0
    applies: bool = True
    others: tuple[Outcome, ...] = ()
    """Of a function that several objectives share: what the same call gave for those after the first."""

    def of(self, place: int) -> Outcome:
        """The outcome for one of the objectives that share the function; a call that failed has failed for all."""
        return self.others[place - 1] if place and self.others else self

    @property
    def reward(self) -> float | Literal["not_applicable"] | None:
        """The entry of the reward matrix."""
        return self.value if self.applies else ctwa.NOT_APPLICABLE


@dataclass(frozen=True)
class Contract:
    """How a reward function is called.

    Attributes:
        arguments: the names it takes of what is offered; of a function of a batch those of columns, too.
        is_async: it is a coroutine function.
        is_group: it is called once a prompt with all its completions.
        required: those of the arguments that have no default.
        convention: whose names they are (``conventions``).
        texts: prompts and completions are to be texts, not messages.
        everything: it is handed all that there is, as the trainer that it was written for does.
        columns: those of the arguments that are none of what is offered and have no default: columns of the data.
    """

    arguments: tuple[str, ...]
    is_async: bool
    is_group: bool
    required: tuple[str, ...] = ()
    convention: Convention = "own"
    texts: bool = False
    everything: bool = False
    columns: tuple[str, ...] = ()

    def collect(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The arguments of one call: of one completion, or for a group function of all completions of a prompt."""
        first = completions[0]
        if self.convention == "batch":
            return batch_arguments(self.arguments, completions, texts=self.texts, everything=self.everything)
        if self.convention == "rollout":
            return rollout_arguments(self.arguments, first, texts=self.texts, everything=self.everything)
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

    Columns of the data, which functions of a batch may ask for, are looked at with the data (``column_fault``).
    """
    parameters = _parameters(function, spec)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    convention = find_convention(list(named))
    offered = OFFERED_BY[convention]
    extra = [name for name in kwargs if name not in named]
    _check_kwargs(spec, kwargs, named, offered, unknown=[] if open_ended else extra)
    positional = [name for name, parameter in named.items() if parameter.kind is parameter.POSITIONAL_ONLY]
    if positional:
        raise CtwaError(f"reward function '{spec}' takes {_quoted(positional)} by position only; remove the '/'")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in offered and name not in kwargs]
    columns = tuple(missing) if convention == "batch" else ()
    _check_missing(spec, missing, offered, extra, are_columns=bool(columns))

    # Of a batch a column of the data may have any name.
    arguments = tuple(name for name in named if name in offered or (convention == "batch" and name not in kwargs))
    if not arguments:  # **kwargs alone do not say whose function it is, and *args get nothing
        raise CtwaError(
            f"reward function '{spec}' names nothing that is offered, and so sees no response; name what it looks at, "
            "e.g. response: str, or TRL's completions"
        )
    is_group = convention == "batch" or any(name in GROUP_ARGUMENTS for name in arguments)
    mixed = [name for name in arguments if ALIASES.get(name, name) in COMPLETION_ARGUMENTS]
    if convention == "own" and is_group and mixed:
        raise CtwaError(
            f"reward function '{spec}' takes {_quoted(mixed)} of one completion together with group_* lists of all "
            f"completions of a prompt; write {_quoted('group_' + ALIASES.get(name, name) for name in mixed)} instead"
        )
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    required = tuple(name for name in arguments if named[name].default is inspect.Parameter.empty)
    # verl hands on what it was configured with; the others hand on what there is.
    everything = open_ended and convention != "own" and "solution_strs" not in named
    return Contract(
        arguments, is_async, is_group, required, convention, wants_texts(named), everything=everything, columns=columns
    )


def _parameters(function: Callable[..., Any], spec: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
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
    return parameters


def _check_kwargs(
    spec: str, kwargs: Mapping[str, Any], named: Iterable[str], offered: Sequence[str], *, unknown: Sequence[str]
) -> None:
    """Refuse an objective's kwargs that every call fills in, or that the function does not take."""
    if filled_in := [name for name in kwargs if name in offered]:
        raise CtwaError(
            f"kwargs of reward function '{spec}' give {_quoted(filled_in)}, which every call fills in from the "
            "completion; remove it from kwargs"
        )
    if unknown:
        raise CtwaError(
            f"kwargs give {_quoted(unknown)}, which reward function '{spec}' does not take; it takes {_quoted(named)}"
            + did_you_mean(unknown[0], named)
        )


def _check_missing(
    spec: str, missing: Sequence[str], offered: Sequence[str], extra: Sequence[str], *, are_columns: bool
) -> None:
    """Refuse required arguments that nothing gives a value; the data, which may, is looked at later."""
    if objects := [name for name in missing if name in TRAINERS_OWN]:
        raise CtwaError(
            f"reward function '{spec}' requires {_quoted(objects)}, an object of another trainer, which there is not "
            "here; take step, progress and split for what it says of the run, or give the argument a default"
        )
    if missing and not are_columns:
        near = did_you_mean(missing[0], [*offered, *extra])
        if missing[0] in TRUTHS:  # TRL's word for it, in a function that is not TRL's
            near = "; did you mean 'ground_truth'? A column of the data is in row"
        raise CtwaError(
            f"reward function '{spec}' requires {_quoted(missing)}, which is not offered; give it a default, or a "
            "value in the objective's kwargs (--kwargs of `ctwa check-reward`)"
            + (near or f". What is offered: {', '.join(offered)}")
        )


def to_outcome(value: Any, seconds: float, keys: Sequence[str | None] = (None,)) -> Outcome:
    """Judge what a reward function returned for one completion.

    A finite number counts: Python's, numpy's, or a zero-dimensional array or tensor. None, and what numpy masks, say
    "cannot be scored", `ctwa.NOT_APPLICABLE` (the text "not_applicable") that it need not be.

    Args:
        value: what it returned.
        seconds: that the call took.
        keys: of a dict, what each of the objectives that share the function takes of it; None for `score`, as in verl.
    """
    first, *others = (_to_outcome(value, seconds, key) for key in keys)
    return replace(first, others=tuple(others))


def _to_outcome(value: Any, seconds: float, key: str | None) -> Outcome:
    if isinstance(value, Mapping):
        wanted = key or "score"
        if wanted not in value:
            hint = (
                did_you_mean(wanted, map(str, value))
                if key
                else "; return one number, or give the objective a key (--key of `ctwa check-reward`)"
            )
            text = f"returned the {_described(value)} without '{wanted}'{hint}"
            return Outcome(None, "wrong_type", text, seconds)
        value = value[wanted]
    elif key is not None and value is not None and not isinstance(value, str):
        text = f"returned the {_described(value)}, which has no '{key}'; return a dict, or leave the key out"
        return Outcome(None, "wrong_type", text, seconds)
    returned, value = value, plain(value)
    if value is None:
        text = "None" if returned is None else f"the {_described(returned)}"
        return Outcome(None, "none", f"the function returned {text}", seconds)
    if isinstance(value, str) and value == ctwa.NOT_APPLICABLE:
        return Outcome(None, seconds=seconds, applies=False)
    if is_time(value) or not isinstance(value, numbers.Real):
        return Outcome(None, "wrong_type", f"returned the {_described(value)}; return one number, or None", seconds)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return Outcome(None, "not_finite", f"returned {number}; return a finite number, or None", seconds)
    if abs(number) > MAX_VALUE:
        text = f"returned {number:g}; return a number of at most {MAX_VALUE:g} in size, or None"
        return Outcome(None, "not_finite", text, seconds)
    return Outcome(number, None, "", seconds)


def to_group_outcomes(
    values: Any, num_completions: int, seconds: float, keys: Sequence[str | None] = (None,)
) -> list[Outcome]:
    """Judge what a group function returned: a list of one value a completion.

    In place of the list, None and `ctwa.NOT_APPLICABLE` say it of every completion.
    """
    seconds /= num_completions
    if hasattr(values, "tolist") and not is_time(values):  # numpy, torch
        values = values.tolist()
    if values is None or (isinstance(values, str) and values == ctwa.NOT_APPLICABLE):
        return [to_outcome(values, seconds, keys)] * num_completions
    if not isinstance(values, list | tuple):
        text = f"returned the {_described(values)} for a group; return a list of {num_completions} numbers"
        return [Outcome(None, "wrong_type", text, seconds)] * num_completions
    if len(values) != num_completions:
        text = f"returned {len(values)} values for a group of {num_completions} completions; return one a completion"
        return [Outcome(None, "wrong_type", text, seconds)] * num_completions
    return [to_outcome(value, seconds, keys) for value in values]


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` in characters that are seen, for it may be a model's or an exception's; cut at ``limit`` of them."""
    text = "".join(each if is_seen(each) else " " for each in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _described(value: Any) -> str:
    return f"{type(value).__name__} {shortened(repr(value), 80)}"


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)


def need_ground_truth(contracts: Mapping[str, Contract]) -> list[str]:
    """The objectives that cannot do without a ground truth: their functions take it and have no default for it."""
    return [
        name
        for name, contract in contracts.items()
        if any(each in contract.required for each in ("ground_truth", "ground_truths"))
        or (contract.convention == "rollout" and "answer" in contract.required)
    ]
