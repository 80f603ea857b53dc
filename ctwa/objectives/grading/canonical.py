r"""Brings answers that say the same in different forms to one form: \pm written out, inequalities as regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

from ctwa.objectives.grading import words
from ctwa.objectives.grading.nodes import (
    INFINITY,
    NEGATIVE_INFINITY,
    Answer,
    Collection,
    Expression,
    Interval,
    Matrix,
    Number,
    Operation,
    Phrase,
    Quantity,
    Ratio,
    Region,
    Relation,
    Symbol,
    Unit,
)
from ctwa.objectives.grading.rational import exact
from ctwa.objectives.grading.values import equal, is_defined, names_of, real

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_MAX_PIECES = 50
_Pieces = tuple[Interval, ...]
_End = tuple[Expression, bool]  # and whether it belongs to the interval
SHORT_PHRASE = 3  # words; longer ones may say the same in other words


def canonical(answer: Answer) -> Answer:
    """The form in which an answer is compared."""
    signs = _with_sign(answer, 1), _with_sign(answer, -1)
    if signs[0] != signs[1] and not isinstance(answer, Collection):
        return Collection("list", tuple(canonical(one) for one in signs), "or")
    match answer:
        case Collection():
            return _collection(answer)
        case Relation():
            return _relation(answer)
    return answer


def _collection(answer: Collection) -> Answer:
    items: list[Answer] = []
    for item in answer.items:
        form = canonical(item)
        inner = isinstance(form, Collection) and form.kind == "list" and answer.kind != "tuple"
        items += form.items if inner and isinstance(form, Collection) else [form]
    if answer.kind == "tuple" and any(isinstance(item, Collection) and item.kind == "list" for item in items):
        signs = _with_sign(answer, 1), _with_sign(answer, -1)
        if signs[0] != signs[1]:
            return Collection("list", tuple(canonical(one) for one in signs))
    if answer.kind == "set" and not items:
        return Region(())
    if answer.kind == "list" and len(items) > 1:
        if all(isinstance(item, Region) for item in items):
            return _joined([item for item in items if isinstance(item, Region)], answer.joined_by)
        if all(_is_interval(item) for item in items):  # (-\infty, 1] or [3, \infty)
            regions = [region for item in items if (region := as_region(item)) is not None]
            return Region(tuple(piece for region in regions for piece in region.pieces))
        if (total := _compound(items)) is not None:
            return total
    return Collection(answer.kind, tuple(items), answer.joined_by)


def _is_interval(answer: Answer) -> bool:
    """Whether an answer is an interval and can be no point: half-open, or with an infinite end."""
    match answer:
        case Interval():
            return True
        case Collection("tuple", (Quantity(low, None), Quantity(high, None))):
            return low == NEGATIVE_INFINITY or high == INFINITY
    return False


def _joined(regions: list[Region], joined_by: str) -> Answer:
    variables = {region.variable for region in regions}
    if len(variables) != 1:
        return Collection("list", tuple(regions), joined_by)
    whole = regions[0]
    if joined_by == "and" or (joined_by == "," and whole.variable):
        for region in regions[1:]:
            pieces = _intersection(whole.pieces, region.pieces)
            if pieces is None:
                return Collection("list", tuple(regions), joined_by)
            whole = Region(pieces, whole.variable)
        if whole.pieces:  # x < 2 and x > 5, or x < 2, x > 5, is said where "or" is meant
            return whole
    return Region(tuple(piece for region in regions for piece in region.pieces), whole.variable)


def _compound(items: list[Answer]) -> Quantity | None:
    """5 feet 6 inches as one quantity, 5 hours 0 minutes as 5 hours; None where they are not measures of one thing."""
    total: Expression | None = None
    names, dimension = set(), None
    for item in items:
        if not isinstance(item, Quantity) or item.unit is None or len(item.unit.powers) != 1:
            return None
        ((name, power),) = item.unit.powers
        if power != 1 or name not in words.UNITS or name in names or dimension not in (None, words.UNITS[name][0]):
            return None
        names.add(name)
        dimension, factor = words.UNITS[name]
        part = Operation("multiply", (item.value, Number(factor)))
        total = part if total is None else Operation("add", (total, part))
    others = [item for item in items if not _is_zero(item)]
    if len(others) == 1 and isinstance(others[0], Quantity):
        return others[0]
    base = next(name for name, unit in words.UNITS.items() if unit == (dimension, Fraction(1)))
    return Quantity(total, Unit(((base, 1),))) if total is not None else None


def _is_zero(answer: Answer) -> bool:
    return isinstance(answer, Quantity) and exact(answer.value) == 0


def _relation(answer: Relation) -> Answer:
    members = tuple(canonical(member) for member in answer.members)
    match members, answer.operators:
        case (one, other), ("cup" | "cap" | "setminus" as operator,):
            left, right = as_region(one), as_region(other)
            pieces = _combined(left.pieces, right.pieces, operator) if left is not None and right is not None else None
            if pieces is not None:
                return Region(pieces)
        case (Quantity(Symbol(name), None), values), ("in",):
            if isinstance(values, Collection) and values.kind == "set":
                return Collection("set", values.items)
            region = as_region(values)
            if region is not None:
                return Region(region.pieces, name)
        case _, operators if all(operator in (*_FLIPPED, "!=") for operator in operators):
            region = _solved(members, operators)
            if region is not None:
                return region
    return Relation(members, answer.operators)


def _solved(members: tuple[Answer, ...], operators: tuple[str, ...]) -> Region | None:
    """X < 4, 4 > x, -2 <= x < 7 and x != 3 as a region of x; None where no variable stands by itself."""
    expressions = [member.value for member in members if isinstance(member, Quantity) and member.unit is None]
    if len(expressions) != len(members) or len(members) > 3:
        return None
    place = 1 if len(members) == 3 else next((i for i, e in enumerate(expressions) if _is_variable(e)), None)
    if place is None or not _is_variable(variable := expressions[place]):
        return None
    assert isinstance(variable, Symbol)
    if any(variable.name in names_of(e) for i, e in enumerate(expressions) if i != place):
        return None
    pieces: tuple[Interval, ...] = (Interval(NEGATIVE_INFINITY, INFINITY, low_closed=False, high_closed=False),)
    for (left, right), operator in zip(pairwise(expressions), operators, strict=True):
        is_left = left is variable
        bound = right if is_left else left
        if operator == "!=":
            if len(members) > 2:
                return None
            below = Interval(NEGATIVE_INFINITY, bound, low_closed=False, high_closed=False)
            return Region((below, Interval(bound, INFINITY, low_closed=False, high_closed=False)), variable.name)
        upper = (operator if is_left else _FLIPPED[operator])[0] == "<"
        closed = operator.endswith("=")
        old = pieces[0]
        pieces = (
            (Interval(old.low, bound, old.low_closed, closed),)
            if upper
            else (Interval(bound, old.high, closed, old.high_closed),)
        )
    return Region(pieces, variable.name)


def _is_variable(expression: Expression) -> bool:
    return isinstance(expression, Symbol) and bool(names_of(expression)) and expression.name != "..."


def as_region(answer: Answer) -> Region | None:
    """An interval, a pair in parentheses, or a set of numbers as a region; None where it can be none."""
    match answer:
        case Region():
            return answer
        case Interval():
            return Region((answer,))
        case Collection("tuple", (Quantity(low, None), Quantity(high, None))):
            left, right = real(low), real(high)
            if left is not None and right is not None and not left < right:
                return None  # a point such as (8, -2)
            return Region((Interval(low, high, low_closed=False, high_closed=False),))
        case Collection("set", items) if all(isinstance(item, Quantity) and item.unit is None for item in items):
            values = [item.value for item in items if isinstance(item, Quantity)]
            return Region(tuple(Interval(value, value, low_closed=True, high_closed=True) for value in values))
    return None


def ordered(pieces: tuple[Interval, ...]) -> tuple[Interval, ...] | None:
    """Pieces from left to right, those that touch made one; None where the order of their ends is not known."""
    ends: list[tuple[Any, Any]] = [(real(piece.low), real(piece.high)) for piece in pieces[:_MAX_PIECES]]
    if len(pieces) > _MAX_PIECES or any(low is None or high is None for low, high in ends):
        return None
    kept = [
        (low, high, piece)
        for (low, high), piece in zip(ends, pieces, strict=True)
        if low < high or (piece.low_closed and piece.high_closed and low == high)
    ]
    kept.sort(key=lambda entry: (entry[0], not entry[2].low_closed, entry[1]))
    merged: list[tuple[Any, Interval]] = []
    for low, high, piece in kept:
        if merged:
            last_high, last = merged[-1]
            touches = equal(piece.low, last.high) is True
            if low < last_high or (touches and (piece.low_closed or last.high_closed)):
                if touches or high > last_high:
                    merged[-1] = (high, Interval(last.low, piece.high, last.low_closed, piece.high_closed))
                elif equal(piece.high, last.high) is True and piece.high_closed:
                    merged[-1] = (high, Interval(last.low, last.high, last.low_closed, high_closed=True))
                continue
        merged.append((high, piece))
    return tuple(piece for _, piece in merged)


def _combined(left: _Pieces, right: _Pieces, operator: str) -> _Pieces | None:
    """A union, an intersection or a difference; None where it is not known which of the ends are less."""
    if operator == "cup":
        return left + right
    other = right if operator == "cap" else _complement(right)
    return None if other is None else _intersection(left, other)


def _complement(pieces: _Pieces) -> _Pieces | None:
    in_order = ordered(pieces)
    if in_order is None:
        if len(pieces) > 1:
            return None
        in_order = pieces
    gaps: list[Interval] = []
    low: Expression = NEGATIVE_INFINITY
    low_closed = False
    for piece in in_order:
        gaps.append(Interval(low, piece.low, low_closed, not piece.low_closed))
        low, low_closed = piece.high, not piece.high_closed
    gaps.append(Interval(low, INFINITY, low_closed, high_closed=False))
    return tuple(gap for gap in gaps if not _is_empty(gap))


def _intersection(left: _Pieces, right: _Pieces) -> _Pieces | None:
    if max(len(left), len(right)) > _MAX_PIECES:
        return None
    overlaps = [_overlap(one, other) for one in left for other in right]
    if None in overlaps:
        return None
    return tuple(overlap for overlap in overlaps if overlap is not None and not _is_empty(overlap))


def _overlap(one: Interval, other: Interval) -> Interval | None:
    """What two intervals share, perhaps nothing: from (2, 1) no number is; None where that is not known."""
    low = _inner((one.low, one.low_closed), (other.low, other.low_closed), NEGATIVE_INFINITY)
    high = _inner((one.high, one.high_closed), (other.high, other.high_closed), INFINITY)
    return Interval(low[0], high[0], low[1], high[1]) if low is not None and high is not None else None


def _inner(one: _End, other: _End, outermost: Expression) -> _End | None:
    """The end that leaves less; None where it is not known which of them does."""
    if outermost in (one[0], other[0]):
        return one if other[0] == outermost else other
    if equal(one[0], other[0]) is True:
        return one[0], one[1] and other[1]
    values = real(one[0]), real(other[0])
    if values[0] is None or values[1] is None:
        return None
    return one if (values[0] > values[1]) == (outermost == NEGATIVE_INFINITY) else other


def _is_empty(piece: Interval) -> bool:
    low, high = real(piece.low), real(piece.high)
    if low is None or high is None:
        return False
    return bool(low > high) or (not (piece.low_closed and piece.high_closed) and equal(piece.low, piece.high) is True)


def _with_sign(answer: Answer, sign: int) -> Answer:
    r"""The answer with the upper sign of every \pm and \mp (1), or the lower one (-1)."""
    return _mapped(answer, lambda expression: _expression_with_sign(expression, sign))


def _expression_with_sign(expression: Expression, sign: int) -> Expression:
    if not isinstance(expression, Operation):
        return expression
    arguments = tuple(_expression_with_sign(argument, sign) for argument in expression.arguments)
    if expression.name not in ("pm", "mp"):
        return Operation(expression.name, arguments)
    left, right = arguments
    if (expression.name == "pm") == (sign < 0):
        return Operation("add", (left, Operation("negative", (right,))))
    return Operation("add", (left, right))


def _mapped(answer: Answer, change: Callable[[Expression], Expression]) -> Answer:
    match answer:
        case Quantity(value, unit):
            return Quantity(change(value), unit)
        case Collection(kind, items, joined_by):
            return Collection(kind, tuple(_mapped(item, change) for item in items), joined_by)
        case Interval(low, high, low_closed, high_closed):
            return Interval(change(low), change(high), low_closed, high_closed)
        case Region(pieces, variable):
            return Region(tuple(p for piece in pieces for p in _pieces(_mapped(piece, change))), variable)
        case Matrix(rows):
            return Matrix(tuple(tuple(change(entry) for entry in row) for row in rows))
        case Relation(members, operators):
            return Relation(tuple(_mapped(member, change) for member in members), operators)
        case Ratio(parts, has_clock_form, half):
            return Ratio(tuple(change(part) for part in parts), has_clock_form, half)
        case Phrase():
            return answer


def has_value(answer: Answer) -> bool:
    """Whether every part of an answer can be worked out; not so of dots, infinite sums and long sentences."""
    expressions: list[Expression] = []

    def collect(expression: Expression) -> Expression:
        expressions.append(expression)
        return expression

    _mapped(answer, collect)
    if isinstance(answer, Quantity) and answer.unit is not None and not answer.unit.only_counts:
        return False
    if isinstance(answer, Phrase):
        return len(answer.words) <= SHORT_PHRASE
    return all(is_defined(expression) for expression in expressions)


def _pieces(answer: Answer) -> Iterator[Interval]:
    if isinstance(answer, Interval):
        yield answer
