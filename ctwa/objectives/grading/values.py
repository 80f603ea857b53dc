"""Whether two expressions are equal: exactly where they are rational, else by their values to 30 digits.

Expressions with variables are compared at ten points, at random but always the same ones: two different polynomials
of a few dozen terms agree at such a point by chance less often than once in 10^15.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from random import Random
from typing import Any

import mpmath

from ctwa.objectives.grading.nodes import Based, Expression, Number, Operation, Symbol, Unreadable

MAX_BITS = 60_000  # of an exact number, and of the magnitude of any other
MAX_STEPS = 20_000  # operations that one comparison may take
MAX_TERMS = 1_000  # of a sum
MAX_FACTORIAL = 100_000
DIGITS = 50  # worked with; 20 of them are lost to rounding before two values count as different
MAX_DIGITS = 1_000
APPROXIMATE_PLACES = 6  # significant digits of a decimal that stands for what is no decimal

_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "pi": lambda context: +context.pi,
    "e": lambda context: +context.e,
    "i": lambda context: context.mpc(0, 1),
    "infinity": lambda context: context.inf,
}
_FUNCTIONS = {
    **{name: name for name in "sin cos tan cot sec csc sinh cosh tanh coth exp ln".split()},
    **{f"arc{name}": f"a{name}" for name in "sin cos tan cot sec csc".split()},
}
_PERIODIC = {"sin", "cos", "tan", "cot", "sec", "csc", "exp", "sinh", "cosh", "tanh", "coth"}
_NUM_POINTS = 10  # three positive, three of any sign, four whole


class _Undefined(Exception):
    """No value at this point: a division by zero, a pole."""


def names_of(expression: Expression) -> set[str]:
    """The names of variables, and of functions that are not known."""
    match expression:
        case Symbol(name):
            return set() if name in _CONSTANTS else {name}
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


def exact(expression: Expression) -> Fraction | None:
    """The value of a rational number, None where it is another, or one with variables.

    Raises:
        Unreadable: it has too many digits, or no value.
    """
    match expression:
        case Number(value):
            return value
        case Operation(name, arguments) if name in _EXACT:
            values = []
            for argument in arguments:
                value = exact(argument)
                if value is None:
                    return None
                values.append(value)
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
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise Unreadable("a number of too many digits")
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
    return Fraction(math.factorial(int(value))) if value.denominator == 1 and 0 <= value <= 5000 else None


def _binomial(upper: Fraction, lower: Fraction) -> Fraction | None:
    if upper.denominator != 1 or lower.denominator != 1 or not 0 <= upper <= 5000 or not 0 <= lower <= 5000:
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


def _approximates(decimal: Expression, other: Expression) -> bool:
    """Whether a decimal is the other value, which is no decimal literal, rounded or cut to six digits or more."""
    literal = _decimal(decimal)
    is_whole = isinstance(other, Number) and other.value.denominator == 1
    if literal is None or _decimal(other) is not None or is_whole:
        return False
    value, step = literal
    if names_of(other) or abs(value) < step * 10 ** (APPROXIMATE_PLACES - 1):
        return False
    exactly = exact(other)
    if exactly is None:
        try:
            number = _evaluate_precisely(other, {})
        except _Undefined:
            return False
        if not isinstance(number, mpmath.mpf) or not mpmath.isfinite(number) or abs(mpmath.mag(number)) > 1000:
            return False
        sign, mantissa, exponent, _ = number._mpf_
        exactly = Fraction(-mantissa if sign else mantissa) * Fraction(2) ** exponent
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
    for a positive m."""
    names = sorted(names_of(one) | names_of(other))
    is_complex = has(one, "i") or has(other, "i") or not names
    verdicts: dict[str, list[bool]] = {"real": [], "complex": []}
    for number in range(_NUM_POINTS if names else 1):
        if number == 6 and (verdicts["real"] or is_complex and verdicts["complex"]):
            break  # whole numbers are for what is real there alone, such as (-1)^n
        point = {name: _coordinate(name, number) for name in names}
        try:
            left, right = _evaluate_precisely(one, point), _evaluate_precisely(other, point)
        except _Undefined:
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
        value = _evaluate_precisely(expression, {name: _coordinate(name, number) for name in names})
    except _Undefined:
        return None
    return value if mpmath.isfinite(value) else None


def real(expression: Expression) -> Any | None:
    """The value of a real number, which may be infinite; None where it is something else, or has variables."""
    if names_of(expression) or has(expression, "..."):
        return None
    try:
        value = _evaluate_precisely(expression, {})
    except (_Undefined, Unreadable):
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
        _evaluate(expression, {name: _coordinate(name, number) for name in names})
    except _Undefined:
        return False
    return True


def _coordinate(name: str, number: int) -> Fraction:
    random = Random(f"{name} {number}")
    if number >= 6:
        return Fraction(random.randint(1, 40))
    part = Fraction(random.getrandbits(60) | 1, 1 << 60)
    return 2 * part + Fraction(1, 10) if number < 3 else 6 * part - 3


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
        value = _evaluate(expression, point)
        magnitude = mpmath.mag(value) if mpmath.isfinite(value) and value else 0
    if magnitude > 50:
        with mpmath.workdps(DIGITS + min(int(magnitude * 0.30103), MAX_DIGITS)):
            value = _evaluate(expression, point)
    elif magnitude < -80:  # tiny, or nothing but rounding
        with mpmath.workdps(2 * DIGITS):
            again = _evaluate(expression, point)
        value = mpmath.mpf(0) if abs(again) < abs(value) * mpmath.mpf(10) ** -20 else again
    if isinstance(value, mpmath.mpc) and abs(value.imag) <= abs(value) * mpmath.mpf(10) ** -30:
        value = value.real
    return value


def _evaluate(expression: Expression, point: dict[str, Fraction]) -> Any:
    try:
        value = _Evaluation(point).value(expression)
    except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence) as error:
        raise _Undefined from error
    if mpmath.isnan(value):
        raise _Undefined
    return value


class _Evaluation:
    """One expression at one point, within bounds on the steps and on every number on the way."""

    def __init__(self, point: dict[str, Fraction]) -> None:
        self.point = point
        self.steps = 0

    def value(self, expression: Expression) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Unreadable("an expression of too many steps")
        match expression:
            case Number(value):
                result = _fraction(value)
            case Symbol(name) if name in _CONSTANTS:
                return _CONSTANTS[name](mpmath.mp)
            case Symbol(name) if name in self.point:
                return _fraction(self.point[name])
            case Operation("sum" | "prod" as name, arguments):
                result = self._sum(name, arguments)
            case Operation(name, arguments):
                values = [self.value(argument) for argument in arguments]
                if name != "negative" and any(mpmath.isinf(value) for value in values):
                    raise Unreadable("arithmetic with infinity")
                result = self._operation(name, values)
            case _:
                raise Unreadable("a part without a value")
        if mpmath.isfinite(result) and result and abs(mpmath.mag(result)) > MAX_BITS:
            raise Unreadable("a number of too many digits")
        return result

    def _operation(self, name: str, values: list[Any]) -> Any:
        if name in _FUNCTIONS:
            if name in _PERIODIC and mpmath.isfinite(values[0]) and values[0] and mpmath.mag(values[0]) > 20:
                raise Unreadable(f"{name} of a large number")
            return getattr(mpmath, _FUNCTIONS[name])(values[0])
        if name.startswith("call "):
            return self._unknown(name, values)
        if name not in _NUMERIC:
            raise Unreadable(f"{name} is not worked out")
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
        bounds = exact(low), exact(high)
        if not isinstance(index, Symbol) or any(bound is None or bound.denominator != 1 for bound in bounds):
            raise Unreadable("a sum without whole numbers as bounds")
        first, last = (int(bound) for bound in bounds if bound is not None)
        if last - first >= MAX_TERMS:
            raise Unreadable("a sum of too many terms")
        outer = self.point
        total = mpmath.mpf(0 if name == "sum" else 1)
        for term in range(first, last + 1):
            self.point = {**outer, index.name: Fraction(term)}
            value = self.value(body)
            total = total + value if name == "sum" else total * value
        self.point = outer
        return total


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
    return mpmath.power(base, exponent)


def _root(value: Any, index: Any) -> Any:
    if mpmath.isint(index) and mpmath.im(value) == 0 and mpmath.re(value) < 0 and int(index) % 2:
        return -_raise(-value, 1 / index)  # the real root
    return value if value == 0 else _raise(value, 1 / index)


def _gamma_factorial(value: Any) -> Any:
    if abs(value) > MAX_FACTORIAL:
        raise Unreadable("the factorial of a large number")
    return mpmath.factorial(value)


def _gamma_binomial(upper: Any, lower: Any) -> Any:
    if max(abs(upper), abs(lower)) > MAX_FACTORIAL:
        raise Unreadable("the binomial of a large number")
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
    return mpmath.det(mpmath.matrix([list(entries[row * size : (row + 1) * size]) for row in range(size)]))


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
    "max": max,
    "min": min,
    "log": lambda *values: mpmath.log(values[-1], 10 if len(values) == 1 else values[0]),
    "lg": lambda value: mpmath.log(value, 10),
    "determinant": _determinant,
}
