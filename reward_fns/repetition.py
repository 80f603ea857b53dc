"""Repetition: how much of the response has been said in it before?"""

import re

from ctwa.instructions.text import runs_of, shown

# Words, marks of punctuation one by one, and characters of scripts that put no spaces between words.
_PIECE = re.compile(r"[぀-ヿ㐀-鿿가-힯฀-๿]|[^\W぀-ヿ㐀-鿿가-힯฀-๿]+|[^\w\s]")
_LONGEST_WORD = 24  # a longer one is taken apart: a word without end is no word


def repetition(response: str, n: int = 4, penalty: float = -1.0) -> float:
    """From 0, where no run of n words comes twice, to the penalty, where all is one run.

    The share of the runs that came before, as in Yeo et al. 2025 (arXiv 2502.03373); marks of punctuation are words.

    Args:
        response: the response.
        n: the length of a run in words.
        penalty: the value of repeating all.
    """
    pieces: list[str] = []
    for piece in _PIECE.findall(shown(response).lower()):
        pieces.extend(piece if len(piece) > _LONGEST_WORD else [piece])
    runs = runs_of(pieces, n)
    return penalty * (1 - len(set(runs)) / len(runs)) if runs else 0.0


def check_repetition(n: int = 4, penalty: float = -1.0) -> None:
    """Refuse what would pay for repeating."""
    if n < 1 or penalty > 0:
        raise ValueError(f"n={n}, penalty={penalty:g}: write n at least 1, and a penalty of at most 0")
