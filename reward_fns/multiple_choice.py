r"""Multiple choice: is the letter that the response settles on the right one?"""

import re
from typing import Any

from ctwa.instructions.text import shown

# What may stand around the letter where it is named: a mark, a box, bold type, the choice's text behind it.
_LETTER = r"(?:\\(?:text|math)\w*\{|[$*_(\[\"“\s])*+([A-Za-z])"  # with what may open before it
_BOXED = re.compile(rf"\\boxed\{{{_LETTER}(?:[)\]}}\s]*\}}|[)\]}}]*[).:][^{{}}]*\}})")
_TAGGED = re.compile(rf"<answer>{_LETTER}[)\]}}$*_\"”]*\s*(?:[).:–—-][^<]*)?</answer>", re.IGNORECASE)
# "a" and "i" with a word behind them are words: "the answer is a matter of taste".
_DECLARED = re.compile(
    rf"\b(?:answer|choice|option)\b(?:\s++(?:is|would be|must be))?+\s*+:?+{_LETTER}(?![\w'’])"
    r"(?!(?<=(?-i:[\s:][ai]))\s+\w)",
    re.IGNORECASE,
)
_ALONE = re.compile(r"[*_(\[\"“]*([A-Za-z])[)\].:*_\"”]*(?:\s.*)?")
_OTHERS = re.compile(r"\b(?:or|and|either|both|not)\b|[/,&]", re.IGNORECASE)
_THOUGHT_ENDS = "</think>"


def multiple_choice(response: str, ground_truth: Any, choices: str = "ABCDEFGHIJ") -> float | None:
    r"""1 where the response settles on the letter of the ground truth, else 0; None where that is no letter of these.

    The letter is the last of the first of these that there is: `\boxed{B}`, `<answer>B</answer>`, "the answer is (B)",
    a last line `B` or `B. its text`. A line that names several, or denies one, settles on none.

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
    for pattern in (_BOXED, _TAGGED):
        if found := pattern.findall(response):
            return str(found[-1]).upper() if len(set(map(str.upper, found))) == 1 else None
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    for line in reversed(lines):
        named = {letter for letter in _DECLARED.findall(line) if letter.upper() in choices}
        if named and (len(named) > 1 or _names_others(line, choices)):
            return None
        if named:
            return named.pop().upper()
    last = _ALONE.fullmatch(lines[-1]) if lines else None
    if last is None or _names_others(lines[-1], choices):
        return None
    # "A dog is an animal" begins with a word, not with a letter of the choices.
    is_marked = len(lines[-1]) == 1 or not lines[-1][last.end(1)].isspace()
    return last[1].upper() if is_marked else None


def _names_others(line: str, choices: str) -> bool:
    letters = set(re.findall(rf"(?<![\w'’])[{re.escape(choices)}](?![\w'’])", line))
    letters.discard("I")
    return len(letters) > 1 or (bool(letters) and _OTHERS.search(_between(line, letters.pop())) is not None)


def _between(line: str, letter: str) -> str:
    """What stands right around the letter: words that add another or deny it."""
    at = line.find(letter)
    return line[max(0, at - 5) : at]
