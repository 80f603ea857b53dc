r"""Clarity: does the response set out its steps, and end in an answer?

1 if there are at least two explicit steps in order, and a closed, non-empty ``\boxed{...}``; else 0. Steps are

* labels ``Step 1: ...``, ``Step 2: ...`` (also as a heading or in bold),
* lines that begin with ``1.``, ``2)``, ``(3)``, or ``a)``, ``b)``, or ``i.``, ``ii.``,
* sentences that begin with ``First`` and, later, ``Second``, ``Next``, ``Then``, ``After that``, ``Finally``, ...

The first of two steps must say something. It is a surface measure all the same: an outline that computes nothing
passes.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from ctwa.data.boxed import last_boxed
from ctwa.instructions.text import shown

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ROMANS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")

# Repetitions are possessive (`*+`): tried in every length, they would take minutes over a page of spaces.
# Where a line may begin: after indentation, quote and heading marks, bullets, and the opening of bold type.
_LINE = r"^[ \t>#*_-]*+(?:\\textbf\{)?"
_LABEL = r"[ \t]*+[*_}]*+[ \t]*+"
_STEP = re.compile(
    rf"(?:\b(?:Step|STEP)[ \t]++(\d++|{'|'.join(_WORDS)}){_LABEL}:"  # anywhere, as 'Step 2:'
    rf"|{_LINE}(?i:step)[ \t]++(\d++|(?i:{'|'.join(_WORDS)})){_LABEL}(?:[:.)–—-]|$))",  # as a line's label or heading
    re.MULTILINE,
)
_LISTED = re.compile(rf"{_LINE}\(?(\d{{1,2}}|[a-zA-Z]|[ivx]{{2,4}})[.)](?=[*_}}]*+\s)", re.MULTILINE)
_SEQUENCE = re.compile(
    r"(?:^|[.!?:]\s++|\n)[ \t>#*_-]*+"
    r"(?:(First(?:ly)?)|(Second(?:ly)?|Third(?:ly)?|Next|Then|After that|Afterwards|Finally|Lastly))\b"
)


def clarity(response: str) -> float:
    """1 for two explicit steps in order and a boxed answer, else 0."""
    response = shown(response)  # what cannot be seen is no answer
    return float(bool(last_boxed(response)) and (_has_labelled_steps(response) or _has_sequence(response)))


def _has_labelled_steps(text: str) -> bool:
    steps = [(match, match.group(1) or match.group(2)) for match in _STEP.finditer(text)]
    listed = [(match, match.group(1)) for match in _LISTED.finditer(text)]
    numbers = tuple(str(number) for number in range(100))
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    return any(
        _has_consecutive(labels, order, text)
        for labels, orders in ((steps, (numbers, _WORDS)), (listed, (numbers, letters, _ROMANS)))
        for order in orders
    )


def _has_consecutive(labels: Sequence[tuple[re.Match[str], str]], order: Sequence[str], text: str) -> bool:
    """Whether a label is followed by the next one in ``order``, with something said between them."""
    placed = [(match, order.index(label.lower())) for match, label in labels if label.lower() in order]
    return any(
        second[1] == first[1] + 1 and _says_something(text[first[0].end() : second[0].start()])
        for first, second in pairwise(placed)
    )


def _has_sequence(text: str) -> bool:
    opening: int | None = None
    for match in _SEQUENCE.finditer(text):
        if match.group(1) is not None:
            opening = match.end()
        elif opening is not None and _says_something(text[opening : match.start()]):
            return True
    return False


def _says_something(text: str) -> bool:
    return any(character.isalnum() for character in text)
