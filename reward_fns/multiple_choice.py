r"""Multiple choice: is the letter that the response settles on the right one?"""

import re
from numbers import Integral
from typing import Any

from ctwa.data.boxed import final_answer
from ctwa.instructions.text import shown

# What may stand around the letter where it is named: marks, bold type, the brackets of a formula.
_COMMAND = r"\\(?:text|math)\w*"
_OPENS = rf"(?:{_COMMAND}\{{|\\[(\[]|[$*_({{\[\"“\s])*+"
# "a.m." begins with no choice, nor do "A*x" and "A_n".
_CLOSES = r"(?:\\[)\]]|[)\]:、。]|\.(?!\w\.)|[}$*_\"”]++(?![^\W_]|\{))"
_LETTER = r"([^\W\d_])"
# The letter and nothing else, or behind a mark the choice's text: "A dog" begins with a word.
_CHOICE = re.compile(rf"{_OPENS}{_LETTER}(?:\s*(?:\Z|{_CLOSES})|\s+[–—-]\s)")
# "a" and "i" with a word behind them are words: "the answer is a matter of taste".
_DECLARED = re.compile(
    r"(?:\b(?:answer|choice|option)\b(?:\s++(?:is|would be|must be))?+|答案[是为选]?+)"
    rf"\s*+:?+{_OPENS}{_LETTER}(?![\w'’])(?!(?<=(?-i:[\s:][ai]))\s+\w)",
    re.IGNORECASE,
)
_TAG, _END_TAG = re.compile("<answer>", re.IGNORECASE), re.compile("</answer>", re.IGNORECASE)
_THOUGHT_ENDS = "</think>"
_MAX_TEXT = 200  # characters of a choice's text


def multiple_choice(response: str, ground_truth: Any, choices: str = "ABCDEFGHIJ") -> float | None:
    r"""1 where the response settles on the letter of the ground truth, else 0; None where that is no letter of these.

    The letter is that of the first of these that names one: the last `\boxed{B}`, `<answer>B</answer>`, the last line
    with "the answer is (B)", a last line `B` or `B. its text`. One that names several, `(A) or (B)`, settles on none.

    Args:
        response: the response.
        ground_truth: the letter, as `B` or `(B)`, or its number from 0. A text `1` is neither: some data sets label
            choices so, from 1.
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
    if isinstance(ground_truth, Integral) and not isinstance(ground_truth, bool):  # numpy's too
        ground_truth = int(ground_truth)
        return choices[ground_truth] if 0 <= ground_truth < len(choices) else None
    letter = str(ground_truth).strip().strip("().").upper()
    return letter if len(letter) == 1 and letter in choices else None


def _settled(response: str, choices: str) -> str | None:
    tagged = [_END_TAG.split(piece, maxsplit=1) for piece in _TAG.split(response)[1:]]
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    for places in (
        [_CHOICE.match(final_answer(response) or "")],
        [_CHOICE.match(inside) for inside, *closed in tagged if closed],
        *(_DECLARED.finditer(line) for line in reversed(lines)),
        [_CHOICE.match(line) for line in lines[-1:]],
    ):
        letters = {letter for found in places if found for letter in _letters(found, choices)}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None


def _letters(found: re.Match[str], choices: str) -> list[str]:
    """The letter that is found, and those that are named beside it.

    Letters within a choice's text are text, `D. Both A and B`; `A or B`, `(A)(B)` and `A. a dog B. a cat` name two.
    """
    letter, behind = found[1].upper(), found.string[found.end(1) : found.end(1) + _MAX_TEXT]
    if letter not in choices:
        return []
    gap, other = rf"(?:{_COMMAND}|[\W_])*+", f"([{choices}])(?![\\w'’])"
    joint = rf"(?:[^\w,;/&+]*+[,;/&+]|{gap}(?:or|and)\b)"
    joined = re.match(rf"{joint}{gap}{other}(?!(?<=[AI])\s+(?!or\b|and\b)[a-z])", behind)  # "B, A is wrong"
    label = re.match(rf"{gap}{other}\s*(?:[)\]]|\.(?!(?:\s*\w\.)*+\s*\w\w))", behind)  # none: "B. E. coli"
    # A list goes on with a later letter; a text refers to earlier ones: "(D) Both (A) and (B)".
    listed = re.findall(rf"\w\W++([{choices[choices.index(letter) :]}])[).:]+\s+\S", behind)
    return [letter, *(each[1] for each in (joined, label) if each), *listed]
