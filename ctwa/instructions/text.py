"""How a completion is read: its words, sentences and bullets, and whether it is an answer at all."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from ctwa.strict import once_each

# Bounded, for marks that combine are sorted, which takes the square of their number.
_NORMALISED_TOGETHER = re.compile(r"\S{1,1000}|\s+")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_BULLET = re.compile(r"^[ \t]*(?:[-–*•·+◦○●▪■‣]|(?:\*\*)?\(?\d{1,2}[.)](?:\*\*)?)[ \t]+(?=\S)")
# A sentence ends with its mark and the quotes and brackets that close with it, before white space, the end, or the next
# sentence where the space is missing.
# Each run of marks is looked at once: an answer of nothing but dots takes no longer than another.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]*]*+(?=\s|$)|(?<=[a-z])[.!?](?=[A-Z][a-z])")
_NEXT = re.compile(r"\S")
# It goes on behind an ellipsis, a quotation or `a.m.` where a small letter follows.
_GOES_ON = re.compile(r"(?:\.\.+|…|[.!?…][\"”]|\b[A-Za-z]\.[A-Za-z]\.)$")
# What ends a text of prose; a bracket that closes JSON, and a code fence, too.
_CLOSED = re.compile(r"(?:[.!?…][\"'”’)\]*_]*|[}\]]|```)$")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|approx|e\.g|i\.e)\.$")
# A capital is an initial at the beginning and behind a name or another one; `vitamin C.` ends a sentence.
_INITIAL = re.compile(r"(?:^|[A-Z][\w’'-]*\.?\s|[A-Z]\.)[A-Z]\.$")

_FENCE = "```"
_MAX_PARTS = 4  # of a compound: state-of-the-art

MIN_WORDS = 5
"""Different words that an answer has at least: fewer say nothing about a subject."""
MAX_ECHO = 0.5
"""Share of an answer's runs of four words that may stand in the prompt as they are."""


def shown(text: str) -> str:
    """What is seen of a text: without invisible characters, and with letters for characters that only look different.

    Else a zero-width space in a forbidden word hides it, and capitals of a mathematical alphabet are small ones.
    """
    if text.isascii():
        return text
    normalised = "".join(unicodedata.normalize("NFKC", piece) for piece in _NORMALISED_TOGETHER.findall(text))
    return "".join(each for each in normalised if unicodedata.category(each) != "Cf")


def words(text: str) -> list[str]:
    """The words in lower case; a number is one, and so is ``don't`` or ``well-known``, but no whole sentence is."""
    found = [word.replace("’", "'").lower() for word in _WORD.findall(text)]
    return [part for word in found for part in (word.split("-") if word.count("-") >= _MAX_PARTS else [word])]


def lines(text: str) -> list[str]:
    """The lines with something in them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def is_bullet(line: str) -> bool:
    """Whether a line begins with ``-``, ``*``, ``•``, ``+`` or a number, and something follows."""
    return _BULLET.match(line) is not None


def parts(text: str) -> list[str]:
    """The words, each part of a compound for itself: ``water-based`` has ``water`` in it."""
    return [part for word in words(text) for part in word.split("-")]


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
            last, following = piece[-40:], _NEXT.search(content, end.end())
            if following and (_ABBREVIATION.search(last) or _INITIAL.search(last)):
                continue
            if following and following[0].islower() and _GOES_ON.search(last):
                continue
            found.append(piece)
            start = end.end()
        found.append(content[start:].strip())
    return [piece for piece in found if words(piece)]


def joined(pieces: Sequence[str], num_words: int) -> list[str]:
    """Neighbours joined until each has so many words; what is left over at the end goes to the last."""
    found: list[str] = []
    current = ""
    for piece in pieces:
        current = f"{current} {piece}".strip()
        if len(words(current)) >= num_words:
            found.append(current)
            current = ""
    if current and found:
        found[-1] += f" {current}"
    return found


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


def json_in(text: str) -> Any:
    """The JSON value that a text is; a code fence around it is none of it.

    Raises:
        ValueError: it is none, has a key twice or a number that JSON does not have, or goes too deep.
    """
    text = text.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) > 2 * len(_FENCE):
        text = text.removeprefix(_FENCE).removesuffix(_FENCE)
        text = text[len("json") :] if text[: len("json")].lower() == "json" else text
    try:
        return json.loads(text, object_pairs_hook=once_each, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("too deep") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
