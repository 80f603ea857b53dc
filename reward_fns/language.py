"""Language: is the response written in the language that was asked for?"""

import re
from collections.abc import Sequence

from ctwa.instructions.languages import language_of
from ctwa.instructions.text import shown

# Code and formulas are of no language.
_OF_NONE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|https?://\S+", re.DOTALL)
_END = re.compile(r"(?<=[.!?。！？…])\s*|\n+")
_FEW = 20  # letters of a passage at least: fewer tell little


def language(response: str, code: str = "en", among: Sequence[str] | None = None) -> float:
    """The share of the response's letters that stand in passages of the language, from 0 to 1.

    A passage is a sentence, or several short ones. Code, formulas and addresses do not count; a response of fewer than
    20 letters has 0.

    Args:
        response: the response.
        code: the language's code (ISO 639-1), such as en, de, zh.
        among: codes of the languages that may come; all 97 that are known by default. Fewer are told apart better.
    """
    passages = _passages(_OF_NONE.sub(" ", shown(response)))
    total = sum(map(_letters, passages))
    if total < _FEW:
        return 0.0
    return sum(_letters(each) for each in passages if language_of(each, among)[0] == code) / total


def check_language(code: str = "en", among: Sequence[str] | None = None) -> None:
    """Refuse languages that are not known."""
    if among is not None and (isinstance(among, str) or not among):
        raise ValueError(f"among={among!r}: write a list of codes")
    if among is not None and code not in among:
        raise ValueError(f"code={code} is not among {list(among)}: add it there")
    try:
        language_of("", [code, *(among or ())])
    except ValueError as error:
        raise ValueError(f"{error}: write codes of ISO 639-1 in small letters, such as en, de, zh") from error


def _passages(text: str) -> list[str]:
    """Sentences, joined until each has enough letters; what is left over at the end goes to the last."""
    passages: list[str] = []
    pieces: list[str] = []
    num_letters = 0
    for piece in _END.split(text):
        pieces.append(piece)
        num_letters += _letters(piece)
        if num_letters >= _FEW:
            passages.append(" ".join(pieces))
            pieces, num_letters = [], 0
    if num_letters and passages:
        passages[-1] += " " + " ".join(pieces)
    return passages


def _letters(text: str) -> int:
    return sum(character.isalpha() for character in text)
