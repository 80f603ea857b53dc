r"""Reading the final answer out of a completion: ``\boxed{...}``, ``\fbox{...}``, ``\boxed 8``."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A box opens with its brace, or holds what follows it up to the next space. `\{` and `\}` are characters of the answer.
_TOKEN = re.compile(r"(?<!\\)\\+(?:boxed|fbox|framebox)(?![A-Za-z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_COMMAND = r"\\(?!(?:boxed|fbox|framebox)(?![A-Za-z]))[A-Za-z]+"
_UNBRACED = re.compile(
    rf"(?:[^\s$\\{{}}]|{_COMMAND}|\\[^\s()\[\]A-Za-z])(?:[^\s$\\{{}}]|{_COMMAND}|\\[,!]|\{{[^{{}}]*\}})*"
)
# What may stand between the boxes of one answer that is split over several: `\boxed{2}\) or \(x_1 = \boxed{3}`.
_LOOKS = r"[\s$~*]|\\[()\[\] ,;:!\\]|\\q?quad(?![A-Za-z])"
_WORD = r"\b(?:and|or)\b|[和或]|\\?&|\\(?:land|lor|wedge|vee)(?![A-Za-z])"
_IN_TEXT = r"\\(?:text[a-z]*|[mh]box|mathrm)\s*\{[\s~]*(?:[,;]|[,;]?[\s~]*(?:and|or),?)[\s~]*\}"
_NAME = r"(?:\\[A-Za-z]+|[A-Za-z]{1,2}(?![A-Za-z]))\w*(?:_\{[\w,]+\})?'*\s*&?="  # a variable: "area =" says more
_JOINT = re.compile(
    rf"(?:{_LOOKS})*(?:[,;，；、](?:{_LOOKS})*(?:{_WORD}|{_IN_TEXT})?|{_WORD}|{_IN_TEXT})(?:{_LOOKS})*"
    rf"(?:{_NAME}(?:{_LOOKS})*)?",
    re.IGNORECASE,
)
_NOTHING = re.compile(rf"(?:{_LOOKS}|[.,;:{{}}])*")
_NOTHING_MORE = re.compile(r"[\s$]*\Z")
_MAX_JOINT = 80  # characters


@dataclass(frozen=True)
class _Box:
    start: int  # of what it holds
    end: int | None = None  # None where it is not closed
    opening: int = 0
    closing: int = 0


def last_boxed(text: str) -> str | None:
    r"""What the last box of a text holds, without the space around it; None where there is none.

    The last box is the one that begins last. Where it is not closed, because the length limit cut it off, there is no
    answer: an earlier box was not the last word.
    """
    boxes = _boxes(text)
    return None if not boxes or boxes[-1].end is None else text[boxes[-1].start : boxes[-1].end].strip()


def final_answer(text: str) -> str | None:
    r"""The answer of a completion: what its last box holds, together with the boxes joined to it.

    Boxes with nothing but a comma, ``and`` or ``or`` between them are one answer in parts: ``\boxed{2}, \boxed{3}`` is
    ``2, 3``. Empty where a part is: the others are not the whole. None where there is no box, or where the last one is
    not closed.
    """
    boxes = _boxes(text)
    if not boxes or boxes[-1].end is None:
        return None
    parts = [text[boxes[-1].start : boxes[-1].end].strip()]
    joined = boxes[-1]
    for box in reversed(boxes[:-1]):
        between = text[box.closing : joined.opening] if joined.opening - box.closing <= _MAX_JOINT else None
        if box.end is None or between is None or not _JOINT.fullmatch(between):
            break
        parts.insert(0, text[box.start : box.end].strip())
        joined = box
    if len(parts) > 1 and any(_NOTHING.fullmatch(part) for part in parts):
        return ""
    return parts[0] if len(set(parts)) == 1 else ", ".join(parts)


def _boxes(text: str) -> list[_Box]:
    """All boxes, in the order in which they begin."""
    found: list[_Box] = []
    open_braces: list[int | None] = []  # which box a brace opens; None for any other brace
    for token in _TOKEN.finditer(text):
        content = token.group()
        if token.group(1):
            open_braces.append(len(found))
            found.append(_Box(token.end(), opening=token.start()))
        elif content == "{":
            open_braces.append(None)
        elif content == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None:
                found[box] = _Box(found[box].start, token.start(), found[box].opening, token.end())
        elif content.endswith(("boxed", "fbox", "framebox")) or content[-1].isspace():
            argument = _UNBRACED.match(text, token.end())
            if argument is not None and len(content) > 2:
                end = argument.start() + len(argument.group().rstrip(",;."))  # they are the sentence's
                found.append(_Box(argument.start(), end, token.start(), end))
            elif len(content) > 2 and _NOTHING_MORE.match(text, token.end()):
                found.append(_Box(token.end(), opening=token.start()))  # cut off before what it was to hold
    return found
