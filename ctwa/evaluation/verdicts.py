"""What a judge's reply says: its verdict, or why it holds none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["first", "second", "tie"]
_VERDICTS: Mapping[str, Verdict] = {"a": "first", "b": "second", "tie": "tie", "c": "tie"}
_TOKEN = r"\[\[\s*(A|B|C|tie)\s*\]\]"
_MARKS = r"[\s*_`]*"  # Markdown's bold, italics, code
_ANY = re.compile(_TOKEN, re.IGNORECASE)
_ALONE = re.compile(rf"[-#\s]*{_MARKS}{_TOKEN}{_MARKS}[.!]?{_MARKS}", re.IGNORECASE)
# A line that says it is the verdict: "**Final verdict:** [[A]]", "So I choose [[B]]."
_DECLARED = re.compile(
    r".*\b(?:verdict|judge?ment|decision|conclusion|winner|(?:my|final) (?:answer|choice|rating)"
    r"|I (?:choose|pick|prefer|select|vote for|go with))(?: is| would be)?"
    rf"{_MARKS}[:=]?{_MARKS}[\"“']?{_TOKEN}[\"”']?{_MARKS}[.!]?{_MARKS}",
    re.IGNORECASE,
)
# A verdict behind a whole sentence: "Both are right, A is shorter. [[A]]"
_AT_THE_END = re.compile(rf".*[.!?:;,—–-]{_MARKS}{_TOKEN}{_MARKS}[.!]?{_MARKS}", re.IGNORECASE)
_BEHIND_A_COLON = re.compile(rf":{_MARKS}{_TOKEN}", re.IGNORECASE)
# "I cannot say that the winner is [[A]]" says that it is the verdict, and means that it is not.
_DENIED = re.compile(rf"\b(?:not|never|cannot|\w+n['’]t)\b[^.!?:;,]*{_TOKEN}", re.IGNORECASE)
_THINKING = r"think|thinking|thought|reasoning"
_THOUGHT = re.compile(rf"<({_THINKING})>.*?</\1>", re.IGNORECASE | re.DOTALL)
_THOUGHT_BEGINS = re.compile(rf"\s*<(?:{_THINKING})>", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"^\s*</(?:{_THINKING})>", re.IGNORECASE | re.MULTILINE)

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


@dataclass(frozen=True)
class Reply:
    """What came back: the judge's text, or the server's reason for refusing this one request.

    Attributes:
        text: what the judge wrote, or what the server said.
        flaw: why no verdict may be read from the text, in a word or two (`cut off`, `filtered`, ...); None where one
            may.
        refused: the server refused the request.
    """

    text: str
    flaw: str | None = None
    refused: bool = False

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, where the reply may hold one and does."""
        return None if self.flaw else parse(self.text)

    @property
    def why_none(self) -> str:
        """Why there is no verdict; empty where there is one."""
        return self.flaw or read_verdict(self.text)[1]


def read_reply(completion: Any) -> Reply:
    """The first choice of a chat completion.

    Raises:
        LookupError, TypeError: it is no chat completion.
    """
    choice = completion["choices"][0]
    message = choice["message"]
    text = _text_of(message["content"] if message.get("refusal") is None else message.get("content"))
    finish = choice.get("finish_reason")
    finish = finish.lower() if isinstance(finish, str) else finish
    if message.get("refusal"):
        return Reply(text or str(message["refusal"]), "refusal")
    if finish not in _WHOLE:
        return Reply(text, _NOT_WHOLE.get(finish) or f"finish_reason {str(finish)[:40]}")
    if message.get("tool_calls") or message.get("function_call"):
        return Reply(text, "tool call")
    return Reply(text, None if text.strip() else "empty")


def _text_of(content: Any) -> str:
    """Of text as it is, of a list of parts the text among them; None is a model that never came to an answer."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise TypeError(f"content of type {type(content).__name__}")
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return "".join(part["text"] for part in parts if part.get("type") in ("text", "output_text"))


def parse(text: str) -> Verdict | None:
    """The verdict in a judge's text, None where there is none, as :func:`read_verdict` reads it."""
    return read_verdict(text)[0]


def read_verdict(text: str) -> tuple[Verdict | None, str]:
    """The verdict in a judge's text; None and why where there is none.

    A verdict is a line that holds it alone, or says that it is the verdict; it may also stand at the end of the last
    line, behind a whole sentence. What is thought, quoted or code is not read, a line that names several verdicts or
    denies one is none, and verdicts that contradict each other are none.
    """
    text = _THOUGHT.sub("", text)
    if ends := list(_THOUGHT_ENDS.finditer(text)):  # its beginning stood in the prompt
        text = text[ends[-1].end() :]
    elif _THOUGHT_BEGINS.match(text):
        return None, "cut off"
    lines = [line for line in _own_lines(text) if line.strip()]
    single = [line for line in lines if len(_ANY.findall(line)) == 1 and not _DENIED.search(line)]
    found = [line for line in single if _ALONE.fullmatch(line) or _DECLARED.fullmatch(line)]
    if single and single[-1] is lines[-1] and _AT_THE_END.fullmatch(lines[-1]):
        if not found:
            found = [line for line in single if _AT_THE_END.fullmatch(line)]
        elif not _BEHIND_A_COLON.search(lines[-1]):  # which is a quotation, after a verdict
            found.append(lines[-1])
    verdicts = {_VERDICTS[token.lower()] for line in found for token in _ANY.findall(line)}
    if len(verdicts) == 1:
        return verdicts.pop(), ""
    return None, "contradiction" if verdicts else "no verdict"


def _own_lines(text: str) -> Iterator[str]:
    """The lines that are the judge's own words: no block of code, no quotation."""
    fence = None
    for line in text.splitlines():
        opening = re.match(r"\s*(`{3,}|~{3,})", line)
        if fence is not None:
            fence = None if opening and opening[1].startswith(fence) else fence
        elif opening:
            fence = opening[1]
        elif not line.lstrip().startswith(">"):
            yield line
