"""How a completion is read: its words, sentences and bullets, and whether it is an answer at all."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_BULLET = re.compile(r"^[ \t]*(?:[-*•·+]|\d{1,2}[.)])[ \t]+(?=\S)")
# A sentence ends with its mark and the quotes and brackets that close with it, before white space or the end.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*]*(?=\s|$)")
# What ends a text of prose; a bracket that closes JSON, and a code fence, too.
_CLOSED = re.compile(r"(?:[.!?…][\"'”’)\]*_]*|[}\]]|```)$")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|vs|etc|e\.g|i\.e)\.$")

MIN_WORDS = 5
"""Different words that an answer has at least: fewer say nothing about a subject."""
MAX_ECHO = 0.5
"""Share of an answer's runs of four words that may stand in the prompt as they are."""


def words(text: str) -> list[str]:
    """The words in lower case; a number is one, and so is ``don't`` or ``well-known``."""
    return [word.replace("’", "'").lower() for word in _WORD.findall(text)]


def lines(text: str) -> list[str]:
    """The lines with something in them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def is_bullet(line: str) -> bool:
    """Whether a line begins with ``-``, ``*``, ``•``, ``+`` or a number, and something follows."""
    return _BULLET.match(line) is not None


def bullets(text: str) -> list[str]:
    """What the bullets say, each without its mark."""
    return [_BULLET.sub("", line) for line in lines(text) if is_bullet(line)]


def sentences(text: str) -> list[str]:
    """The sentences: pieces that a mark of punctuation or the end of a line closes, with a word in each."""
    found = []
    for line in lines(text):
        start = 0
        content = _BULLET.sub("", line)
        for end in _SENTENCE_END.finditer(content):
            piece = content[start : end.end()].strip()
            if _ABBREVIATION.search(piece) and end.end() < len(content):
                continue
            found.append(piece)
            start = end.end()
        found.append(content[start:].strip())
    return [piece for piece in found if words(piece)]


def is_closed(text: str) -> bool:
    """Whether the text ends where something ends: a sentence, a bracket, a code fence, or an item of a list."""
    last = lines(text)[-1:]
    return bool(last) and (_CLOSED.search(last[0]) is not None or (is_bullet(last[0]) and last[0][-1].isalnum()))


def runs_of(items: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Every run of so many neighbours."""
    return [tuple(items[start : start + length]) for start in range(len(items) - length + 1)]


def echo(text: str, prompt: str) -> float:
    """The share of the text's runs of four words that are the prompt's, from 0 to 1."""
    said = runs_of(words(text), 4)
    asked = set(runs_of(words(prompt), 4))
    return sum(run in asked for run in said) / len(said) if said else 0.0


def is_answer(text: str, prompt: str) -> bool:
    """Whether the text says something of its own: enough different words, and not the prompt again."""
    return len(set(words(text))) >= MIN_WORDS and echo(text, prompt) <= MAX_ECHO
