r"""Reads expressions: sums, products, powers, functions, and everything in brackets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction

from ctwa.objectives.grading.nodes import (
    INFINITY,
    NEGATIVE_INFINITY,
    Answer,
    Based,
    Collection,
    Expression,
    Interval,
    Matrix,
    Number,
    Operation,
    Quantity,
    Region,
    Symbol,
    Unreadable,
)
from ctwa.objectives.grading.tokens import MAX_DEPTH, Token
from ctwa.objectives.grading.words import NUMBERS

# What an operand of an operator may be; arithmetic takes expressions alone, and matrices times a number.
Operand = Expression | Answer

_END = Token("end", "the end")
_OPENERS = {"(", "[", "{", "\\{", "number", "letter", "function", "accent", "lfloor", "lceil", "langle", "dots", "norm"}
_OPENING_COMMANDS = {"frac", "sqrt", "binom", "sum", "prod", "begin", "infinity", "emptyset", "mathbb", "angle"}
_CALLED = {"f", "g", "F", "G"}  # f(x) is a value of f, h(a + b) a product
MAX_CHAIN = 10  # of divisions, of postfix operators, of \\pm
_MULTIPLE = {"gcd", "lcm", "max", "min"}
EXPRESSIONS = (Number, Based, Symbol, Operation)


def scalar(value: Operand) -> Expression:
    """The expression that a value is. Raises Unreadable where it is a set, a phrase, or has a unit."""
    if isinstance(value, Quantity) and value.unit is None:
        return value.value
    if isinstance(value, EXPRESSIONS):
        return value
    raise Unreadable(f"arithmetic with a {type(value).__name__.lower()}")


class ExpressionParser(ABC):
    """A recursive descent over tokens; what stands between brackets is read by :meth:`items`."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.bars = 0  # open |
        self.bar_ends = False  # in {x | ...} a bar ends the expression

    @abstractmethod
    def items(self) -> Collection:
        """The answers up to a closing bracket or the end, separated by commas, ``and``, ``or``."""

    def peek(self, ahead: int = 0) -> Token:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else _END

    def take(self) -> Token:
        token = self.peek()
        self.place += 1
        return token

    def accept(self, *kinds: str) -> bool:
        if self.peek().kind in kinds:
            self.place += 1
            return True
        return False

    def expect(self, kind: str) -> None:
        if not self.accept(kind):
            raise Unreadable(f"'{self.peek().text}' where '{kind}' belongs")

    def expression(self) -> Operand:
        self._enter()
        total = self._signed_term()
        num_signs = 0
        while (kind := self.peek().kind) in ("+", "-", "pm", "mp"):
            self.take()
            term = scalar(self._term())
            if kind == "-":
                term = Operation("negative", (term,))
            num_signs += kind in ("pm", "mp")
            if num_signs > MAX_CHAIN:
                raise Unreadable("too many signs")
            total = _joined("add", total, term) if kind in "+-" else Operation(kind, (scalar(total), term))
        if (kind := self.peek().kind) in ("over", "choose"):  # {1 \\over 2}, {5 \\choose 2}
            self.take()
            name = "divide" if kind == "over" else "binomial"
            total = Operation(name, (scalar(total), scalar(self.expression())))
        self.depth -= 1
        return total

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:  # a bracket is an expression and an atom
            raise Unreadable("nested too deep")

    def _signed_term(self) -> Operand:
        kind = self.peek().kind
        if kind not in ("+", "-", "pm", "mp"):
            return self._term()
        self.take()
        self._enter()
        inner = self._signed_term()
        self.depth -= 1
        if kind == "+":
            return inner
        if isinstance(inner, Matrix):
            return _scaled(Number(Fraction(-1)), inner)
        if kind == "-":
            return Operation("negative", (scalar(inner),))
        return Operation(kind, (Number(Fraction(0)), scalar(inner)))

    def _term(self) -> Operand:
        product = self._factor()
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
                product = _times(product, factor) if kind == "*" else _over(product, factor)
                previous = factor if kind == "*" else None
            elif kind == "command" and self.peek().text == "bmod":
                self.take()
                product = Operation("modulo", (scalar(product), scalar(self._factor())))
                previous = None
            elif self._begins_factor() and not self._is_temperature(product):
                is_number = kind == "number"
                fraction_follows = is_number or self.peek().text == "frac"
                if fraction_follows and previous is product and (mixed := self._mixed(previous)) is not None:
                    product, previous = mixed, None
                    continue
                if is_number and self.peek(-1).kind not in (")", "]", "dots"):
                    raise Unreadable(f"the number {self.peek().text} after a factor")
                product = _times(product, self._factor())
                previous = None
            else:
                return product

    def _mixed(self, whole: Operand) -> Expression | None:
        """3\\frac12 or 3 1/2 where they follow; None, and nothing read, where something else does.

        Raises:
            Unreadable: 3\\frac52, which is neither a mixed number nor clearly a product.
        """
        start = self.place
        if not isinstance(whole, Number) or whole.places is not None or whole.value.denominator != 1:
            return None
        if self.peek().kind == "number":
            if not (self.peek(1).kind == "/" and self.peek(2).kind == "number"):
                return None
            upper, _, lower = self.take(), self.take(), self.take()
            part: Operand = _over(_literal(upper), _literal(lower))
        else:
            part = self._factor()
        match part:
            case Operation("divide", (Number(upper_value, None), Number(lower_value, None))):
                if not 0 < upper_value < lower_value or not upper_value.denominator == lower_value.denominator == 1:
                    raise Unreadable("a mixed number of an improper fraction")
                return Number(whole.value + upper_value / lower_value)
        self.place = start
        return None

    def _is_temperature(self, value: Operand) -> bool:
        return isinstance(value, Operation) and value.name == "degree" and self.peek().text in ("C", "F")

    def _begins_factor(self) -> bool:
        token = self.peek()
        if token.kind == "|":
            return self.bars == 0 and not self.bar_ends
        return token.kind in _OPENERS or (token.kind == "command" and token.text in _OPENING_COMMANDS)

    def _signed_factor(self) -> Operand:
        if self.accept("-"):
            return Operation("negative", (scalar(self._factor()),))
        self.accept("+")
        return self._factor()

    def _factor(self) -> Operand:
        value = self._atom()
        start = self.place
        while True:
            token = self.peek()
            if self.place > start + 8 * MAX_CHAIN:
                raise Unreadable("too many powers of powers")
            if token.kind == "^" and self._accept_degree():
                value = Operation("degree", (scalar(value),))
            elif token.kind == "^":
                self.take()
                value = Operation("power", (scalar(value), self._exponent()))
            elif token.kind == "unit" and token.text == "percent":
                self.take()
                value = Operation("percent", (scalar(value),))
            elif token.kind == "unit" and token.text == "degree":
                self.take()
                value = Operation("degree", (scalar(value),))
            elif token.kind == "!":
                self.take()
                if self.peek().kind == "!":
                    raise Unreadable("a double factorial")
                value = Operation("factorial", (scalar(value),))
            elif token.kind == "_" and isinstance(value, Number):
                value = self._based(value)
            else:
                return value

    def _accept_degree(self) -> bool:
        """Whether ^\\circ follows, which is then read."""
        braced = self.peek(1).kind == "{"
        if self.peek(1 + braced) != Token("unit", "degree", spaced=self.peek(1 + braced).spaced):
            return False
        if braced and self.peek(3).kind != "}":
            return False
        self.place += 4 if braced else 2
        return True

    def _exponent(self) -> Expression:
        is_negative = self.accept("-")
        self.accept("+")
        exponent = scalar(self._atom())
        return Operation("negative", (exponent,)) if is_negative else exponent

    def _based(self, value: Number) -> Based:
        self.expect("_")
        if value.places is not None or value.value.denominator != 1:
            raise Unreadable("a fraction in another base")
        text = self.subscript()
        base = NUMBERS.get(text.lower().strip("()"), text.strip("()"))
        if not str(base).isdecimal():
            raise Unreadable(f"the base {text}")
        return Based(str(value.value), int(base))

    def subscript(self) -> str:
        """The text of what stands in braces, or of the next token."""
        if not self.accept("{"):
            return self.take().text
        texts, depth = [], 1
        while depth:
            token = self.take()
            if token is _END:
                raise Unreadable("a brace that is not closed")
            depth += {"{": 1, "}": -1}.get(token.kind, 0)
            if depth:
                texts.append(token.text)
        return "".join(texts)

    def _atom(self) -> Operand:
        self._enter()
        value = self._value_of(self.take())
        self.depth -= 1
        return value

    def _value_of(self, token: Token) -> Operand:
        match token.kind:
            case "number":
                return _literal(token)
            case "letter":
                return self._letter(token.text)
            case "function":
                return self._function(token.text)
            case "accent":
                return self._letter(f"{token.text} {self.subscript()}")
            case "dots":
                return Symbol("...")
            case "(" | "[" | "]" | "{" | "langle":
                return self._bracketed(token.kind)
            case "\\{":
                return self._set()
            case "|":
                self.bars += 1
                inner = scalar(self.expression())
                self.expect("|")
                self.bars -= 1
                return Operation("abs", (inner,))
            case "norm":
                inner = scalar(self.expression())
                self.expect("norm")
                return Operation("norm", (inner,))
            case "lfloor" | "lceil":
                inner = scalar(self.expression())
                self.expect("r" + token.kind[1:])
                return Operation("floor" if token.kind == "lfloor" else "ceiling", (inner,))
            case "command":
                return self._command(token.text)
        raise Unreadable(f"'{token.text}' where a value belongs")

    def _letter(self, name: str) -> Expression:
        while True:
            if self.accept("'"):
                name += "'"
            elif self.peek().kind == "^" and self.peek(1).kind == "'":
                self.place += 2
                name += "'"
            elif [self.peek(ahead).kind for ahead in range(4)] == ["^", "{", "'", "}"]:
                self.place += 4
                name += "'"
            elif self.accept("_"):
                name += "_" + self.subscript()
            else:
                break
        if name.rstrip("'") in _CALLED and self.peek().kind == "(":
            self.take()
            return Operation("call " + name, self._arguments(")"))
        return Symbol(name)

    def _arguments(self, closing: str) -> tuple[Expression, ...]:
        bars, self.bars = self.bars, 0
        arguments = tuple(scalar(item) for item in self.items().items)
        self.bars = bars
        self.expect(closing)
        return arguments

    def _function(self, name: str) -> Expression:
        exponent: Expression | None = None
        base: Expression | None = None
        while self.peek().kind in ("^", "_"):
            if self.accept("^"):
                exponent = self._exponent()
            else:
                self.take()
                base = scalar(self._atom())
        if name in _MULTIPLE or (self.peek().kind == "(" and base is None):
            if not self.accept("("):
                raise Unreadable(f"{name} without arguments")
            arguments = self._arguments(")")
        else:
            arguments = (self._unbracketed_argument(),)
        if len(arguments) != 1 and name not in _MULTIPLE:
            raise Unreadable(f"{name} of {len(arguments)} arguments")
        if exponent == Number(Fraction(-1)) or exponent == Operation("negative", (Number(Fraction(1)),)):
            name, exponent = "arc" + name, None
        if base is not None and name != "log":
            raise Unreadable(f"{name} with a subscript")
        value = Operation(name, (base, *arguments) if base is not None else arguments)
        return value if exponent is None else Operation("power", (value, exponent))

    def _unbracketed_argument(self) -> Expression:
        if self.accept("-"):
            return Operation("negative", (scalar(self._factor()),))
        value = self._factor()
        while self._begins_factor() and self.peek().kind != "function":
            value = _times(value, self._factor())
        return scalar(value)

    def _bracketed(self, opening: str) -> Operand:
        bars, self.bars = self.bars, 0
        bar_ends, self.bar_ends = self.bar_ends, False
        content = self.items()
        self.bars, self.bar_ends = bars, bar_ends
        closing = self.take().kind
        if opening in ("{", "langle") and closing != {"{": "}", "langle": "rangle"}[opening]:
            raise Unreadable(f"'{closing}' closes '{opening}'")
        if closing not in (")", "]", "}", "rangle", "["):
            raise Unreadable(f"'{opening}' is not closed")
        items = content.items
        if opening == "{" and len(items) != 1:
            return Collection("set", items)
        if len(items) == 1 and opening + closing in ("()", "[]", "{}"):
            item = items[0]
            return item.value if isinstance(item, Quantity) and item.unit is None else item
        if opening == "langle" or (len(items) != 2 and opening + closing in ("()", "[]")):
            return Collection("tuple", items)
        if opening + closing == "()" and content.joined_by == ",":
            return Collection("tuple", items)
        if len(items) == 2 and content.joined_by == ",":
            return Interval(scalar(items[0]), scalar(items[1]), opening == "[", closing == "]")
        raise Unreadable(f"{len(items)} values between '{opening}' and '{closing}'")

    @abstractmethod
    def _set(self) -> Operand:
        """What follows ``\\{``."""

    def _command(self, name: str) -> Operand:
        match name:
            case "frac":
                return _over(self._argument(), self._argument())
            case "sqrt":
                if self.accept("["):
                    index = scalar(self.expression())
                    self.expect("]")
                    return Operation("root", (scalar(self._argument()), index))
                return Operation("root", (scalar(self._argument()), Number(Fraction(2))))
            case "binom":
                return Operation("binomial", (scalar(self._argument()), scalar(self._argument())))
            case "sum" | "prod":
                return self._sum(name)
            case "begin":
                return self._matrix()
            case "infinity":
                return INFINITY
            case "emptyset":
                return Region(())
            case "mathbb":
                letter = self.subscript() if self.peek().kind in ("{", "letter") else "R"
                whole_line = Interval(NEGATIVE_INFINITY, INFINITY, low_closed=False, high_closed=False)
                return Region((whole_line,)) if letter == "R" else Symbol("mathbb " + letter)
            case "angle":
                letters = []
                while self.peek().kind == "letter":
                    letters.append(self.take().text)
                return Symbol("angle " + "".join(letters))
        raise Unreadable(f"'{name}' where a value belongs")

    def _argument(self) -> Operand:
        """An argument of a command: in braces, or the next atom, with its sign."""
        if self.peek().kind == "-":
            raise Unreadable("a command without its argument")
        return self._atom()

    def _sum(self, name: str) -> Operation:
        bounds: dict[str, Expression] = {}
        index = ""
        while self.peek().kind in ("_", "^"):
            if self.accept("^"):
                bounds["^"] = self._exponent()
                continue
            self.take()
            self.expect("{")
            variable = self._atom()
            if not isinstance(variable, Symbol) or not self.accept("="):
                raise Unreadable("a sum that does not say from where to where")
            index = variable.name
            bounds["_"] = scalar(self.expression())
            self.expect("}")
        if len(bounds) != 2:
            raise Unreadable("a sum that does not say from where to where")
        return Operation(name, (Symbol(index), bounds["_"], bounds["^"], scalar(self._term())))

    def _matrix(self) -> Operand:
        kind = self.subscript()
        if kind == "array" and self.peek().kind == "{":
            self.subscript()
        if kind not in ("pmatrix", "bmatrix", "vmatrix", "matrix", "array", "Bmatrix", "smallmatrix"):
            raise Unreadable(f"\\begin{{{kind}}} is not known")
        rows: list[list[Expression]] = [[]]
        while not (self.peek().kind == "command" and self.peek().text == "end"):
            if self.accept("&"):
                continue
            if self.accept("row"):
                rows.append([])
                continue
            if self.peek() is _END:
                raise Unreadable("a matrix without its end")
            rows[-1].append(scalar(self.expression()))
        self.take()
        if self.subscript() != kind:
            raise Unreadable("a matrix that ends as another")
        rows = [row for row in rows if row]
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise Unreadable("a matrix with rows of different lengths")
        if kind == "vmatrix":
            return Operation("determinant", tuple(entry for row in rows for entry in row))
        return Matrix(tuple(map(tuple, rows)))


def _literal(token: Token) -> Number:
    assert token.number is not None
    return token.number


def _times(left: Operand, right: Operand) -> Operand:
    if isinstance(right, Matrix):
        return _scaled(scalar(left), right)
    if isinstance(left, Matrix):
        return _scaled(scalar(right), left)
    return _joined("multiply", left, right)


def _joined(name: str, left: Operand, right: Operand) -> Operation:
    """A sum or a product of many is one operation: a chain of them would be a very deep tree."""
    first = scalar(left)
    before = first.arguments if isinstance(first, Operation) and first.name == name else (first,)
    return Operation(name, (*before, scalar(right)))


def _over(left: Operand, right: Operand) -> Operand:
    if isinstance(left, Matrix):
        return _scaled(Operation("divide", (Number(Fraction(1)), scalar(right))), left)
    return Operation("divide", (scalar(left), scalar(right)))


def _scaled(factor: Expression, matrix: Matrix) -> Matrix:
    return Matrix(tuple(tuple(Operation("multiply", (factor, entry)) for entry in row) for row in matrix.rows))
