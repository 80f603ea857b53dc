"""What an answer is once it has been read: expressions, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal


class Unreadable(Exception):
    """A text, or a part of it, that is no answer in a notation that is known here; or one too large to work out."""

    def __init__(self, reason: str) -> None:
        # It quotes the text, in which half a surrogate pair may stand; logs and files cannot hold that.
        super().__init__(reason.encode(errors="backslashreplace").decode())


@dataclass(frozen=True)
class Number:
    r"""A literal: 7, 1,000, 0.25, or 0.\overline{3}.

    Attributes:
        value: what it says, exactly.
        places: digits after the point; None where it was written without one, or with a period.
        error: how far what was meant may be from the value, of a number that was rounded when it was stored.
    """

    value: Fraction
    places: int | None = None
    error: Fraction = Fraction(0)


@dataclass(frozen=True)
class Based:
    """A number in another base, such as 31_5."""

    digits: str
    base: int


@dataclass(frozen=True)
class Symbol:
    """A variable, with its subscript, primes and accents; or one of the constants of ``values``."""

    name: str


@dataclass(frozen=True)
class Operation:
    """An operation or a function, by name, of its arguments."""

    name: str
    arguments: tuple[Expression, ...]


Expression = Number | Based | Symbol | Operation


@dataclass(frozen=True)
class Unit:
    """Unit words with their powers, sorted: 20 m/s has (m, 1), (s, -1).

    Attributes:
        powers: the words and their powers.
        only_counts: they only say what there are so many of, and may be left out.
    """

    powers: tuple[tuple[str, int], ...]
    only_counts: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Quantity:
    """An expression, and its unit where one is written."""

    value: Expression
    unit: Unit | None = None


@dataclass(frozen=True)
class Phrase:
    """Words, perhaps with numbers among them: a name, a choice, a sentence."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Collection:
    """Several answers.

    Attributes:
        kind: ``list``: 1, 2 without brackets; ``set``: in braces; ``tuple``: in parentheses, or in angle brackets.
        items: the answers.
        joined_by: ``or``, ``and`` or ``,`` of a list.
    """

    kind: Literal["list", "set", "tuple"]
    items: tuple[Answer, ...]
    joined_by: str = ","


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``; the ends that belong to it are closed."""

    low: Expression
    high: Expression
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True)
class Region:
    """A set of real numbers: a union of intervals and points; with its variable where it was an inequality."""

    pieces: tuple[Interval, ...]
    variable: str | None = None


@dataclass(frozen=True)
class Matrix:
    """A matrix, or a vector."""

    rows: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality, perhaps a chain: members[0] operators[0] members[1] ..."""

    members: tuple[Answer, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Ratio:
    """2:3, 1:2:4, or a time such as 3:30, of the ``half`` am or pm."""

    parts: tuple[Expression, ...]
    has_clock_form: bool = False
    half: str = ""


Answer = Quantity | Phrase | Collection | Interval | Region | Matrix | Relation | Ratio

NEGATIVE_INFINITY = Operation("negative", (Symbol("infinity"),))
INFINITY = Symbol("infinity")
