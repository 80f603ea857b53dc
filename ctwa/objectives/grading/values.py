"""Whether two expressions are equal: exactly where they are rational, else by their values to 30 digits.

Expressions with variables are compared at points that are random, but always the same ones: two different polynomials
of a few dozen terms agree at such a point by chance less often than once in 10^15.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from random import Random
from typing import Any

import mpmath

from ctwa.objectives.grading.nodes import Based, Expression, Number, Operation, Symbol, Unreadable
from ctwa.objectives.grading.numeric import CONSTANTS, Undefined, evaluate
from ctwa.objectives.grading.rational import exact

DIGITS = 50  # worked with; 20 of them are lost to rounding before two values count as different
MAX_DIGITS = 300  # more than DIGITS, for large numbers that are not rational
APPROXIMATE_PLACES = 6  # significant digits of a decimal that stands for what is no decimal

_NUM_REAL_POINTS = 6  # three positive, three of any sign
_NUM_POINTS = _NUM_REAL_POINTS + 8  # and eight of whole numbers


def names_of(expression: Expression) -> set[str]:
    """The names of variables, and of functions that are not known."""
    match expression:
        case Symbol(name):
            return set() if name in CONSTANTS else {name}
        case Operation("sum" | "prod", (Symbol(index), *arguments)):
            return set().union(*(names_of(argument) for argument in arguments)) - {index}
        case Operation(name, arguments):
            own = {name} if name.startswith("call ") else set()
            return own.union(*(names_of(argument) for argument in arguments))
    return set()


def has(expression: Expression, name: str) -> bool:
    """Whether a symbol of that name occurs."""
    match expression:
        case Symbol():
            return expression.name == name
        case Operation():
            return any(has(argument, name) for argument in expression.arguments)
    return False


def equal(one: Expression, other: Expression) -> bool | None:
    """Whether two expressions have the same value wherever both have one; None where that cannot be told."""
    if one == other:
        return True
    if isinstance(one, Based) or isinstance(other, Based):
        return _same_in_base(one, other)
    if has(one, "...") or has(other, "..."):
        return _same_form(one, other)
    try:
        if _is_within_error(one, other) or _is_within_error(other, one):
            return True
        left, right = exact(one), exact(other)
        if left is not None and right is not None and left == right:
            return True
        if _approximates(one, other) or _approximates(other, one):
            return True
        if left is not None and right is not None:
            return False
        return _equal_at_points(one, other)
    except Unreadable:
        return _same_form(one, other) or None


def _same_in_base(one: Expression, other: Expression) -> bool:
    return (
        isinstance(one, Based)
        and isinstance(other, Based)
        and one.base == other.base
        and one.digits.lstrip("0") == other.digits.lstrip("0")
    )


def _same_form(one: Expression, other: Expression) -> bool | None:
    """Compare what has no value part by part: 2 + 4 + ... + 10."""
    dotted = has(one, "..."), has(other, "...")
    match one, other:
        case Operation(name, ours), Operation(its_name, theirs) if name == its_name and len(ours) == len(theirs):
            if not any(dotted) and name not in ("sum", "prod") and not name.startswith("call"):
                return one == other or None
            parts = [_same_form(our, their) if has(our, "...") or has(their, "...") else equal(our, their)
                     for our, their in zip(ours, theirs, strict=True)]  # fmt: skip
            return all(parts) if None not in parts else None
    return True if one == other else None


def _is_within_error(stored: Expression, other: Expression) -> bool:
    """Whether a number that was rounded when it was stored may have been the other."""
    if not isinstance(stored, Number) or not stored.error:
        return False
    value = _worked_out(other)
    return value is not None and abs(value - stored.value) <= stored.error


def _worked_out(expression: Expression) -> Fraction | None:
    """The value of a real number, exactly or to 50 digits; None where there is none, or it is very large or small."""
    if names_of(expression):
        return None
    exactly = exact(expression)
    if exactly is not None:
        return exactly
    try:
        number = _evaluate_precisely(expression, {})
    except Undefined:
        return None
    if not isinstance(number, mpmath.mpf) or not mpmath.isfinite(number) or abs(mpmath.mag(number)) > 1000:
        return None
    sign, mantissa, exponent, _ = number._mpf_
    return Fraction(-mantissa if sign else mantissa) * Fraction(2) ** exponent


def _approximates(decimal: Expression, other: Expression) -> bool:
    """Whether a decimal is the other value, no decimal literal and not whole, rounded or cut to six digits or more."""
    literal = _decimal(decimal)
    if literal is None or _decimal(other) is not None:
        return False
    value, step = literal
    if abs(value) < step * 10 ** (APPROXIMATE_PLACES - 1):
        return False
    exactly = _worked_out(other)
    if exactly is None or exactly.denominator == 1:
        return False
    error = abs(value - exactly)
    return error <= step / 2 or (error < step and abs(value) < abs(exactly))


def _decimal(expression: Expression) -> tuple[Fraction, Fraction] | None:
    """Value and last place of 0.333, -0.333 and 3.33 * 10^{-1}."""
    match expression:
        case Number(value, int(places)):
            return value, Fraction(1, 10**places)
        case Operation("negative", (inner,)):
            inside = _decimal(inner)
            return (-inside[0], inside[1]) if inside else None
        case Operation("multiply", (left, Operation("power", (Number(value), exponent)))) if value == 10:
            inside, power = _decimal(left), exact(exponent)
            if inside is None or power is None or power.denominator != 1 or abs(power) > 1000:
                return None
            return inside[0] * Fraction(10) ** int(power), inside[1] * Fraction(10) ** int(power)
    return None


def _equal_at_points(one: Expression, other: Expression) -> bool | None:
    """Compare values. Where one side is real and the other not, a point says nothing: both roots of m are meant
    for a positive m.
    """
    names = sorted(names_of(one) | names_of(other))
    is_complex = has(one, "i") or has(other, "i") or not names
    verdicts: dict[str, list[bool]] = {"real": [], "complex": []}
    for number in range(_NUM_POINTS if names else 1):
        if number == _NUM_REAL_POINTS and (verdicts["real"] or (is_complex and verdicts["complex"])):
            break  # whole numbers are for what is real there alone, such as (-1)^n
        point = {name: _coordinate(name, number, place) for place, name in enumerate(names)}
        try:
            left, right = _evaluate_precisely(one, point), _evaluate_precisely(other, point)
        except Undefined:
            continue
        except Unreadable:
            if number == 0:
                raise  # else it is only that this point's numbers are large
            continue
        are_real = [isinstance(value, mpmath.mpf) for value in (left, right)]
        if are_real[0] == are_real[1] or is_complex:
            verdicts["real" if all(are_real) else "complex"].append(_close(left, right))
            if not verdicts["real" if all(are_real) else "complex"][-1] and (is_complex or all(are_real)):
                return False
    decisive = verdicts["real"] or verdicts["complex"]
    return all(decisive) if decisive else None


def values_at(expression: Expression, number: int, names: list[str]) -> Any | None:
    """The value at one of the points; None where it has none, or is not finite."""
    try:
        value = _evaluate_precisely(
            expression, {name: _coordinate(name, number, place) for place, name in enumerate(names)}
        )
    except Undefined:
        return None
    return value if mpmath.isfinite(value) else None


def real(expression: Expression) -> Any | None:
    """The value of a real number, which may be infinite; None where it is something else, or has variables."""
    if names_of(expression) or has(expression, "..."):
        return None
    try:
        value = _evaluate_precisely(expression, {})
    except (Undefined, Unreadable):
        return None
    return value if isinstance(value, mpmath.mpf) else None


def is_defined(expression: Expression) -> bool:
    """Whether the expression has a value, somewhere, that can be worked out."""
    if isinstance(expression, Based):
        return True
    names = sorted(names_of(expression))
    try:
        return not has(expression, "...") and any(
            _is_defined_at(expression, number, names) for number in range(_NUM_POINTS if names else 1)
        )
    except Unreadable:
        return False


def _is_defined_at(expression: Expression, number: int, names: list[str]) -> bool:
    try:
        evaluate(expression, {name: _coordinate(name, number, place) for place, name in enumerate(names)})
    except Undefined:
        return False
    return True


@lru_cache(maxsize=1024)
def _coordinate(name: str, number: int, place: int) -> Fraction:
    """A variable's value at a point: positive, of any sign, or whole; small and large, and both odd and even."""
    random = Random(f"{name} {number}")
    if number >= _NUM_REAL_POINTS:
        return Fraction(2 * random.randint(1, 20) + (number >> place) % 2)
    part = Fraction(random.getrandbits(60) | 1, 1 << 60)
    scale = (2, 300)[number % 3 == 2]
    return scale * part + Fraction(1, 10) if number < _NUM_REAL_POINTS / 2 else scale * (2 * part - 1)


def _close(left: Any, right: Any) -> bool:
    if mpmath.isinf(left) or mpmath.isinf(right):
        return bool(left == right)
    largest = max(abs(left), abs(right))
    # A large number's last whole digits count, as far as they were worked out.
    digits = 30 + min(max(0, int(mpmath.mag(largest) * 0.30103)), MAX_DIGITS) if largest else 30
    return bool(abs(left - right) * mpmath.mpf(10) ** digits <= largest)


def _evaluate_precisely(expression: Expression, point: dict[str, Fraction]) -> Any:
    """The value to 30 digits, also of the digits before the point; a real number as mpf."""
    with mpmath.workdps(DIGITS):
        value = evaluate(expression, point)
        magnitude = mpmath.mag(value) if mpmath.isfinite(value) and value else 0
    if magnitude > 50:
        with mpmath.workdps(DIGITS + min(int(magnitude * 0.30103), MAX_DIGITS)):
            value = evaluate(expression, point)
    elif magnitude < -80:  # tiny, or nothing but rounding
        with mpmath.workdps(2 * DIGITS):
            again = evaluate(expression, point)
        value = mpmath.mpf(0) if abs(again) < abs(value) * mpmath.mpf(10) ** -20 else again
    if isinstance(value, mpmath.mpc) and abs(value.imag) <= abs(value) * mpmath.mpf(10) ** -30:
        value = value.real
    return value
