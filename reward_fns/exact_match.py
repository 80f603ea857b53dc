"""Exact match: is the answer the ground truth, letter for letter or in the manner of SQuAD?"""

import re
import unicodedata
from collections.abc import Sequence
from numbers import Number
from typing import Any

from ctwa.instructions.text import shown
from ctwa.objectives.final import Place, final_text

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def exact_match(response: str, ground_truth: Any, place: Place = "whole", normalise: bool = True) -> float | None:
    """1 where the answer is the ground truth, or one of a list of them, else 0; None without a ground truth.

    Args:
        response: the response.
        ground_truth: a text or a number, or a list of those that are all right.
        place: where the answer stands: whole, tags (`<answer>`), boxed, hashes (`####`), last_line, last_number.
        normalise: small letters, without punctuation, articles and further spaces, as SQuAD's metric has it.
    """
    golds = (
        ground_truth
        if isinstance(ground_truth, Sequence) and not isinstance(ground_truth, str | bytes)
        else [ground_truth]
    )
    texts = [text for gold in golds for text in _texts_of(gold)]
    if not texts:
        return None
    answer = final_text(response, place)
    if answer is None:
        return 0.0
    if not normalise:
        return float(answer in (text.strip() for text in texts))
    plain = _plain(answer)
    return float(any(plain == _plain(text) for text in texts) and bool(plain))


def check_exact_match(place: Place = "whole", normalise: bool = True) -> None:
    """Refuse a place that there is not."""
    del normalise
    final_text("", place)


def _texts_of(gold: Any) -> list[str]:
    """How a ground truth may be written: a number with a point behind it also without; none where it is no answer."""
    if not isinstance(gold, str | Number) or gold != gold or not str(gold).strip():
        return []
    is_whole = isinstance(gold, float) and gold.is_integer()
    return [str(gold), *([f"{gold:.0f}"] if is_whole else [])]


def _plain(text: str) -> str:
    text = shown(text).lower()
    kept = "".join(" " if _is_mark(text, at) else character for at, character in enumerate(text))
    return " ".join(_ARTICLES.sub(" ", kept).split()) or " ".join(text.split())


def _is_mark(text: str, at: int) -> bool:
    """Punctuation, but for what belongs to a number: a minus before it, a point or a comma within."""
    if not unicodedata.category(text[at]).startswith("P"):
        return False
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if text[at] in ".," and before.isdigit() and after.isdigit():
        return False
    return not (text[at] == "-" and after.isdigit() and not before.isalnum())
