"""Whether a chat template writes what a prompt says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ctwa.errors import CtwaError, is_seen, one_line

_MOST = 60  # characters of a message that are named
_OF_ALL = ("system", "user")  # roles that any template tells from the model's

Messages = Sequence[Mapping[str, Any]]


class Refused(Exception):
    """What keeps a prompt from being written by the model's chat template, and what to write."""


def write_prompt(messages: Messages, render: Callable[[Messages], str]) -> str:
    """A prompt as a chat template writes it.

    Args:
        messages: as :func:`template_fault` has them.
        render: writes messages by the template. What it raises is the template's, but for a CtwaError, which passes.

    Raises:
        Refused: the template raises something, writes nothing, or something else than the prompt says.
    """
    try:
        written = render(messages)
    except CtwaError:
        raise
    except Exception as error:  # a template raises what it likes
        raise Refused(
            f"the model's chat template cannot render its prompt ({one_line(error)}); write messages that it takes"
        ) from error
    if not written:
        raise Refused("the model's chat template makes nothing of its prompt; give a template that does")
    if (fault := template_fault(messages, written, render)) is not None:
        raise Refused(f"the model's chat template {fault}; write prompts without it, or give another template")
    return written


def refusal(messages: Messages, render: Callable[[Messages], str]) -> str | None:
    """Why :func:`write_prompt` refuses a prompt; None where it does not."""
    try:
        write_prompt(messages, render)
    except Refused as error:
        return str(error)
    return None


def template_fault(messages: Messages, written: str, render: Callable[[Messages], str]) -> str | None:
    """What a chat template changes of a prompt, as the rest of a sentence about the template; None where nothing.

    Every message but the model's own has to be there, as often as it is said; templates leave out what was thought in
    earlier turns. White space may be taken off its ends, and JSON may stand for it, as of what tools return. Messages
    of a developer or a tool may not be written as the model's own words.

    Args:
        messages: with ``role`` and ``content``; contents that are no text are not looked at.
        written: what the template makes of them.
        render: makes the like of other messages; may raise anything.
    """
    said = [
        (place, message, message["content"].strip())
        for place, message in enumerate(messages)
        if message.get("role") != "assistant" and isinstance(message.get("content"), str)
    ]
    for place, message, text in said:
        role = message["role"]
        named = f"its {role} message {_short(text)}" + " (write it as system)" * (role == "developer")
        # A short text, as a tool's result is, may be part of others.
        if text and _count(text, written) < sum(other.count(text) for _, _, other in said):
            return f"leaves out {named}, or changes it"
        if role not in _OF_ALL and _is_models_own(messages, place, written, render):
            return f"writes {named} as the model's own words"
    return None


def _count(text: str, written: str) -> int:
    as_json = json.dumps(text, ensure_ascii=False)[1:-1]
    return written.count(text) + (written.count(as_json) if as_json != text else 0)


def _is_models_own(messages: Messages, place: int, written: str, render: Callable[[Messages], str]) -> bool:
    """Whether a message is written as the assistant's would be, by a template that tells it from a user's."""

    def spoken_by(role: str) -> str | None:
        with suppress(Exception):  # a template raises what it likes
            return render([*messages[:place], {**messages[place], "role": role}, *messages[place + 1 :]])
        return None

    return spoken_by("assistant") == written != spoken_by("user")


def _short(text: str) -> str:
    text = "".join(each if is_seen(each) else " " for each in text)
    return repr(text if len(text) <= _MOST else f"{text[: _MOST - 3]}...")
