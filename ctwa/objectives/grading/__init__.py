r"""Grades a final answer against the ground truth, for answers written as in MATH (LaTeX in ``\boxed{...}``).

In this order: the final answer is taken out of the response (``ctwa.data.boxed``); equal texts are equal
answers; plain numbers are compared as fractions; both texts are brought to plain LaTeX (``notation``), cut into tokens
(``tokens``), read whole (``expressions``, ``reading``), brought to one form (``canonical``), and compared by kind
(``compare``) and by value (``values``). Nothing is ever graded on a part of what is written.
docs/grader.md says what counts as equal.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cached_property, lru_cache
from numbers import Rational, Real
from typing import Any

import numpy as np

from ctwa.data.boxed import final_answer
from ctwa.objectives.grading.budget import TooMuchWork, bounded
from ctwa.objectives.grading.canonical import canonical, has_value
from ctwa.objectives.grading.compare import same
from ctwa.objectives.grading.nodes import Answer, Number, Quantity, Symbol, Unreadable
from ctwa.objectives.grading.notation import to_plain_latex
from ctwa.objectives.grading.reading import read

__all__ = ["Grade", "grade"]

# A longer answer is no answer: the longest of MATH has some 150 characters.
MAX_ANSWER_CHARACTERS = 500
MAX_GOLD_CHARACTERS = 2_000
FLOAT_TOLERANCE = Fraction(1, 10**12)  # of a ground truth that is a binary floating-point number, relative
MAX_EXPONENT = 10_000  # of ten, in a literal

_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
_WITH_EXPONENT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)[eE][+-]?\d+")
_MISSING = {"", "nan", "none", "null", "n/a", "#n/a", "na", "<na>", "nat", "[]"}
_CHOICE = re.compile(r"(?:[Oo]ption |[Cc]hoice |[Aa]nswer:? )?(?:\(([A-Za-z])\)|([A-Za-z])[).:]?)")
_LABELLED = re.compile(
    r"(?:\(([A-Z])\)|([A-Z])[).:])(?=\s)(?!\s+is (?:not|wrong|incorrect|false)\b)"
)  # (C) 12, and not (C) is wrong
_OTHER_CHOICE = re.compile(r"\([A-Z]\)|\b[A-Z][).:]|\b(?:and|or)\b")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|mbox|math(?:rm|bf|it|sf)|operatorname)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '.-]+[^\W\d_]+)*")
_GROUPS = re.compile(r"(?<![\d,])[1-9]\d{0,2}(?:,[1-9]\d\d)+(?![\d,])")
_SPACES = re.compile(r"\s+")
_IDLE_SPACE = re.compile(r"(?<![^\W_])\s+|\s+(?![^\W_])")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grade:
    """1 for a right answer, 0 for a wrong one, None for one that cannot be graded; with the reason, where it helps."""

    score: float | None
    reason: str = ""


@dataclass(frozen=True)
class _Gold:
    """A ground truth, read: its text, its plain LaTeX, and the answers it may be; or why there are none."""

    text: str
    latex: str
    readings: tuple[Answer, ...]
    problem: str = ""

    @cached_property
    def has_value(self) -> bool:
        """Whether one of the answers that it may be can be worked out."""
        try:
            with bounded():
                return any(has_value(reading) for reading in self.readings)
        except TooMuchWork:
            return False


def grade(response: str, ground_truth: Any) -> Grade:
    """Grade the final answer of a response, in no more than ``budget.MAX_OPERATIONS``, whatever the response."""
    gold = _gold_of(ground_truth)
    if gold is None:
        return Grade(None, f"the ground truth is no answer: {type(ground_truth).__name__} {ground_truth!r:.80}")
    answer = final_answer(response)
    if gold.text.lower() in _MISSING and (answer != gold.text or not answer):
        return Grade(None, f"the ground truth is no answer: {gold.text!r}")
    if answer is None:
        return Grade(0.0, "no complete box")
    if answer == gold.text:
        return Grade(1.0)
    if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
        return Grade(0.0, "an empty answer" if not answer else "an answer too long to be one")
    if _PLAIN_NUMBER.fullmatch(answer) and len(gold.readings) == 1:
        match gold.readings[0]:
            case Quantity(Number(value, places, error), None) if places is not None or value.denominator == 1:
                return Grade(float(abs(Fraction(answer.rstrip(".")) - value) <= error))
    try:
        with bounded():
            return _grade_text(answer, gold)
    except TooMuchWork:
        return _undecided(gold, "the answer takes too long to work out")


def _grade_text(answer: str, gold: _Gold) -> Grade:
    latex = to_plain_latex(answer)
    if latex and _squeezed(latex) == _squeezed(gold.latex):
        return Grade(1.0)
    ours, theirs = _choice(gold.latex), _choice(latex)
    if ours and theirs and (ours == theirs or (_is_marked(gold.latex) and ours.lower() == theirs.lower())):
        return Grade(1.0)
    if _same_letters(gold.latex, latex):
        return Grade(1.0)
    if gold.problem:
        return Grade(None, f"the ground truth cannot be read ({gold.problem}), and the answer is another text")
    readings, problem = _readings(answer, latex)
    if not readings:
        return Grade(0.0, f"the answer cannot be read ({problem})")
    verdicts: list[bool | None] = []
    for ours_read in gold.readings:
        for theirs_read in readings:
            try:
                verdicts.append(same(ours_read, theirs_read))
            except Unreadable:
                verdicts.append(None)
            if verdicts[-1]:
                return Grade(1.0)
    if None not in verdicts:
        return Grade(0.0)
    return _undecided(gold, "the answer has no value that can be worked out")


def _undecided(gold: _Gold, reason: str) -> Grade:
    """Whose fault it is that two answers could not be compared: the ground truth's if it has no value of its own."""
    if gold.has_value:
        return Grade(0.0, reason)
    return Grade(None, "the ground truth has no value that can be worked out, and the answer is written differently")


def _gold_of(ground_truth: Any) -> _Gold | None:
    """The ground truth, read; None where it is neither a text nor a finite number."""
    if isinstance(ground_truth, str):
        return _read_gold(ground_truth)
    if isinstance(ground_truth, bool) or not isinstance(ground_truth, Real | Decimal):
        return None
    if isinstance(ground_truth, Rational):
        return _rational_gold(int(ground_truth.numerator), int(ground_truth.denominator))
    if isinstance(ground_truth, Decimal):
        return _read_gold(str(ground_truth)) if ground_truth.is_finite() else None
    return _float_gold(ground_truth) if math.isfinite(ground_truth) else None


def _rational_gold(numerator: int, denominator: int) -> _Gold:
    bits = numerator.bit_length() + denominator.bit_length()
    if bits > 4 * MAX_GOLD_CHARACTERS:  # Python writes no number of more than 4300 digits
        return _Gold(text := f"a number of {bits} bits", text, (), "it is too long")
    return _read_gold(str(numerator) if denominator == 1 else f"{numerator}/{denominator}")


def _float_gold(number: Any) -> _Gold:
    """A binary floating-point number: it was rounded to its type, and perhaps worked out in it."""
    value = Fraction(*number.as_integer_ratio())
    step = abs(value - Fraction(*np.nextafter(number, type(number)(0)).as_integer_ratio()))
    error = max(step / 2, abs(value) * FLOAT_TOLERANCE)
    text = str(number)
    return _Gold(text, text, (Quantity(replace(_decimal_literal(text), value=value, error=error)),))


@lru_cache(maxsize=4096)  # a prompt's completions share it
def _read_gold(ground_truth: str) -> _Gold:
    text = ground_truth.strip()
    if len(text) > MAX_GOLD_CHARACTERS:
        return _Gold(text, text, (), "it is too long")
    latex = to_plain_latex(text)
    try:
        with bounded():
            readings, problem = _readings(text, latex)
    except TooMuchWork:
        readings, problem = [], "it takes too long to work out"
    if not readings and (letter := _choice(latex)):  # A) or \text{A) }12
        readings = [Quantity(Symbol(letter))]
    if not readings and text.lower() not in _MISSING:
        _log.warning("ground truth %r cannot be read (%s): only the same text is right", text[:100], problem)
    return _Gold(text, latex, tuple(readings), problem if not readings else "")


def _readings(text: str, latex: str) -> tuple[list[Answer], str]:
    """What a text may mean, and else why it cannot be read: 12,345 is one number, or two."""
    if _WITH_EXPONENT.fullmatch(text):
        try:
            return [Quantity(_decimal_literal(text))], ""
        except Unreadable as error:
            return [], str(error)
    readings: list[Answer] = []
    problem = ""
    is_ambiguous = _GROUPS.search(latex) is not None
    for groups_thousands in (True, False) if is_ambiguous else (True,):
        try:
            readings.append(canonical(read(latex, groups_thousands=groups_thousands)))
        except Unreadable as error:
            problem = problem or str(error)
    return readings, problem


def _decimal_literal(text: str) -> Number:
    try:
        decimal = Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        raise Unreadable("a number of too many digits") from None
    exponent = decimal.as_tuple().exponent
    assert isinstance(exponent, int)  # it is finite
    if abs(exponent) > MAX_EXPONENT:
        raise Unreadable("a number of too many digits")
    return Number(Fraction(decimal), max(0, -exponent))


def _squeezed(latex: str) -> str:
    """Without the spaces that say nothing: those that are not between two letters or digits."""
    return _IDLE_SPACE.sub("", _SPACES.sub(" ", latex))


def _same_letters(gold: str, answer: str) -> bool:
    r"""Whether a word in \text is the same word without it, in upper or lower case: Evelyn and \text{evelyn}."""
    ours, theirs = _TEXT.sub(r"\1", gold), _TEXT.sub(r"\1", answer)
    is_word = (ours, theirs) != (gold, answer) and len(ours.strip()) > 1
    return is_word and _WORDS.fullmatch(ours) is not None and ours.lower().split() == theirs.lower().split()


def _choice(latex: str) -> str | None:
    r"""The letter of an answer that is a choice: C, (C), C), \text{(C)}, and also (C) 12."""
    bare = _TEXT.sub(r"\1", latex).strip()
    if match := _CHOICE.fullmatch(bare):
        return match[1] or match[2]
    match = _LABELLED.match(bare)
    if match is None or _OTHER_CHOICE.search(bare, match.end()):
        return None
    return match[1] or match[2]


def _is_marked(latex: str) -> bool:
    return len(latex) > 1
