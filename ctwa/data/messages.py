"""What a column says as chat messages: OpenAI's, ShareGPT's, JSON in a text, contents in parts, a system of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ctwa.data.formats import described

SYSTEM: Final = "system"
"""The column of a system message, beside the conversation it belongs to."""
BELOW = ("input", "context")
"""What belongs to an ``instruction``: Alpaca's column, and Dolly's."""
HISTORY = "history"
SPEAKERS = {  # of ShareGPT's turns
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model"), "assistant"),
    "system": "system",
}


def as_messages(value: Any, *, join: bool = True) -> Any:
    """ShareGPT's turns, and messages that are written as JSON in a text, as messages; all else as it is.

    Args:
        value: what stands in a column.
        join: whether a content in parts that are all text becomes one text.
    """
    value = _from_json(value)
    if not isinstance(value, list):
        return value
    if is_sharegpt(value):
        value = [
            {"role": SPEAKERS.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
            if isinstance(turn, Mapping)
            else turn
            for turn in value
        ]
    return [_message(each, join=join) if isinstance(each, Mapping) else each for each in value]


def is_sharegpt(messages: Sequence[Any]) -> bool:
    """Whether the first of some turns is ShareGPT's."""
    return bool(messages) and isinstance(messages[0], Mapping) and "from" in messages[0] and "role" not in messages[0]


def joined(content: Any) -> Any:
    """The text of a content whose parts are all text, as chat templates write it; any other content as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    said = [text for text in texts if isinstance(text, str)]
    return "".join(said) if len(said) == len(content) else content


def is_filled(value: Any) -> bool:
    """Whether a column has something in it: neither null, nor NaN, nor a blank text, nor an empty list or dict."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and not (isinstance(value, list | dict) and not value)


def with_system(messages: list[dict[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A conversation with the system message of its row's column ``system``, where there is one.

    Raises:
        ValueError: it is no text, or the conversation has another one; what to write.
    """
    system = values.get(SYSTEM)
    if not is_filled(system):
        return messages
    if not isinstance(system, str):
        raise ValueError(f"its {SYSTEM} is {described(system)}; write a system message, or name the column otherwise")
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": system}, *messages]
    if joined(first["content"]) != system:
        raise ValueError("it has a system message in its conversation and another in its system; leave one of them out")
    return messages


def instruction_with(instruction: str, values: Mapping[str, Any]) -> str:
    """An instruction, and below it what else its row asks.

    Raises:
        ValueError: that is no text, or there are earlier turns; what to write.
    """
    if is_filled(history := values.get(HISTORY)):
        raise ValueError(f"its {HISTORY} is {described(history)}; write earlier turns as messages, or leave it out")
    texts = [instruction]
    for column in BELOW:
        if not is_filled(below := values.get(column)):
            continue
        if not isinstance(below, str):
            raise ValueError(f"its {column} is {described(below)}; write a text")
        texts.append(below)
    return "\n\n".join(texts)


def _from_json(value: Any) -> Any:
    """The messages of a text that is some, or one, as JSON; else the text, which may be JSON for another purpose."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        return value
    messages = content if isinstance(content, list) else [content]
    return messages if messages and all(map(_is_message, messages)) else value


def _is_message(value: Any) -> bool:
    keys = value.keys() if isinstance(value, dict) else set()
    return {"role", "content"} <= keys or {"role", "tool_calls"} <= keys or {"from", "value"} <= keys


def _message(message: Mapping[str, Any], *, join: bool) -> dict[str, Any]:
    kept = {key: value for key, value in message.items() if value is not None or key in ("role", "content")}
    return {**kept, "content": joined(kept["content"])} if join and "content" in kept else kept
