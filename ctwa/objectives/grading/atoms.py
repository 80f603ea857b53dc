r"""Reads atoms: letters, functions, commands, and everything in brackets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from ctwa.objectives.grading.cursor import END, Cursor, Operand, literal, over, scalar, times
from ctwa.objectives.grading.nodes import (
    INFINITY,
    Answer,
    Collection,
    Expression,
    Interval,
    Matrix,
    Number,
    Operation,
    Quantity,
    Region,
    Relation,
    Symbol,
    Unreadable,
)
from ctwa.objectives.grading.sets import REALS
from ctwa.objectives.grading.tokens import Token

_CALLED = {"f", "g", "F", "G"}  # f(x) is a value of f, h(a + b) a product
_NO_FACTOR = {"=", "<", ">", "<=", ">=", "!=", "cap", "cup"}  # in brackets that hold no number
_MULTIPLE = {"gcd", "lcm", "max", "min"}


class AtomParser(Cursor, ABC):
    """Atoms; what they hold is read by the parsers of expressions and answers."""

    @abstractmethod
    def expression(self) -> Operand:
        """A sum."""

    @abstractmethod
    def factor(self) -> Operand:
        """An atom with its powers and signs behind it."""

    @abstractmethod
    def exponent(self) -> Expression:
        """What follows ``^``."""

    @abstractmethod
    def term(self) -> Operand:
        """A product."""

    @abstractmethod
    def begins_factor(self) -> bool:
        """Whether the next token continues a product."""

    @abstractmethod
    def items(self) -> Collection:
        """The answers up to a closing bracket or the end, separated by commas, ``and``, ``or``."""

    @abstractmethod
    def set_content(self) -> Operand:
        r"""What follows ``\{``."""

    def atom(self) -> Operand:
        """A number, a letter, a function of something, or what stands in brackets."""
        self.enter()
        value = self._value_of(self.take())
        self.depth -= 1
        return value

    def _value_of(self, token: Token) -> Operand:
        match token.kind:
            case "number":
                return literal(token)
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
                return self.set_content()
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
        if name in _CALLED and [self.peek(ahead).text for ahead in range(6)] == ["^", "{", "-", "1", "}", "("]:
            self.place += 5
            name += "^{-1}"
        if name.removesuffix("^{-1}").rstrip("'") in _CALLED and self.peek().kind == "(":
            self.take()
            return Operation("call " + name, self._arguments(")"))
        return Symbol(name + self._which_value())

    def _which_value(self) -> str:
        """The brackets of h(2) = 5 and P(X = 2) = 5, which say what is 5 and are no factor; else nothing."""
        if self.peek().kind != "(":
            return ""
        inside: list[Token] = []
        while (token := self.peek(len(inside) + 1)).kind not in ("(", ")", "end"):
            inside.append(token)
        kinds = [token.kind for token in inside]
        is_condition = not _NO_FACTOR.isdisjoint(kinds) or kinds.count("|") % 2 == 1  # A | B, and no |x|
        is_one = is_condition or kinds in (["number"], ["-", "number"])
        if not is_one or token.kind != ")" or self.peek(len(inside) + 2).kind not in ("=", "approx"):
            return ""
        self.place += len(inside) + 2
        return f"({''.join(token.text for token in inside)})"

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
                exponent = self.exponent()
            else:
                self.take()
                base = scalar(self.atom())
        if name in _MULTIPLE or (self.peek().kind == "(" and base is None):
            if not self.accept("("):
                raise Unreadable(f"{name} without arguments")
            arguments = self._arguments(")")
        else:
            arguments = (self._unbracketed_argument(),)
        if not arguments or (len(arguments) != 1 and name not in _MULTIPLE):
            raise Unreadable(f"{name} of {len(arguments)} arguments")
        if exponent == Number(Fraction(-1)) or exponent == Operation("negative", (Number(Fraction(1)),)):
            name, exponent = "arc" + name, None
        if base is not None and name != "log":
            raise Unreadable(f"{name} with a subscript")
        value = Operation(name, (base, *arguments) if base is not None else arguments)
        return value if exponent is None else Operation("power", (value, exponent))

    def _unbracketed_argument(self) -> Expression:
        if self.accept("-"):
            return Operation("negative", (scalar(self.factor()),))
        value = self.factor()
        while self.begins_factor() and self.peek().kind != "function":
            value = times(value, self.factor())
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

    def _command(self, name: str) -> Operand:
        match name:
            case "frac":
                return over(self._argument(), self._argument())
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
                return REALS if letter == "R" else Symbol("mathbb " + letter)
            case "angle":
                letters = []
                while self.peek().kind == "letter":
                    letters.append(self.take().text)
                return Symbol("angle " + "".join(letters))
        raise Unreadable(f"'{name}' where a value belongs")

    def _is_end(self) -> bool:
        return self.peek().kind == "command" and self.peek().text == "end"

    def _cell(self) -> Expression:
        if self.peek().kind in ("&", "row") or self._is_end():
            raise Unreadable("a matrix with an empty cell")
        if self.peek() is END:
            raise Unreadable("a matrix without its end")
        return scalar(self.expression())

    def _equations(self) -> Collection:
        r"""The lines of \begin{cases}, which are equations or inequalities that hold together, and no branches."""
        lines: list[Answer] = []
        while not self._is_end():
            lines += self.items().items
            if not self.accept("row") and not self._is_end():
                raise Unreadable(f"'{self.peek().text}' after a line of several")
        self.take()
        if self.subscript() != "cases" or not lines or not all(isinstance(line, Relation) for line in lines):
            raise Unreadable("lines of something else than equations")
        return Collection("list", tuple(lines), "and")

    def _argument(self) -> Operand:
        """An argument of a command: in braces, or the next atom, with its sign."""
        if self.peek().kind == "-":
            raise Unreadable("a command without its argument")
        return self.atom()

    def _sum(self, name: str) -> Operation:
        bounds: dict[str, Expression] = {}
        index = ""
        while self.peek().kind in ("_", "^"):
            if self.accept("^"):
                bounds["^"] = self.exponent()
                continue
            self.take()
            self.expect("{")
            variable = self.atom()
            if not isinstance(variable, Symbol) or not self.accept("="):
                raise Unreadable("a sum that does not say from where to where")
            index = variable.name
            bounds["_"] = scalar(self.expression())
            self.expect("}")
        if len(bounds) != 2:
            raise Unreadable("a sum that does not say from where to where")
        return Operation(name, (Symbol(index), bounds["_"], bounds["^"], scalar(self.term())))

    def _matrix(self) -> Operand:
        kind = self.subscript()
        if kind == "cases":
            return self._equations()
        if kind == "array" and self.peek().kind == "{":
            self.subscript()
        if kind not in ("pmatrix", "bmatrix", "vmatrix", "matrix", "array", "Bmatrix", "smallmatrix"):
            raise Unreadable(f"\\begin{{{kind}}} is not known")
        rows: list[list[Expression]] = [[]]
        while not self._is_end():
            if self.accept("row"):
                rows.append([])
                continue
            rows[-1].append(self._cell())
            while self.accept("&"):
                rows[-1].append(self._cell())
            if self.peek().kind != "row" and not self._is_end():
                raise Unreadable(f"'{self.peek().text}' after a cell of a matrix")
        self.take()
        if self.subscript() != kind:
            raise Unreadable("a matrix that ends as another")
        rows = [row for row in rows if row]
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise Unreadable("a matrix with rows of different lengths")
        if kind == "vmatrix":
            return Operation("determinant", tuple(entry for row in rows for entry in row))
        return Matrix(tuple(map(tuple, rows)))
