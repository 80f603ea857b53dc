"""Rational numbers, worked out exactly, within bounds on their size."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import reduce

from ctwa.objectives.grading.budget import spend
from ctwa.objectives.grading.nodes import Expression, Number, Operation, Unreadable

MAX_BITS = 60_000  # of a number
MAX_WHOLE = 5_000  # of a factorial, and of a binomial's numbers


def exact(expression: Expression) -> Fraction | None:
    """The value of a rational number, None where it is another, or one with variables.

    Raises:
        Unreadable: it has too many digits, or no value.
        TooMuchWork: it takes more operations than there may be.
    """
    spend()
    match expression:
        case Number(value):
            return value
        case Operation(name, arguments) if name in _EXACT:
            values = []
            for argument in arguments:
                exactly = exact(argument)
                if exactly is None:
                    return None
                values.append(exactly)
            result = _EXACT[name](*values)
            return None if result is None else _bounded(result)
    return None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            raise Unreadable("zero to such a power")
        return base**2 if exponent % 2 == 0 else base
    if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) > MAX_BITS:
        raise Unreadable("a number of too many digits")
    return base ** int(exponent)


def _bounded(value: Fraction) -> Fraction:
    bits = value.numerator.bit_length() + value.denominator.bit_length()
    if bits > MAX_BITS:
        raise Unreadable("a number of too many digits")
    spend((bits // 2_000) ** 2)  # what the greatest common divisor of such numbers takes
    return value


def _total(*values: Fraction) -> Fraction:
    return reduce(lambda total, value: _bounded(total + value), values)


def _product(*values: Fraction) -> Fraction:
    return reduce(lambda product, value: _bounded(product * value), values)


def _quotient(left: Fraction, right: Fraction) -> Fraction:
    if right == 0:
        raise Unreadable("a division by zero")
    return left / right


def _factorial(value: Fraction) -> Fraction | None:
    return Fraction(math.factorial(int(value))) if value.denominator == 1 and 0 <= value <= MAX_WHOLE else None


def _binomial(upper: Fraction, lower: Fraction) -> Fraction | None:
    if upper.denominator != 1 or lower.denominator != 1 or not 0 <= upper <= MAX_WHOLE or not 0 <= lower <= MAX_WHOLE:
        return None
    return Fraction(math.comb(int(upper), int(lower)))


def _whole(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of_whole_numbers(*values: Fraction) -> Fraction | None:
        if any(value.denominator != 1 for value in values):
            return None
        return Fraction(function(*(int(value) for value in values)))

    return of_whole_numbers


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "add": _total,
    "negative": lambda value: -value,
    "multiply": _product,
    "divide": _quotient,
    "power": _power,
    "percent": lambda value: value / 100,
    "factorial": _factorial,
    "binomial": _binomial,
    "abs": abs,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceiling": lambda value: Fraction(math.ceil(value)),
    "modulo": lambda left, right: left % right if right else None,
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
}
