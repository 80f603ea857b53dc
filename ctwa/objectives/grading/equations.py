"""Equations and inequalities as functions that are zero, or of one sign."""

from __future__ import annotations

from fractions import Fraction

from ctwa.objectives.grading.nodes import (
    INFINITY,
    NEGATIVE_INFINITY,
    Expression,
    Interval,
    Number,
    Operation,
    Quantity,
    Region,
    Relation,
    Symbol,
)
from ctwa.objectives.grading.values import equal, names_of, values_at

_COMPARISONS = {"<", ">", "<=", ">=", "=", "!="}


def as_relation(region: Region) -> Relation | None:
    """A half-line as the inequality it was: x < 4."""
    match region:
        case Region((Interval(low, high, low_closed, high_closed),), str(variable)):
            name = Quantity(Symbol(variable))
            if low == NEGATIVE_INFINITY:
                return Relation((name, Quantity(high)), ("<=" if high_closed else "<",))
            if high == INFINITY:
                return Relation((name, Quantity(low)), (">=" if low_closed else ">",))
    return None


def difference(relation: Relation) -> tuple[Expression, str] | None:
    """Left side less right side, and the operator between them."""
    match relation:
        case Relation((Quantity(left, None), Quantity(right, None)), (operator,)) if operator in _COMPARISONS:
            return Operation("add", (left, Operation("negative", (right,)))), operator
    return None


def constant_ratio(one: Expression, other: Expression) -> int | None:
    """The sign of the constant that one is the other times; None where there is no such constant."""
    names = sorted(names_of(one) | names_of(other))
    if not names or names_of(one) != names_of(other):
        return None
    pairs = [(values_at(one, number, names), values_at(other, number, names)) for number in range(6)]
    defined = [(left, right) for left, right in pairs if left is not None and right is not None and left and right]
    if len(defined) < 2:
        return None
    first_left, first_right = defined[0]
    tolerance = 1e-25
    if any(
        abs(left * first_right - right * first_left) > tolerance * abs(left * first_right) for left, right in defined
    ):
        return None
    quotient = first_left / first_right
    return 1 if getattr(quotient, "real", quotient) > 0 else -1


def solves(definition: Relation, equation: Expression) -> bool:
    """Whether an equation of first degree in y has the solution y = ..., as the definition says."""
    match definition:
        case Relation((Quantity(Symbol(name), None), Quantity(value, None)), ("=",)) if name not in names_of(value):
            pass
        case _:
            return False
    if names_of(equation) != names_of(value) | {name}:
        return False
    shifted = [_substituted(equation, name, Operation("add", (value, Number(Fraction(shift))))) for shift in range(3)]
    zero = Number(Fraction(0))
    doubled = Operation("multiply", (Number(Fraction(2)), shifted[1]))
    is_linear = equal(shifted[2], doubled) is True and equal(shifted[1], zero) is False
    return is_linear and equal(shifted[0], zero) is True


def _substituted(expression: Expression, name: str, value: Expression) -> Expression:
    match expression:
        case Symbol() if expression.name == name:
            return value
        case Operation(operation, arguments):
            return Operation(operation, tuple(_substituted(argument, name, value) for argument in arguments))
    return expression
