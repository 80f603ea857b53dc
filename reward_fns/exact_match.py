"""Exact match: is the answer the ground truth, letter for letter or in the manner of SQuAD?"""

import re
import unicodedata
from collections.abc import Sequence
from numbers import Number
from typing import Any

from ctwa.data.answers import without_thousands
from ctwa.instructions.text import shown
from ctwa.objectives.final import Place, final_text

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_HYPHEN_OR_MINUS = re.compile("[‐‑‒–−]")
_SIGN = re.compile(r"(^|[^\w\s]\s*)-\s+(?=\.?\d)")  # with space behind it, as in "x = - 5"
_COMMA_OF_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def exact_match(response: str, ground_truth: Any, place: Place = "whole", normalise: bool = True) -> float | None:
    """1 where the answer is the ground truth, or one of a list of them, else 0; None without a ground truth.

    A number's sign and its point count; the commas of its thousands do not.

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
        # At these places a number of the response has lost its commas.
        as_there = without_thousands if place in ("hashes", "last_number") else str
        return float(answer in (as_there(text.strip()) for text in texts))
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
    text = _SIGN.sub(r"\1-", _HYPHEN_OR_MINUS.sub("-", shown(text).lower()).strip())
    text = _COMMA_OF_THOUSANDS.sub("", text)
    kept = "".join(" " if _is_mark(text, at) else character for at, character in enumerate(text))
    return " ".join(_ARTICLES.sub(" ", kept).split()) or " ".join(text.split())


def _is_mark(text: str, at: int) -> bool:
    """Punctuation, but for what belongs to a number: a minus before it, its point, a comma within."""
    if not unicodedata.category(text[at]).startswith("P"):
        return False
    before, after, next_but_one = text[at - 1 : at], text[at + 1 : at + 2], text[at + 2 : at + 3]
    if text[at] in ".," and after.isdigit():
        return not before.isdigit() and (text[at] == "," or before.isalpha() or before == ".")
    begins_number = after.isdigit() or (after == "." and next_but_one.isdigit())
    return not (text[at] == "-" and begins_number and not before.isalnum())
