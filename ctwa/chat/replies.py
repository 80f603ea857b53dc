"""What came back from a chat completion, and whether it may be read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

# How servers say that a completion is whole; None and "" where they say nothing.
_WHOLE = {None, "", "stop", "end_turn", "stop_sequence", "eos", "eos_token"}
_NOT_WHOLE = {
    "length": "cut off",
    "max_tokens": "cut off",
    "max_output_tokens": "cut off",
    "model_length": "cut off",
    "content_filter": "filtered",
    "safety": "filtered",
    "tool_calls": "tool call",
    "tool_use": "tool call",
    "function_call": "tool call",
    "refusal": "refusal",
}
# The marks around a thought: <think>, <seed:think>, [THINK], ◁think▷, <|begin_of_thought|>.
_MARKS = (
    *((rf"<(?:\w+:)?{name}>", rf"</(?:\w+:)?{name}>") for name in ("think", "thinking", "thought", "reasoning")),
    (r"\[think\]", r"\[/think\]"),
    ("◁think▷", "◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
)
_BEGINS, _ENDS = ("|".join(marks) for marks in zip(*_MARKS, strict=True))
_THOUGHT = re.compile("|".join(f"{begin}.*?{end}" for begin, end in _MARKS), re.IGNORECASE | re.DOTALL)
_THOUGHT_BEGINS = re.compile(rf"\s*(?:{_BEGINS})", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"^\s*(?:{_ENDS})", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Reply:
    """What came back: the model's text, or the server's reason for refusing this one request.

    Attributes:
        text: what the model wrote, or what the server said.
        flaw: why nothing may be read from the text, in a word or two (`cut off`, `filtered`, ...); None where it may.
        refused: the server refused the request.
        tokens: of the request and of the reply, as the server counted them; 0 where it did not.
    """

    text: str
    flaw: str | None = None
    refused: bool = False
    tokens: tuple[int, int] = field(default=(0, 0), compare=False)


def read_reply(completion: Any) -> Reply:
    """The first choice of a chat completion.

    Raises:
        LookupError, TypeError: it is no chat completion.
    """
    choice = completion["choices"][0]
    message = choice["message"]
    text = _text_of(message["content"] if message.get("refusal") is None else message.get("content"))
    return Reply(text or str(message.get("refusal") or ""), _flaw(choice, message, text), tokens=_tokens(completion))


def without_thought(text: str) -> str | None:
    """A text without what was thought before it; None where the thought does not end."""
    text = _THOUGHT.sub("", text)
    if ends := list(_THOUGHT_ENDS.finditer(text)):  # its beginning stood in the prompt
        return text[ends[-1].end() :]
    return None if _THOUGHT_BEGINS.match(text) else text


def _flaw(choice: Any, message: Any, text: str) -> str | None:
    finish = choice.get("finish_reason")
    finish = finish.lower() if isinstance(finish, str) else finish
    if message.get("refusal"):
        return "refusal"
    if finish not in _WHOLE:
        return _NOT_WHOLE.get(finish) or f"finish_reason {str(finish)[:40]}"
    if message.get("tool_calls") or message.get("function_call"):
        return "tool call"
    return None if text.strip() else "empty"


def _tokens(completion: Any) -> tuple[int, int]:
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    asked, written = (usage.get(f"{part}_tokens") for part in ("prompt", "completion"))
    return asked if isinstance(asked, int) else 0, written if isinstance(written, int) else 0


def _text_of(content: Any) -> str:
    """Of text as it is, of a list of parts the text among them; None is a model that never came to an answer."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise TypeError(f"content of type {type(content).__name__}")
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return "".join(part["text"] for part in parts if part.get("type") in ("text", "output_text"))
