r"""Sets given by a condition, \{x \in (0,5) \mid x>3\}, and by what is not in them, x \ne 2, 3."""

from __future__ import annotations

from ctwa.objectives.grading.nodes import (
    INFINITY,
    NEGATIVE_INFINITY,
    Answer,
    Collection,
    Interval,
    Quantity,
    Region,
    Relation,
    Symbol,
    Unreadable,
)
from ctwa.objectives.grading.values import names_of

REALS = Region((Interval(NEGATIVE_INFINITY, INFINITY, low_closed=False, high_closed=False),))
_NAMES_OF_REALS = (REALS, Quantity(Symbol("R")))  # R without its double line


def values_where(content: Collection, conditions: Collection) -> Answer:
    """The real numbers of a domain that fulfil all conditions, or one of several between which ``or`` stands.

    Raises:
        Unreadable: they are no values of one real variable, or a condition is no equation or inequality of it.
    """
    match content.items:
        case (Quantity(Symbol(name), None),):
            domain: tuple[Answer, ...] = ()
        case (Relation((Quantity(Symbol(name), None), values), ("in",)),) if _is_real(values):
            domain = () if values in _NAMES_OF_REALS else (values,)
        case _:
            raise Unreadable("a set of something else than a real variable's values")
    if not conditions.items or not all(_is_condition(condition, name) for condition in conditions.items):
        raise Unreadable(f"a set with a condition that is none of {name}")
    if conditions.joined_by == "or":
        condition: Answer = conditions
    else:
        condition = conditions.items[0]
        domain += conditions.items[1:]
    for others in domain:
        condition = Relation((others, condition), ("cap",))
    return condition


def all_excluded(items: list[Answer]) -> list[Answer]:
    r"""X \ne 2, 3 as x \ne 2, x \ne 3."""
    for place, item in enumerate(items[1:], start=1):
        match items[place - 1], item:
            case Relation((name, _), ("!=",)), Quantity():
                items[place] = Relation((name, item), ("!=",))
    return items


def _is_condition(answer: Answer, name: str) -> bool:
    """Whether an answer is an equation, an inequality or a domain for a variable of that name."""
    match answer:
        case Relation((Quantity(Symbol(variable), None), values), ("in",)):
            return variable == name and _is_real(values)
        case Relation(members, operators) if not {"in", "mod"} & set(operators):
            sides = [member.value for member in members if isinstance(member, Quantity) and member.unit is None]
            return len(sides) == len(members) and any(name in names_of(side) for side in sides)
    return False


def _is_real(domain: Answer) -> bool:
    match domain:
        case Relation((one, other), ("cup" | "cap" | "setminus",)):
            return _is_real(one) and _is_real(other)
        case Collection("tuple" | "set", items):
            return all(isinstance(item, Quantity) for item in items)
    return domain in _NAMES_OF_REALS or isinstance(domain, Interval | Region)
