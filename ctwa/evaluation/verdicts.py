"""What a judge's reply says: its verdict, or why it holds none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from ctwa.chat.replies import Reply, without_thought

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


def verdict_of(reply: Reply) -> Verdict | None:
    """The verdict, where the reply may hold one and does."""
    return None if reply.flaw else parse(reply.text)


def why_none(reply: Reply) -> str:
    """Why a reply holds no verdict; empty where it holds one."""
    return reply.flaw or read_verdict(reply.text)[1]


def parse(text: str) -> Verdict | None:
    """The verdict in a judge's text, None where there is none, as :func:`read_verdict` reads it."""
    return read_verdict(text)[0]


def read_verdict(text: str) -> tuple[Verdict | None, str]:
    """The verdict in a judge's text; None and why where there is none.

    A verdict is a line that holds it alone, or says that it is the verdict; it may also stand at the end of the last
    line, behind a whole sentence. What is thought, quoted or code is not read, a line that names several verdicts or
    denies one is none, and verdicts that contradict each other are none.
    """
    said = without_thought(text)
    if said is None:
        return None, "cut off"
    lines = [line for line in _own_lines(said) if line.strip()]
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
