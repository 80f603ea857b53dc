"""The value of an expression at a point, within bounds on the operations and on every number on the way."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from random import Random
from typing import Any

import mpmath

from ctwa.objectives.grading.budget import spend
from ctwa.objectives.grading.nodes import Expression, Number, Operation, Symbol, Unreadable
from ctwa.objectives.grading.rational import MAX_BITS, MAX_WHOLE

MAX_TERMS = 1_000  # of a sum
MAX_FACTORIAL = 100_000
# Operations that a function counts as, to 50 digits.
_ELEMENTARY, _GAMMA = 10, 80
CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "pi": lambda context: +context.pi,
    "e": lambda context: +context.e,
    "i": lambda context: context.mpc(0, 1),
    "infinity": lambda context: context.inf,
}


_FUNCTIONS = {
    **{name: name for name in ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "exp", "ln"]},
    **{f"arc{name}": f"a{name}" for name in ["sin", "cos", "tan", "cot", "sec", "csc"]},
    "cis": "expj",
}


_ORDERED = {"modulo", "max", "min"}
_PERIODIC = {"sin", "cos", "tan", "cot", "sec", "csc", "exp", "sinh", "cosh", "tanh", "coth", "cis"}


class Undefined(Exception):
    """No value at this point: a division by zero, a pole."""


def evaluate(expression: Expression, point: dict[str, Fraction]) -> Any:
    """The value where the variables are at ``point``, in mpmath's present precision.

    Raises:
        Undefined: there is none at this point.
        Unreadable: it is not known how to work it out, or its numbers are too large.
        TooMuchWork: it takes more operations than there may be.
    """
    try:
        value = _Evaluation(point).value(expression)
    except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence) as error:
        raise Undefined from error
    if mpmath.isnan(value):
        raise Undefined
    return value


class _Evaluation:
    """One expression at one point, within bounds on the operations and on every number on the way."""

    def __init__(self, point: dict[str, Fraction]) -> None:
        self.point = point

    def value(self, expression: Expression) -> Any:
        spend()
        match expression:
            case Number(value):
                result = _fraction(value)
            case Symbol(name) if name in self.point:  # first: the index of a sum may be called i
                return _fraction(self.point[name])
            case Symbol(name) if name in CONSTANTS:
                return CONSTANTS[name](mpmath.mp)
            case Operation("sum" | "prod" as name, arguments):
                result = self._sum(name, arguments)
            case Operation(name, arguments):
                values = [self.value(argument) for argument in arguments]
                if name != "negative" and any(mpmath.isinf(value) for value in values):
                    raise Unreadable("arithmetic with infinity")
                result = self._operation(name, values)
            case _:
                raise Unreadable("a part without a value")
        if isinstance(result, mpmath.mpc) and result.imag == 0:
            result = result.real  # only real numbers have an order
        if mpmath.isfinite(result) and result and abs(mpmath.mag(result)) > MAX_BITS:
            raise Unreadable("a number of too many digits")
        return result

    def _operation(self, name: str, values: list[Any]) -> Any:
        if name in _FUNCTIONS:
            if name in _PERIODIC and mpmath.isfinite(values[0]) and values[0] and mpmath.mag(values[0]) > 20:
                raise Unreadable(f"{name} of a large number")
            _spend_on(_ELEMENTARY)
            return getattr(mpmath, _FUNCTIONS[name])(values[0])
        if name.startswith("call "):
            return self._unknown(name, values)
        if name not in _NUMERIC:
            raise Unreadable(f"{name} is not worked out")
        if name in _ORDERED and not all(isinstance(value, mpmath.mpf) for value in values):
            raise Unreadable(f"{name} of numbers that are not real")
        return _NUMERIC[name](*values)

    @staticmethod
    def _unknown(name: str, values: list[Any]) -> Any:
        """A function that is not known is some polynomial, always the same one."""
        random = Random(name)
        total = mpmath.mpf(random.randint(1, 99)) / 7
        for value in values:
            for power in (1, 2, 3):
                total += random.randint(1, 99) * value**power / 7
        return total

    def _sum(self, name: str, arguments: tuple[Expression, ...]) -> Any:
        index, low, high, body = arguments
        bounds = self.value(low), self.value(high)
        if not isinstance(index, Symbol) or any(mpmath.isinf(bound) for bound in bounds):
            raise Unreadable("an infinite sum")
        if not all(mpmath.isint(bound) for bound in bounds):
            raise Undefined
        first, last = (int(bound) for bound in bounds)
        if last - first >= MAX_TERMS:
            raise Unreadable("a sum of too many terms")
        outer = self.point
        total = mpmath.mpf(0 if name == "sum" else 1)
        for term in range(first, last + 1):
            spend()
            self.point = {**outer, index.name: Fraction(term)}
            value = self.value(body)
            total = total + value if name == "sum" else total * value
        self.point = outer
        return total


def _spend_on(operations: int) -> None:
    """Count a function as the operations that it is to 50 digits, and more of them to more digits."""
    spend(operations * max(1, mpmath.mp.dps // 50) ** 2)


def _fraction(value: Fraction) -> Any:
    return mpmath.mpf(value.numerator) / value.denominator


def _raise(base: Any, exponent: Any) -> Any:
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise ZeroDivisionError
        return base
    if not mpmath.isfinite(base) or not mpmath.isfinite(exponent):
        raise ZeroDivisionError
    if exponent and (mpmath.mag(exponent) > 40 or abs(exponent) * max(1, abs(mpmath.mag(base))) > MAX_BITS):
        raise Unreadable("a number of too many digits")
    if not mpmath.isint(exponent):
        _spend_on(_ELEMENTARY)
    return mpmath.power(base, exponent)


def _root(value: Any, index: Any) -> Any:
    if mpmath.isint(index) and mpmath.im(value) == 0 and mpmath.re(value) < 0 and int(index) % 2:
        return -_raise(-value, 1 / index)  # the real root
    return value if value == 0 else _raise(value, 1 / index)


def _spend_on_whole(number: int) -> None:
    """Count the factorial of a whole number, or a binomial coefficient of it."""
    spend(number**2 // 60_000)


def _gamma_factorial(value: Any) -> Any:
    if abs(value) > MAX_FACTORIAL:
        raise Unreadable("the factorial of a large number")
    if mpmath.isint(value) and 0 <= value <= MAX_WHOLE:  # much faster
        _spend_on_whole(int(value))
        return mpmath.mpf(math.factorial(int(value)))
    _spend_on(_GAMMA)
    return mpmath.factorial(value)


def _gamma_binomial(upper: Any, lower: Any) -> Any:
    if max(abs(upper), abs(lower)) > MAX_FACTORIAL:
        raise Unreadable("the binomial of a large number")
    if mpmath.isint(upper) and mpmath.isint(lower) and 0 <= lower <= upper <= MAX_WHOLE:
        _spend_on_whole(int(upper))
        return mpmath.mpf(math.comb(int(upper), int(lower)))
    _spend_on(2 * _GAMMA)
    return mpmath.binomial(upper, lower)


def _rounded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def of_nearly_whole(value: Any) -> Any:
        nearest = mpmath.nint(value)
        return nearest if abs(value - nearest) < mpmath.mpf(10) ** -25 else function(value)

    return of_nearly_whole


def _determinant(*entries: Any) -> Any:
    size = math.isqrt(len(entries))
    if size * size != len(entries) or size > 6:
        raise Unreadable("a determinant that is not square, or too large")
    spend(size**3)
    return mpmath.det(mpmath.matrix([list(entries[row * size : (row + 1) * size]) for row in range(size)]))


def _log(value: Any, base: Any) -> Any:
    _spend_on(_ELEMENTARY)
    return mpmath.log(value, base)


def _modulo(left: Any, right: Any) -> Any:
    if mpmath.mag(left) > 1000:
        raise Unreadable("a number of too many digits")
    return left % right


_NUMERIC: dict[str, Callable[..., Any]] = {
    "add": lambda *values: reduce(operator.add, values),
    "negative": lambda value: -value,
    "multiply": lambda *values: reduce(operator.mul, values),
    "divide": lambda left, right: left / right,
    "power": _raise,
    "root": _root,
    "percent": lambda value: value / 100,
    "degree": lambda value: value * mpmath.pi / 180,
    "factorial": _gamma_factorial,
    "binomial": _gamma_binomial,
    "abs": abs,
    "norm": abs,
    "floor": _rounded(mpmath.floor),
    "ceiling": _rounded(mpmath.ceil),
    "modulo": _modulo,
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "log": lambda *values: _log(values[-1], 10 if len(values) == 1 else values[0]),
    "lg": lambda value: _log(value, 10),
    "determinant": _determinant,
}
