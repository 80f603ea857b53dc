"""The place in a row of tokens, and what the parsers share."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ctwa.objectives.grading.nodes import (
    Answer,
    Based,
    Expression,
    Matrix,
    Number,
    Operation,
    Quantity,
    Symbol,
    Unit,
    Unreadable,
)
from ctwa.objectives.grading.tokens import MAX_DEPTH, Token

# What an operand of an operator may be; arithmetic takes expressions alone, and matrices times a number.
Operand = Expression | Answer
EXPRESSIONS = (Number, Based, Symbol, Operation)
END = Token("end", "the end")


class Cursor:
    """Tokens, and the next one to be read."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.bars = 0  # open |
        self.bar_ends = False  # in {x | ...} a bar ends the expression

    def peek(self, ahead: int = 0) -> Token:
        """The token that many places ahead, which stays where it is."""
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else END

    def take(self) -> Token:
        """The next token, which is read thereby."""
        token = self.peek()
        self.place += 1
        return token

    def accept(self, *kinds: str) -> bool:
        """Read the next token if it is of one of these kinds; whether it was."""
        if self.peek().kind in kinds:
            self.place += 1
            return True
        return False

    def expect(self, kind: str) -> None:
        """Read a token that has to be there. Raises Unreadable where it is not."""
        if not self.accept(kind):
            raise Unreadable(f"'{self.peek().text}' where '{kind}' belongs")

    def enter(self) -> None:
        """Go one level down. Raises Unreadable where that is too deep."""
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:  # a bracket is an expression and an atom
            raise Unreadable("nested too deep")

    def subscript(self) -> str:
        """The text of what stands in braces, or of the next token."""
        if not self.accept("{"):
            return self.take().text
        texts, depth = [], 1
        while depth:
            token = self.take()
            if token is END:
                raise Unreadable("a brace that is not closed")
            depth += {"{": 1, "}": -1}.get(token.kind, 0)
            if depth:
                texts.append(token.text)
        return "".join(texts)


def scalar(value: Operand) -> Expression:
    """The expression that a value is, with its degree or percent. Raises Unreadable for sets, phrases, other units."""
    match value:
        case Quantity(bare, None):
            return bare
        case Quantity(bare, Unit((("degree" | "percent" as unit, 1),))):
            return Operation(unit, (bare,))
    if isinstance(value, EXPRESSIONS):
        return value
    raise Unreadable(f"arithmetic with a {type(value).__name__.lower()}")


def literal(token: Token) -> Number:
    """The literal of a number's token."""
    assert token.number is not None
    return token.number


def times(left: Operand, right: Operand) -> Operand:
    """A product, of a matrix with a number too."""
    if isinstance(right, Matrix):
        return scaled(scalar(left), right)
    if isinstance(left, Matrix):
        return scaled(scalar(right), left)
    return joined("multiply", left, right)


def joined(name: str, left: Operand, right: Operand) -> Operation:
    """A sum or a product of many is one operation: a chain of them would be a very deep tree."""
    first = scalar(left)
    before = first.arguments if isinstance(first, Operation) and first.name == name else (first,)
    return Operation(name, (*before, scalar(right)))


def over(left: Operand, right: Operand) -> Operand:
    """A quotient, of a matrix by a number too."""
    if isinstance(left, Matrix):
        return scaled(Operation("divide", (Number(Fraction(1)), scalar(right))), left)
    return Operation("divide", (scalar(left), scalar(right)))


def scaled(factor: Expression, matrix: Matrix) -> Matrix:
    """A matrix with every entry multiplied."""
    return Matrix(tuple(tuple(Operation("multiply", (factor, entry)) for entry in row) for row in matrix.rows))
