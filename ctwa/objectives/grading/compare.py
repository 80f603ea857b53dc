"""Whether two answers are the same: by kind, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import cache
from itertools import chain
from math import gcd
from typing import TypeVar

from ctwa.objectives.grading import words
from ctwa.objectives.grading.budget import spend
from ctwa.objectives.grading.canonical import SHORT_PHRASE, as_region, ordered
from ctwa.objectives.grading.equations import as_relation, constant_ratio, difference, solves
from ctwa.objectives.grading.labels import is_label, same_label
from ctwa.objectives.grading.nodes import (
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
from ctwa.objectives.grading.values import equal, names_of

Verdict = bool | None  # None: it cannot be told
_MAX_ITEMS = 100
_T = TypeVar("_T")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def same(gold: Answer, answer: Answer) -> Verdict:
    """Whether two canonical answers say the same."""
    spend()
    ours_named, theirs_named = _by_name(gold), _by_name(answer)
    if ours_named and theirs_named:  # x = 1, y = 2
        if ours_named.keys() != theirs_named.keys():
            return False
        return _all(same(ours_named[name], theirs_named[name]) for name in ours_named)
    match gold, answer:
        case Quantity(), Quantity():
            return _same_quantity(gold, answer)
        case Relation(), Relation():
            return _same_relation(gold, answer)
        case (Region(variable=str()), Relation()) | (Relation(), Region(variable=str())):
            left, right = (as_relation(side) if isinstance(side, Region) else side for side in (gold, answer))
            return isinstance(left, Relation) and isinstance(right, Relation) and _same_relation(left, right)
        case Relation(), _:
            value = assigned(gold)
            return same(value, answer) if value is not None else False
        case _, Relation():
            value = assigned(answer)
            return same(gold, value) if value is not None else False
        case Phrase(), Phrase():
            return _same_phrase(gold, answer)
        case Matrix(), Matrix():
            return _same_matrix(gold, answer)
        case Ratio(), Ratio():
            return _same_ratio(gold, answer)
        case (Ratio(parts) as ratio, Quantity(value, None)) | (Quantity(value, None), Ratio(parts) as ratio):
            is_quotient = len(parts) == 2 and not _is_time(ratio)
            return is_quotient and equal(Operation("divide", parts), value)
        case (Matrix(rows), Collection("tuple", items)) | (Collection("tuple", items), Matrix(rows)):
            entries = [Quantity(entry) for row in rows for entry in row]
            return 1 in (len(rows), len(rows[0])) and _same_in_order(entries, items)
        case Collection(), Collection():
            return _same_collection(gold, answer)
        case _, Collection("list", (first, *others)) if others and not isinstance(gold, Collection):
            is_one = all(same(first, other) is True for other in others[:_MAX_ITEMS])  # \frac12 or 0.5
            return is_one and same(gold, first)
        case (Collection("set", (single,)), other) | (other, Collection("set", (single,))) if not isinstance(
            other, Region | Interval
        ):
            return _same_item(single, other) if other is answer else _same_item(other, single)
    ours, theirs = as_region(gold), as_region(answer)
    if ours is not None and theirs is not None:
        return _same_region(ours, theirs)
    return False


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    """True if all are, False if one is not, None if it cannot be told."""
    result: Verdict = True
    for verdict in verdicts:
        if verdict is False:
            return False
        result = result and verdict
    return result


def _any(verdicts: Iterable[Verdict]) -> Verdict:
    """True if one is, False if none is, None if it cannot be told."""
    result: Verdict = False
    for verdict in verdicts:
        if verdict:
            return True
        result = result if verdict is False else None
    return result


def _same_in_order(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Verdict:
    if len(ours) != len(theirs) or len(ours) > _MAX_ITEMS:
        return False
    return _all(_same_item(our, their) for our, their in zip(ours, theirs, strict=True))


def _same_item(gold: Answer, answer: Answer) -> Verdict:
    r"""Whether two members are the same: only outside of all others \{2\} may be said for 2."""
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Collection) and one.kind == "set" and isinstance(other, Quantity | Relation):
            return False
    return same(gold, answer)


def _same_collection(gold: Collection, answer: Collection) -> Verdict:
    kinds = {gold.kind, answer.kind}
    order_counts = "tuple" in kinds or _says_which(gold)
    if "set" in kinds and order_counts:
        return False
    if max(len(gold.items), len(answer.items)) > _MAX_ITEMS:
        return False
    if order_counts or _has_dots(gold) or _has_dots(answer):
        return _any(_same_in_order(ours, theirs) for ours in _orders(gold) for theirs in _orders(answer))
    if kinds == {"list"} and _have_units(gold) != _have_units(answer):
        return _same_in_order(gold.items, answer.items)  # without units, the order says which is which
    if "set" in kinds:
        return _each_has_one(gold.items, answer.items, _same_item)
    if len(gold.items) != len(answer.items):
        return False
    left = list(answer.items)
    return _all(_taken(item, left) for item in gold.items)


def _each_has_one(ours: Sequence[_T], theirs: Sequence[_T], is_same: Callable[[_T, _T], Verdict]) -> Verdict:
    """Whether each of ours is one of theirs, and each of theirs one of ours."""
    verdict = cache(lambda our, their: is_same(ours[our], theirs[their]))
    rows = (_any(verdict(our, their) for their in range(len(theirs))) for our in range(len(ours)))
    columns = (_any(verdict(our, their) for our in range(len(ours))) for their in range(len(theirs)))
    return _all(chain(rows, columns))


def _taken(item: Answer, left: list[Answer]) -> Verdict:
    """Whether an item is one of those that are left, which loses it then."""
    result: Verdict = False
    for place, other in enumerate(left):
        verdict = _same_item(item, other)
        if verdict:
            del left[place]
            return True
        result = result if verdict is False else None
    return result


def _by_name(answer: Answer) -> dict[str, Answer]:
    """The values of x = 1, y = 2 or (x, y) = (1, 2) by name; empty where different variables have none."""
    pairs: Iterable[tuple[Answer, Answer]] = ()
    match answer:
        case Collection(_, items) if all(isinstance(i, Relation) and i.operators == ("=",) for i in items):
            pairs = [(item.members[0], item.members[1]) for item in items if isinstance(item, Relation)]
        case Relation((Collection("tuple", names), Collection("tuple", values)), ("=",)) if len(names) == len(values):
            pairs = zip(names, values, strict=True)
    found: dict[str, Answer] = {}
    for label, value in pairs:
        match label:
            case Quantity(Symbol(name), None) if name not in found:
                found[name] = value
            case _:
                return {}
    return found


def _says_which(collection: Collection) -> bool:
    """Whether values are those of different letters: x = 1, y = 2, and not x_1 = 1, x_2 = 2, which numbers them."""
    return len({name.partition("_")[0] for name in _by_name(collection)}) > 1


def _orders(collection: Collection) -> Iterable[Sequence[Answer]]:
    """The items as they are written, and in the order of their names, as those of y = 2, x = 1 in (1, 2)."""
    yield collection.items
    if named := _by_name(collection):
        yield [named[name] for name in sorted(named)]


def _has_dots(collection: Collection) -> bool:
    return any(item == Quantity(Symbol("...")) for item in collection.items)


def _have_units(collection: Collection) -> bool:
    return any(isinstance(item, Quantity) and item.unit is not None for item in collection.items)


def _same_phrase(gold: Phrase, answer: Phrase) -> Verdict:
    if gold.words == answer.words:
        return True
    return False if len(gold.words) <= SHORT_PHRASE else None


def _same_matrix(gold: Matrix, answer: Matrix) -> Verdict:
    if len(gold.rows) != len(answer.rows) or len(gold.rows[0]) != len(answer.rows[0]):
        return False
    pairs = zip(gold.rows, answer.rows, strict=True)
    return _all(equal(our, their) for ours, theirs in pairs for our, their in zip(ours, theirs, strict=True))


def _in_lowest_terms(parts: Sequence[Expression]) -> bool:
    values = [exact(part) for part in parts]
    whole = [int(value) for value in values if value is not None and value.denominator == 1]
    return len(whole) < len(values) or gcd(*whole) == 1


def _is_time(ratio: Ratio) -> bool:
    """A ratio is given in lowest terms, and without a 0; 3:30, 1:00 and 0:45 are none."""
    is_ratio = _in_lowest_terms(ratio.parts) and exact(ratio.parts[0]) != 0
    return _is_padded(ratio) or bool(ratio.half) or (ratio.has_clock_form and not is_ratio)


def _is_padded(ratio: Ratio) -> bool:
    """Whether a part has two digits of which the first is 0, as in 7:05, which can be a time alone."""
    return ratio.has_clock_form and any(exact(part) in range(10) for part in ratio.parts[1:])


def _same_ratio(gold: Ratio, answer: Ratio) -> Verdict:
    if len(gold.parts) != len(answer.parts):
        return False
    exactly = _all(equal(our, their) for our, their in zip(gold.parts, answer.parts, strict=True))
    if (gold.half and answer.half and gold.half != answer.half) or _is_padded(gold) != _is_padded(answer):
        return False
    if exactly or _is_time(gold) or Symbol("...") in gold.parts + answer.parts:
        return exactly
    crossed = [(Operation("multiply", (our, answer.parts[0])), Operation("multiply", (their, gold.parts[0])))
               for our, their in zip(gold.parts[1:], answer.parts[1:], strict=True)]  # fmt: skip
    return _all(equal(left, right) for left, right in crossed)


def _same_region(gold: Region, answer: Region) -> Verdict:
    if gold.variable and answer.variable and gold.variable != answer.variable:
        left, right = as_relation(gold), as_relation(answer)  # x >= a and a <= x
        return left is not None and right is not None and _same_relation(left, right)
    ours, theirs = ordered(gold.pieces), ordered(answer.pieces)
    if ours is not None and theirs is not None:
        return len(ours) == len(theirs) and _all(map(_same_interval, ours, theirs))
    if len(gold.pieces) != len(answer.pieces):
        return False
    return _each_has_one(gold.pieces, answer.pieces, _same_interval)


def _same_interval(one: Interval, other: Interval) -> Verdict:
    if (one.low_closed, one.high_closed) != (other.low_closed, other.high_closed):
        return False
    return _all((equal(one.low, other.low), equal(one.high, other.high)))


def _same_quantity(gold: Quantity, answer: Quantity) -> Verdict:
    ours, theirs = _powers(gold.unit), _powers(answer.unit)
    if "pound sterling" in (*ours, *theirs):  # 12 pounds may be £12
        ours, theirs = ({name.replace("pound sterling", "pound"): power for name, power in unit.items()}
                        for unit in (ours, theirs))  # fmt: skip
    if ours == theirs:
        return equal(gold.value, answer.value)
    if not all(quantity.unit is None or quantity.unit.only_counts for quantity in (gold, answer)):
        return None  # 5 doubled
    if not ours or not theirs:
        (unit, with_unit, without) = (ours, gold, answer) if ours else (theirs, answer, gold)
        verdict = equal(with_unit.value, without.value)
        factor = {"percent": "percent", "degree": "degree"}.get(next(iter(unit)))
        if verdict is not True and factor and len(unit) == 1:
            return equal(Operation(factor, (with_unit.value,)), without.value)
        return verdict
    if not (ours.keys() | theirs.keys()) <= words.UNITS.keys() or _dimensions(ours) != _dimensions(theirs):
        return False
    return equal(_in_base_units(gold.value, ours), _in_base_units(answer.value, theirs))


def _powers(unit: Unit | None) -> dict[str, int]:
    return {name: power for name, power in unit.powers if name not in ("unit", "radian")} if unit else {}


def _dimensions(powers: dict[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, power in powers.items():
        dimension = words.UNITS[name][0]
        total[dimension] = total.get(dimension, 0) + power
    return total


def _in_base_units(value: Expression, powers: dict[str, int]) -> Expression:
    factor = Fraction(1)
    for name, power in powers.items():
        factor *= words.UNITS[name][1] ** max(-9, min(9, power))
    return Operation("multiply", (value, Number(factor)))


def assigned(relation: Relation) -> Answer | None:
    """What x = 5, f(x) = 2x, AB = 5, Area = 12 or 2 + 3 = 5 say the value is; None where it is an equation."""
    if relation.operators[-1:] == ("mod",) and set(relation.operators[:-1]) <= {"equiv", "="}:
        return relation.members[-2]
    if not set(relation.operators) <= {"=", "approx"}:
        return None
    values = list(relation.members[1:])
    match relation.members:
        case (Quantity() as number, Quantity(Symbol()) as label) if not names_of(number.value):
            return number if is_label(label, number) else None  # 5 = x
    if not is_label(relation.members[0], relation.members[1]):
        values = list(relation.members)
    operators = relation.operators[len(relation.operators) - len(values) + 1 :] if len(values) > 1 else ()
    exactly = [values[0]]
    for operator, value in zip(operators, values[1:], strict=True):
        if operator == "approx":
            break
        if same(exactly[-1], value) is not True:
            return None
        exactly.append(value)
    if len(values) == len(relation.members) and any(isinstance(v, Quantity) and names_of(v.value) for v in exactly):
        return None  # an identity such as x = x
    return exactly[-1]


def _same_relation(gold: Relation, answer: Relation) -> Verdict:
    if "mod" in (*gold.operators[-1:], *answer.operators[-1:]):
        if gold.operators[-1] != answer.operators[-1]:
            return False
        if len(gold.members) == len(answer.members):
            return _same_in_order(gold.members, answer.members)
        names = max(gold.members, answer.members, key=len)[:-2]  # the n of n = 2 (mod 5), where the other has none
        is_named = len(names) == 1 and is_label(names[0], gold.members[-2])
        return is_named and _same_in_order(gold.members[-2:], answer.members[-2:])
    ours, theirs = assigned(gold), assigned(answer)
    labels = gold.members[0], answer.members[0]
    if ours is not None and theirs is not None and same_label(*labels) and same(ours, theirs):
        return True
    left_side, right_side = difference(gold), difference(answer)
    if left_side is None or right_side is None:
        if gold.operators == answer.operators == ("cap",):
            unmet = list(answer.members)
            return _all(_taken(member, unmet) for member in gold.members) or None
        if gold.operators == answer.operators:
            return _same_in_order(gold.members, answer.members) or (None if gold.operators[0] != "=" else False)
        return False
    (left, operator), (right, other_operator) = left_side, right_side
    ratio = constant_ratio(left, right)
    if operator in ("=", "!="):
        is_same = ratio is not None or solves(gold, right) or solves(answer, left)
        return operator == other_operator and is_same
    if ratio is None:
        return False
    return other_operator == (operator if ratio > 0 else _FLIPPED[operator])
