r"""Accuracy: does the last ``\boxed{...}`` of the response equal the ground truth, as a number or as an expression?

1 or 0, or None where the ground truth itself cannot be read (a fault of the data, not of the response).
"""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from ctwa.objectives.answers import last_boxed

# A longer answer is no answer, and would cost the algebra system minutes.
MAX_ANSWER_CHARACTERS = 500

_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")

# It warns that its timeouts are off. They are, on purpose: they are alarms, and every reward call has a deadline here.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def accuracy(response: str, ground_truth: str) -> float | None:
    """Compare the response's final answer with the ground truth: as text, as numbers, then symbolically."""
    gold = str(ground_truth).strip().strip("$").strip()
    gold_number = _number(gold)
    if gold_number is None and not _parsed_gold(gold):
        return None
    answer = last_boxed(response)
    if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
        return 0.0
    if answer == gold:
        return 1.0
    answer_number = _number(answer)
    if gold_number is not None and answer_number is not None:
        if gold_number == answer_number:
            return 1.0
        if gold_number.denominator == answer_number.denominator == 1:
            return 0.0
    return float(verify(_parsed_gold(gold), _parsed(answer), timeout_seconds=None))


def _number(text: str) -> Fraction | None:
    """A plain number such as 7, -1,000 or 0.25, which needs no algebra system."""
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _parsed(expression: str) -> list[Any]:
    return parse(f"${expression}$", fallback_mode="no_fallback", parsing_timeout=None)


@lru_cache(maxsize=4096)  # a prompt's completions share it
def _parsed_gold(expression: str) -> list[Any]:
    return _parsed(expression)
