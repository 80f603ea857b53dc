r"""Multiple choice: is the letter that the response settles on the right one?"""

import re
from typing import Any

from ctwa.data.boxed import final_answer
from ctwa.instructions.text import shown

# What may stand around the letter where it is named: marks, bold type, the brackets of a formula.
_OPENS = r"(?:\\(?:text|math)\w*\{|\\[(\[]|[$*_({\[\"“\s])*+"
_CLOSES = r"(?:\\[)\]]|[)\]}$*_.:、\"”])++"
_LETTER = r"([^\W\d_])"
# The letter and nothing else, or behind a mark the choice's text: "A dog" begins with a word.
_CHOICE = re.compile(rf"{_OPENS}{_LETTER}(?:\s*\Z|\s+[–—-]\s|{_CLOSES}(?![A-Za-z]))")
# "a" and "i" with a word behind them are words: "the answer is a matter of taste".
_DECLARED = re.compile(
    r"(?:\b(?:answer|choice|option)\b(?:\s++(?:is|would be|must be))?+|答案[是为选]?+)"
    rf"\s*+:?+{_OPENS}{_LETTER}(?![\w'’])(?!(?<=(?-i:[\s:][ai]))\s+\w)",
    re.IGNORECASE,
)
_TAG, _END_TAG = re.compile("<answer>", re.IGNORECASE), re.compile("</answer>", re.IGNORECASE)
_THOUGHT_ENDS = "</think>"


def multiple_choice(response: str, ground_truth: Any, choices: str = "ABCDEFGHIJ") -> float | None:
    r"""1 where the response settles on the letter of the ground truth, else 0; None where that is no letter of these.

    The letter is that of the first of these that there is: the last `\boxed{B}`, `<answer>B</answer>`, the last line
    with "the answer is (B)", a last line `B` or `B. its text`. A place that names several settles on none.

    Args:
        response: the response.
        ground_truth: the letter, as `B` or `(B)`, or its number from 0.
        choices: the letters that there are.
    """
    choices = choices.upper()
    gold = _letter_of(ground_truth, choices)
    if gold is None:
        return None
    return float(_settled(shown(response).rpartition(_THOUGHT_ENDS)[2], choices) == gold)


def check_multiple_choice(choices: Any = "ABCDEFGHIJ") -> None:
    """Refuse what is no row of letters."""
    if not isinstance(choices, str) or not choices.isalpha() or len(set(choices.upper())) < len(choices):
        raise ValueError(f"choices={choices!r}: write their letters as one text, each once, e.g. ABCD")


def _letter_of(ground_truth: Any, choices: str) -> str | None:
    if isinstance(ground_truth, int) and not isinstance(ground_truth, bool):
        return choices[ground_truth] if 0 <= ground_truth < len(choices) else None
    letter = str(ground_truth).strip().strip("().").upper()
    return letter if len(letter) == 1 and letter in choices else None


def _settled(response: str, choices: str) -> str | None:
    tagged = [_END_TAG.split(piece, maxsplit=1) for piece in _TAG.split(response)[1:]]
    for places in ([final_answer(response) or ""], [inside for inside, *closed in tagged if closed]):
        letters = {letter for place in places if (letter := _letter_in(place, choices))}
        if len(letters) > 1 or any(_names_several(place, choices) for place in places):
            return None
        if letters:
            return letters.pop()
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    for line in reversed(lines):
        letters = {letter.upper() for letter in _DECLARED.findall(line) if letter.upper() in choices}
        if letters:
            return None if len(letters) > 1 or _names_several(line, choices) else letters.pop()
    return None if not lines or _names_several(lines[-1], choices) else _letter_in(lines[-1], choices)


def _letter_in(place: str, choices: str) -> str | None:
    found = _CHOICE.match(place)
    return found[1].upper() if found and found[1].upper() in choices else None


def _names_several(place: str, choices: str) -> bool:
    """Whether two letters stand together (A or B; A, B), or two as labels (A) ... B) ...): `(B) vitamin C` is one."""
    letter = rf"(?<![\w'’])[{re.escape(choices)}](?![\w'’])"
    joined = rf"{letter}[\W_]*+(?:\b(?:or|and)\b[\W_]*+)?+{letter}(?!(?<=[AI])\s+(?!or\b|and\b)[a-z])"  # "B. A dog"
    labels = re.findall(rf"({letter})[).:]+\s+\S", place)
    return len(set(labels)) > 1 or re.search(joined, place) is not None
