"""What is wrong with a row in verl's format: prompt, ground truth, and what its columns hold."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ctwa.data.formats import Row, described
from ctwa.data.messages import joined

ROLES = ("system", "developer", "user", "assistant", "tool")
EXAMPLE = '{"prompt": [{"role": "user", "content": "What is 1 + 1?"}], "reward_model": {"ground_truth": "2"}}'
_TRUTH = "reward_model.ground_truth"
_ROLES_ELSEWHERE = dict.fromkeys(("human", "instruction"), "user") | dict.fromkeys(("gpt", "bot", "model"), "assistant")
_NO_TEXT = "which is no text; write the whole character"
_PRINTED = re.compile(r"\s*\[\s*\{'(?:role|content|from|value)': ")
_MESSAGE = '{"role": "user", "content": "..."}'


def row_fault(row: Row, *, needs_ground_truth: Collection[str] = (), text_prompts: bool = False) -> str | None:
    """What keeps a row from being used, and what to write; None where nothing does.

    Args:
        row: the row.
        needs_ground_truth: the objectives whose reward functions take the ground truth and cannot do without it.
        text_prompts: whether a prompt may be a text, to be taken as it stands.
    """
    if row.unreadable is not None:
        return row.unreadable
    if "prompt" not in row.values:
        return f"it has no column 'prompt' (it has {', '.join(row.values) or 'none'}); write rows like {EXAMPLE}"
    extra_info = row.values.get("extra_info")
    if extra_info is not None and not isinstance(extra_info, Mapping):
        return f"its extra_info is {described(extra_info)}; write a dict, or leave the column out"
    return prompt_fault(row.values["prompt"], text=text_prompts) or ground_truth_fault(row.values, needs_ground_truth)


def prompt_fault(prompt: Any, column: str = "prompt", *, text: bool = False) -> str | None:
    """What keeps a prompt from being given to a model, and what to write; None where nothing does.

    Args:
        prompt: what is to be a list of messages, each with a ``role`` and a ``content``: text, or a list of parts with
            images and the like. Neither text nor a user's message may be without a word. A user has a message, and
            the model has not answered the last one.
        column: its name, for the sentence.
        text: whether it may be a text, to be taken as it stands.
    """
    fault = messages_fault(prompt, column, text=text)
    return fault if fault or isinstance(prompt, str) else roles_fault(prompt, column)


def messages_fault(prompt: Any, column: str, *, text: bool) -> str | None:
    """What is wrong with the messages of a prompt, or of a conversation that ends with its answer, each by itself."""
    if text and isinstance(prompt, str):
        if not prompt.strip():
            return f"its {column} is empty; write what the user says, or leave the row out"
        if _PRINTED.match(prompt):  # by pandas into CSV
            return f"its {column} is messages as Python prints them; write JSON (json.dumps)"
        prompt = [{"role": "user", "content": prompt}]
    advice = f"write a list of messages: [{_MESSAGE}]"
    if not isinstance(prompt, Sequence) or isinstance(prompt, str | bytes):
        return f"its {column} is {described(prompt)}; {advice}"
    if not prompt:
        return f"its {column} is an empty list; {advice}"
    for index, message in enumerate(prompt):
        if (fault := _message_fault(message)) is not None:
            return f"message {index} of its {column} {fault}"
    return None


def roles_fault(prompt: Sequence[Mapping[str, Any]], column: str) -> str | None:
    """What keeps messages from being answered: nobody asks, or the last of them is the answer; what to write."""
    roles = [message["role"] for message in prompt]
    if "user" not in roles:
        return f"its {column} has no message of a user; write what the user says"
    if roles[-1] == "assistant":
        return f"its {column} ends with a message of the assistant, an answer; leave it out"
    return None


def _message_fault(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return f"is {described(message)}; write {_MESSAGE}"
    role, content = message.get("role"), message.get("content")
    if missing := [key for key in ("role", "content") if message.get(key) is None]:
        there = ", ".join(f"'{key}'" for key, value in message.items() if value is not None) or "nothing"
        return f"has no {' and no '.join(missing)} (it has {there}); write {_MESSAGE}"
    if role not in ROLES:
        known = _ROLES_ELSEWHERE.get(str(role).lower()) or next(iter(get_close_matches(str(role).lower(), ROLES)), None)
        return f"has the role {role!r}; write " + (f"'{known}'" if known else f"one of {', '.join(ROLES)}")
    if isinstance(content := joined(content), Sequence) and not isinstance(content, str | bytes) and content:
        found = value_fault(content)  # of parts, which are the chat template's to read
        return found[1] if found else None
    if not isinstance(content, str):
        return f"has a content that is {described(content)}; write a text"
    if role == "user" and not content.strip():
        return "is a user's and empty; write what the user says, or leave the row out"
    if (fault := text_fault(content)) is not None:
        return f"has {fault}, {_NO_TEXT}"
    return None


def value_fault(value: Any) -> tuple[str, str] | None:
    """The first place in a value that no file keeps, with what is wrong there and what to write; None where none is."""
    if isinstance(value, str):
        return None if value.isascii() or not (fault := text_fault(value)) else ("", f"has {fault}, {_NO_TEXT}")
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else ("", f"is {described(value)}, of more than 64 bits; write text")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and (found := value_fault(key)):
                return "", f"has a name that {found[1]}"
            if found := value_fault(item):
                return f".{key}{found[0]}", found[1]
    elif isinstance(value, list):
        types = {*map(type, value)}  # of long lists not every item is looked at
        all_say = ["".join(value)] if types == {str} else [min(value), max(value)] if types == {int} else value
        if not any(map(value_fault, all_say)):
            return None
        for index, item in enumerate(value):
            if found := value_fault(item):
                return f"[{index}]{found[0]}", found[1]
    return None


def ground_truth_fault(values: Mapping[str, Any], needed_by: Collection[str]) -> str | None:
    """What is wrong with a row's ground truth, by the objectives that need one; None where nothing is."""
    reward_model = values.get("reward_model")
    if reward_model is not None and not isinstance(reward_model, Mapping):
        return f'its reward_model is {described(reward_model)}; write {{"ground_truth": ...}}'
    ground_truth = None if reward_model is None else reward_model.get("ground_truth")
    if not needed_by or not (ground_truth is None or (isinstance(ground_truth, float) and math.isnan(ground_truth))):
        return None
    what = "it has no reward_model" if reward_model is None else "it has no ground truth in its reward_model"
    names = ", ".join(f"'{name}'" for name in needed_by)
    return (
        f'{what}, which the objectives ({names}) ask for; write {{"ground_truth": ...}}, or ground_truth=None in the '
        "function's signature where it can do without"
    )


def text_fault(text: str) -> str | None:
    """What of a text no tokenizer reads and no file keeps: half a surrogate pair; None where there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a surrogate pair ({ascii(text[error.start])[1:-1]}, character {error.start})"
    return None


class Kinds:
    """Sees to it that what a column holds is of one kind in all rows.

    Reading JSON, `datasets` makes numbers of texts where both are in a column, so that a ground truth changes.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}

    def fault(self, where: str, row: Row) -> str | None:
        """What differs in this row from the rows before, and what to write; None where nothing does."""
        for path, kind in _kinds(row.values, ""):
            first, place = self._first.setdefault(path, (kind, where))
            if first != kind:
                return f"its {path} is {kind}, and that of {place} is {first}; write the same in every row"
        return None


def _kinds(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if path.startswith(_TRUTH):  # a table gives every dict the names of all, with null
            yield path, f"a dict with {', '.join(sorted(map(str, value))) or 'nothing'} in it"
        elif path:
            yield path, "a dict"
        for key, item in value.items():
            yield from _kinds(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        yield path, "a list"
        one_each = {type(item): item for item in value}
        for item in value if one_each.keys() & {dict, list} else one_each.values():
            yield from _kinds(item, f"{path}[]")
    elif isinstance(value, bool):
        yield path, "true or false"
    elif isinstance(value, int | float):
        # 1 beside 1.5 becomes 1.0, another text for a reward function that compares texts. Lists are of numbers.
        is_one = path.startswith("reward_model") and "[]" not in path
        yield path, "a fraction" if is_one and isinstance(value, float) and not math.isnan(value) else "a number"
    elif isinstance(value, str):
        yield path, "text"
