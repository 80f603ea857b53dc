r"""Reads expressions: sums, products, powers, mixed numbers."""

from __future__ import annotations

from abc import ABC
from fractions import Fraction

from ctwa.objectives.grading.atoms import AtomParser
from ctwa.objectives.grading.cursor import Operand, joined, literal, over, scalar, scaled, times
from ctwa.objectives.grading.nodes import Based, Collection, Expression, Interval, Matrix, Number, Operation, Unreadable
from ctwa.objectives.grading.numerals import NUMBERS
from ctwa.objectives.grading.tokens import Token

_OPENERS = {"(", "[", "{", "\\{", "number", "letter", "function", "accent", "lfloor", "lceil", "langle", "dots", "norm"}
_OPENING_COMMANDS = {"frac", "sqrt", "binom", "sum", "prod", "begin", "infinity", "emptyset", "mathbb", "angle"}
MAX_CHAIN = 10  # of divisions, of postfix operators, of \pm


class ExpressionParser(AtomParser, ABC):
    """A recursive descent over tokens; what stands between brackets is read by :meth:`items`."""

    def expression(self) -> Operand:
        """A sum, or one term."""
        self.enter()
        total = self._signed_term()
        num_signs = 0
        while (kind := self.peek().kind) in ("+", "-", "pm", "mp"):
            self.take()
            term = scalar(self.term())
            if kind == "-":
                term = Operation("negative", (term,))
            num_signs += kind in ("pm", "mp")
            if num_signs > MAX_CHAIN:
                raise Unreadable("too many signs")
            total = joined("add", total, term) if kind in "+-" else Operation(kind, (scalar(total), term))
        if (kind := self.peek().kind) in ("over", "choose"):  # {1 \over 2}, {5 \choose 2}
            self.take()
            name = "divide" if kind == "over" else "binomial"
            total = Operation(name, (scalar(total), scalar(self.expression())))
        self.depth -= 1
        return total

    def _signed_term(self) -> Operand:
        kind = self.peek().kind
        if kind not in ("+", "-", "pm", "mp"):
            return self.term()
        self.take()
        self.enter()
        inner = self._signed_term()
        self.depth -= 1
        if kind == "+":
            return inner
        if isinstance(inner, Matrix):
            return scaled(Number(Fraction(-1)), inner)
        if kind == "-":
            return Operation("negative", (scalar(inner),))
        return Operation(kind, (Number(Fraction(0)), scalar(inner)))

    def term(self) -> Operand:
        """A product, or one factor; also without a sign between the factors."""
        product = self.factor()
        previous: Operand | None = product  # the factor just read, while only it may begin a mixed number
        num_quotients = 0
        while True:
            kind = self.peek().kind
            if kind in ("*", "/"):
                self.take()
                factor = self._signed_factor()
                num_quotients += kind == "/"
                if num_quotients > MAX_CHAIN:
                    raise Unreadable("too many divisions in a row")
                product = times(product, factor) if kind == "*" else over(product, factor)
                previous = factor if kind == "*" else None
            elif kind == "command" and self.peek().text == "bmod":
                self.take()
                product = Operation("modulo", (scalar(product), scalar(self.factor())))
                previous = None
            elif self.begins_factor() and not self._is_temperature(product):
                is_number = kind == "number"
                fraction_follows = is_number or self.peek().text == "frac"
                if fraction_follows and previous is product and (mixed := self._mixed(previous)) is not None:
                    product, previous = mixed, None
                    continue
                if is_number and self.peek(-1).kind not in (")", "]", "!", "dots"):
                    raise Unreadable(f"the number {self.peek().text} after a factor")
                product = times(product, self.factor())
                previous = None
            else:
                return product

    def _mixed(self, whole: Operand) -> Expression | None:
        r"""3\frac12 or 3 1/2 where they follow; None, and nothing read, where something else does.

        Raises:
            Unreadable: 3\frac52, which is neither a mixed number nor clearly a product.
        """
        start = self.place
        if not isinstance(whole, Number) or whole.places is not None or whole.value.denominator != 1:
            return None
        if self.peek().kind == "number":
            if not (self.peek(1).kind == "/" and self.peek(2).kind == "number"):
                return None
            upper, _, lower = self.take(), self.take(), self.take()
            part: Operand = over(literal(upper), literal(lower))
        else:
            part = self.atom()
        match part:
            case Operation("divide", (Number(upper_value, None), Number(lower_value, None))) if (
                unit := self._postfix_unit()
            ) or self.peek().kind not in ("^", "!", "_"):
                if not 0 < upper_value < lower_value or not upper_value.denominator == lower_value.denominator == 1:
                    raise Unreadable("a mixed number of an improper fraction")
                mixed = Number(whole.value + upper_value / lower_value)
                return Operation(unit, (mixed,)) if unit else mixed
        self.place = start
        return None

    def _is_temperature(self, value: Operand) -> bool:
        return isinstance(value, Operation) and value.name == "degree" and self.peek().text in ("C", "F")

    def begins_factor(self) -> bool:
        """Whether the next token begins another factor."""
        token = self.peek()
        if token.kind == "|":
            return self.bars == 0 and not self.bar_ends
        return token.kind in _OPENERS or (token.kind == "command" and token.text in _OPENING_COMMANDS)

    def _signed_factor(self) -> Operand:
        if self.accept("-"):
            return Operation("negative", (scalar(self.factor()),))
        self.accept("+")
        return self.factor()

    def factor(self) -> Operand:
        """An atom with its power, factorial, percent or degree."""
        value = self.atom()
        start = self.place
        while True:
            token = self.peek()
            if self.place > start + 8 * MAX_CHAIN:
                raise Unreadable("too many powers of powers")
            if unit := self._postfix_unit():
                value = Operation(unit, (scalar(value),))
            elif token.kind == "^" and isinstance(value, Matrix | Collection | Interval):
                value = self._transposed(value)
            elif token.kind == "^":
                self.take()
                value = Operation("power", (scalar(value), self.exponent()))
            elif token.kind == "!":
                self.take()
                if self.peek().kind == "!":
                    raise Unreadable("a double factorial")
                value = Operation("factorial", (scalar(value),))
            elif token.kind == "_" and isinstance(value, Number):
                value = self._based(value)
            else:
                return value

    def _transposed(self, value: Matrix | Collection | Interval) -> Matrix:
        """(1,2)^T is a column."""
        self.expect("^")
        if self.subscript() != "T":
            raise Unreadable("a power of several values")
        match value:
            case Matrix(rows):
                return Matrix(tuple(zip(*rows, strict=True)))
            case Collection("tuple", items):
                return Matrix(tuple((scalar(item),) for item in items))
            case Interval(low, high, low_closed=True, high_closed=True):
                return Matrix(((low,), (high,)))
        raise Unreadable("the transpose of no vector")

    def _postfix_unit(self) -> str:
        """``percent`` or ``degree`` where its sign follows, which is then read; else nothing."""
        token = self.peek()
        if token.kind == "^" and self._accept_degree():
            return "degree"
        if token.kind == "unit" and token.text in ("percent", "degree"):
            return self.take().text
        return ""

    def _accept_degree(self) -> bool:
        r"""Whether ^\circ follows, which is then read."""
        braced = self.peek(1).kind == "{"
        if self.peek(1 + braced) != Token("unit", "degree", spaced=self.peek(1 + braced).spaced):
            return False
        if braced and self.peek(3).kind != "}":
            return False
        self.place += 4 if braced else 2
        return True

    def exponent(self) -> Expression:
        """What follows ``^``: in braces, or the next atom with its sign."""
        is_negative = self.accept("-")
        self.accept("+")
        exponent = scalar(self.atom())
        return Operation("negative", (exponent,)) if is_negative else exponent

    def _based(self, value: Number) -> Number | Based:
        self.expect("_")
        if value.places is not None or value.value.denominator != 1:
            raise Unreadable("a fraction in another base")
        text = self.subscript()
        base = NUMBERS.get(text.lower().strip("()"), text.strip("()"))
        if not str(base).isdecimal():
            raise Unreadable(f"the base {text}")
        return value if int(base) == 10 else Based(str(value.value), int(base))
