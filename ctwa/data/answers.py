r"""Taking the ground truth out of a column that has more in it: a solution, a rationale, a whole answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from ctwa.data.boxed import last_boxed
from ctwa.data.formats import described

Rule = Literal["as_is", "hashes", "boxed", "last_number"]

_MARK = "####"
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MINUS = "\\-\N{MINUS SIGN}\N{EN DASH}"  # in a class of characters
# A minus behind a digit or a word is an operator or a hyphen. All that stands against a number belongs to it: the last
# digits of 12,34, 10^5 or 3 1/2 are another number.
_RUN = re.compile(
    rf"(?:(?<![\w)\].])[+{_MINUS}])?[$€£]?(?:(?<![\d.])\.)?\d+"
    rf"(?:(?:[,.:/^'’]|[eE][+{_MINUS}]?|[ \u00a0\u2009\u202f](?=\d{{3}}(?!\d)|\d+/\d))\.?\d+)*"
)
_BEFORE = re.compile(r"(?:[/^]\s*\{?|\}\{|\\[dtc]?frac ?(?:\{[^{}]*\}|\w)?\{?)$")
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(rf"[+-]?{_UNSIGNED}(?:[eE][+-]?\d+|/{_UNSIGNED})?")


def _hashes(text: str) -> str | None:
    """What stands behind the last ####, in its line."""
    behind = text.rpartition(_MARK)[2].strip() if _MARK in text else ""
    return behind.splitlines()[0].strip() if behind else None


def _last_number(text: str) -> str | None:
    """The last number; raises a ValueError where it can be read in several ways."""
    runs = list(_RUN.finditer(text))
    if not runs:
        return None
    found = re.sub("[$€£]", "", re.sub(f"[{_MINUS}]", "-", runs[-1][0]))
    if _BEFORE.search(text[: runs[-1].start()]) or not _NUMBER.fullmatch(found):
        raise ValueError(f"ends with {runs[-1][0]!r}, which can be read in several ways; write a plain number there")
    return found


_FINDERS: dict[Rule, tuple[str, Callable[[str], str | None]]] = {
    "hashes": ("#### with something behind it", _hashes),
    "boxed": (r"\boxed{...} that is closed", last_boxed),
    "last_number": ("number", _last_number),
}

WORDS: dict[Rule, str] = {
    "as_is": "as it is",
    "hashes": "what stands behind the last ####",
    "boxed": r"what is in the last \boxed{}",
    "last_number": "the last number",
}
"""What each rule takes, in words."""


def rule_for(text: Any) -> Rule:
    r"""The rule that an answer suggests: its last line begins with ####, or it has a ``\boxed``, or none is needed."""
    if isinstance(text, str) and text.strip():
        if text.strip().splitlines()[-1].lstrip().startswith(_MARK):
            return "hashes"
        if last_boxed(text):
            return "boxed"
    return "as_is"


def extract(answer: Any, rule: Rule) -> tuple[Any, str | None]:
    """The ground truth in an answer, and what is wrong where there is none.

    A number's thousands lose their commas, as graders of GSM8K have it; with ``as_is`` nothing is changed.
    """
    if rule == "as_is":
        return (answer, None) if answer is not None else (None, "is null; write one, or leave the row out")
    if not isinstance(answer, str):
        return None, f"is {described(answer)}, and the rule {rule!r} reads text"
    what, find = _FINDERS[rule]
    try:
        found = find(answer)
    except ValueError as error:
        return None, str(error)
    if not found:
        return None, f"has no {what}: {described(answer)}"
    return without_thousands(found), None


def without_thousands(text: str) -> str:
    """A number without the commas of its thousands; any other text as it is."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
