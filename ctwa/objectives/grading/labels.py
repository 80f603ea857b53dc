"""Names on the left of an equation: what x = 5, f(2) = 5 and Area = 5 say that 5 is."""

from __future__ import annotations

from ctwa.objectives.grading.nodes import Answer, Collection, Expression, Operation, Phrase, Quantity, Symbol
from ctwa.objectives.grading.values import equal, names_of
from ctwa.objectives.grading.words import AUXILIARIES, NO_UNITS

_NEGATIONS = NO_UNITS - {"least", "most"} | AUXILIARIES | {"false", "except", "excluding", "without"}
_ELEMENTARY = {"negative", "add", "multiply", "divide", "root", "power", "exp", "ln", "log", "lg"}
_BARE_ABS = [Operation("abs", (Symbol(name),)) for name in "xyt"]  # |v|, |S| and |z| are asked for


def is_label(member: Answer, value: Answer) -> bool:
    """Whether the left side is a name for the right one: no equation for a variable of it, and not part of it."""
    if isinstance(member, Phrase):
        return _NEGATIONS.isdisjoint(member.words[:1]) or member.words[:2] == ("no", "of")  # not x = 5; No. of cats = 5
    if isinstance(member, Collection):  # (x, y) = (1, 2)
        return member.kind == "tuple" and all(is_label(item, value) for item in member.items)
    if not isinstance(member, Quantity) or member.unit is not None:
        return False
    names = names_of(member.value)
    if isinstance(value, Quantity) and isinstance(member.value, Symbol) and names & names_of(value.value):
        return False
    return bool(names) and not _has_number(member.value) and not _is_equation(member.value)


def _is_equation(expression: Expression) -> bool:
    r"""Whether an expression is to be solved for its one variable: -x, \sqrt{x}, e^x, \pi x; not n!, |z|, -\frac ba."""
    if expression in _BARE_ABS:
        return True
    return isinstance(expression, Operation) and len(names_of(expression)) == 1 and _is_elementary(expression)


def _is_elementary(expression: Expression) -> bool:
    if isinstance(expression, Operation):
        return expression.name in _ELEMENTARY and all(map(_is_elementary, expression.arguments))
    return True


def _has_number(expression: Expression) -> bool:
    match expression:
        case Operation("root", (radicand, _)):
            return _has_number(radicand)
        case Operation(name, arguments):
            return not name.startswith("call ") and any(_has_number(argument) for argument in arguments)
        case Symbol():
            return False
    return True


def same_label(one: Answer, other: Answer) -> bool:
    """Whether two names may be of the same thing: y and f(x), Area and A, but not x and y, nor Area and Perimeter."""
    match one, other:
        case Quantity(Symbol() | Operation() as ours), Quantity(Symbol() | Operation() as theirs):
            kinds = {name.name[:5] if isinstance(name, Operation) else "" for name in (ours, theirs)}
            return kinds == {"call ", ""} or equal(ours, theirs) is True
        case Quantity(), Quantity():
            return False
        case Collection(_, ours), Collection(_, theirs):
            return len(ours) == len(theirs) and all(map(same_label, ours, theirs))
        case Phrase(ours), Phrase(theirs):  # the area, and the area of the circle
            return set(ours) <= set(theirs) or set(theirs) <= set(ours)
    return True
