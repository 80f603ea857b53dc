r"""Reads a whole answer: lists, relations, regions, quantities with units, phrases."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from ctwa.objectives.grading import words
from ctwa.objectives.grading.cursor import EXPRESSIONS, Operand, scalar
from ctwa.objectives.grading.expressions import ExpressionParser
from ctwa.objectives.grading.nodes import (
    Answer,
    Based,
    Collection,
    Expression,
    Number,
    Operation,
    Phrase,
    Quantity,
    Ratio,
    Relation,
    Unit,
    Unreadable,
)
from ctwa.objectives.grading.numerals import NUMBERS, PARTS, SCALES, numeral, share
from ctwa.objectives.grading.rational import exact
from ctwa.objectives.grading.sets import REALS, all_excluded, values_where
from ctwa.objectives.grading.tokens import CURRENCIES, Token, tokenize

_RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "approx", "equiv", "in", "~"}
_ORDERS = {"<", ">", "<=", ">=", "!="}
_SUMS = {"add", "pm", "mp"}
_JOINING = words.ARTICLES | words.AUXILIARIES | {"of", "per", "to"}  # between the words of a unit
_COUNTED = {"zeros", "ones"}  # 5 zeros, 5 blue ones; 5 tens are 50
_MAX_UNIT_TOKENS = 20
_CLOSERS = {"end", ")", "]", "}", "\\}", "rangle"}


def read(text: str, *, groups_thousands: bool = True) -> Answer:
    """Read plain LaTeX as an answer, all of it.

    Raises:
        Unreadable: there is a part that cannot be read.
    """
    tokens = _with_or_for_cup(tokenize(text, groups_thousands=groups_thousands))
    while tokens and _are_in_braces(tokens):
        tokens = tokens[1:-1]
    if not tokens:
        raise Unreadable("nothing is written")
    if (based := _in_letters_and_digits(tokens)) is not None:
        return Quantity(based)
    parser = _AnswerParser(tokens)
    answer = _unwrapped(parser.items())
    if parser.place < len(tokens):
        raise Unreadable(f"'{parser.peek().text}' after the answer")
    return answer


def _with_or_for_cup(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    r"""x<1 \cup x>3 is meant as x<1 or x>3, where no set is joined to another."""
    kinds = {token.kind for token in tokens}
    if "cup" not in kinds or not kinds & {"<", ">", "<=", ">="} or kinds & {"(", "[", "]", "\\{", "in"}:
        return tokens
    return tuple(Token("joint", "or", spaced=token.spaced) if token.kind == "cup" else token for token in tokens)


def _are_in_braces(tokens: tuple[Token, ...]) -> bool:
    """Whether one pair of braces, with one answer in it, holds them all."""
    depth = 0
    for token in tokens[:-1]:
        depth += {"{": 1, "}": -1}.get(token.kind, 0)
        if depth == 0 or token.kind == ",":
            return False
    return tokens[-1].kind == "}"


def _in_letters_and_digits(tokens: tuple[Token, ...]) -> Based | None:
    """A number such as A3F_{16}."""
    places = [place for place, token in enumerate(tokens) if token.kind == "_"]
    if len(places) != 1 or not any(token.kind in ("letter", "word") for token in tokens[: places[0]]):
        return None
    digits = "".join(token.text for token in tokens[: places[0]])
    base = "".join(token.text for token in tokens[places[0] + 1 :] if token.kind not in "{}")
    if len(digits) < 2 or not digits.isalnum() or not any(c.isdecimal() for c in digits) or not base.isdecimal():
        return None
    return Based(digits.upper(), int(base)) if 10 < int(base) <= 36 else None


def _unwrapped(answers: Collection) -> Answer:
    return answers.items[0] if len(answers.items) == 1 else answers


class _AnswerParser(ExpressionParser):
    def items(self) -> Collection:
        found: list[Answer] = []
        joints: list[str] = []
        opens_to_the_left = self.place == 0 and self.peek().kind == "]"  # ]3, 4]
        if self.peek().kind in _CLOSERS and not opens_to_the_left:
            return Collection("list", ())
        while True:
            found.append(self._item())
            if self.peek().kind == "number" and _has_unit(found[-1]):
                joints.append("and")  # 5 feet 6 inches, 3 boys 4 girls
            elif self.accept(","):  # `, and` is one joint
                joints.append(self.take().text if self.peek().kind == "joint" else ",")
            elif self.peek().kind == "joint":
                joints.append(self.take().text)
            else:
                break
        joined_by = next((joint for joint in ("or", "and") if joint in joints), ",")
        return Collection("list", tuple(found if joined_by == "or" else all_excluded(found)), joined_by)

    def _item(self) -> Answer:
        if self.place == 0:
            self.accept("=", "approx", "~")  # "= 58"
        members, operators = [self._operand()], []
        while self.peek().kind in _RELATIONS:
            operators.append(self.take().kind)
            members.append(self._operand())
        if (self.peek().kind == ":" or self._is_to()) and not operators and not self.bar_ends:
            return self._ratio(members[0])
        if not _ORDERS.isdisjoint(operators) and any(_has_words(member) for member in members):
            raise Unreadable("words behind an inequality")
        modulus = self._modulus()
        if modulus is not None:
            if not isinstance(members[-1], Quantity | Collection):
                raise Unreadable("a modulus behind what is no number")
            members.append(modulus)
            operators.append("mod")
        return Relation(tuple(members), tuple(operators)) if operators else members[0]

    def _is_to(self) -> bool:
        return self.peek().kind == "word" and self.peek().text == "to"

    def _accept_to(self) -> bool:
        return self._is_to() and bool(self.take())

    def _modulus(self) -> Answer | None:
        has_bracket = self.peek().kind == "(" and self.peek(1) == Token("command", "pmod", spaced=self.peek(1).spaced)
        if has_bracket:
            self.take()
        if not (self.peek().kind == "command" and self.peek().text == "pmod"):
            return None
        self.take()
        modulus = Quantity(scalar(self.expression()))
        if has_bracket:
            self.expect(")")
        return modulus

    def _ratio(self, first: Answer) -> Ratio:
        parts = [scalar(first)]
        texts = [self.peek(-1).text]
        while self.accept(":") or self._accept_to():
            parts.append(scalar(self.expression()))
            texts.append(self.peek(-1).text)
        is_clock = len(parts) <= 3 and all(text.isdecimal() for text in texts)
        half = self.take().text.lower() if self.peek().text.lower() in ("am", "pm") else ""
        return Ratio(tuple(parts), is_clock and all(len(t) == 2 and int(t) < 60 for t in texts[1:]), half)

    def _operand(self) -> Answer:
        value = self._region_or_value()
        while (kind := self.peek().kind) in ("cup", "cap", "setminus"):
            self.take()
            other = self._region_or_value()
            value = Relation((value, other), (kind,))
        return value

    def _region_or_value(self) -> Answer:
        while self.peek().text.lower() in words.FILLERS and self.peek().kind == "word" and self._more_follows():
            self.take()
            self.accept(":")
        token = self.peek()
        is_sign = token.kind == "-" and self.peek(1).kind == "word"
        if (is_sign or (token.kind == "word" and token.text.lower() in words.SIGNS)) and self._value_follows():
            self.take()
            return self._negated(self._region_or_value())
        currency = self._currency()
        sign = currency is None and token.kind in ("-", "+") and self.peek(1).text in CURRENCIES
        if sign:
            self.take()
            currency = self._currency()
        if currency is None and token.kind == "word":
            return self._words()
        value: Operand = self.expression()
        if token.kind == "-" and sign:
            value = Operation("negative", (scalar(value),))
        return self._quantity(value, currency)

    def _more_follows(self) -> bool:
        return self.peek(1).kind not in (*_CLOSERS, ",", "joint", *_RELATIONS)

    def _value_follows(self) -> bool:
        token = self.peek(1)
        if token.kind == "word":
            return token.text.lower() in NUMBERS
        return token.kind in ("number", "letter", "unit", "(", "{") or token.kind == "command"

    @staticmethod
    def _negated(value: Answer) -> Quantity:
        if not isinstance(value, Quantity) or (isinstance(value.value, Operation) and value.value.name in _SUMS):
            raise Unreadable("'negative' before something else than one term")
        return Quantity(Operation("negative", (value.value,)), value.unit)

    def _currency(self) -> str | None:
        token = self.peek()
        return self.take().text if token.kind == "unit" and token.text in CURRENCIES else None

    def _words(self) -> Answer:
        if (number := numeral(self._next_words())) is not None:
            self.place += number[1]
            return self._quantity(Number(number[0]), None)
        found: list[str] = []
        while (token := self.peek()).kind in ("word", "letter", "number", "function", "'", ".", "?", "!"):
            self.take()
            if token.kind not in ".?!" and not self._is_article(token, is_first=not found):
                found.append(token.text.lower())
        if found in (["all", "real", "numbers"], ["all", "reals"]):
            return REALS
        return Phrase(tuple(found))

    def _is_article(self, token: Token, *, is_first: bool) -> bool:
        """Whether the word just read is one: the A of a circle, and not of team A."""
        if token.kind != "word" or token.text.lower() not in words.ARTICLES:
            return False
        return token.text.lower() == "the" or (self.peek().kind == "word" and (is_first or token.text.islower()))

    def _next_words(self, ahead: int = 0) -> list[str]:
        """The words from that many tokens ahead on, with each ``and`` among them."""
        found = []
        while (token := self.peek(ahead)).kind == "word" or (token.kind, token.text) == ("joint", "and"):
            found.append(token.text.lower())
            ahead += 1
        return found

    def _with_part(self, value: Expression) -> Expression:
        """2 and a half, in one of words or digits."""
        if not isinstance(value, Number) or value.value.denominator != 1 or self.peek().text != "and":
            return value
        following = self._next_words(ahead=1)
        part = numeral(["one" if word in ("a", "an") else word for word in following[:1]] + following[1:])
        if part is None or not 0 < part[0] < 1:
            return value
        self.place += 1 + part[1]
        return Number(value.value + part[0])

    def _quantity(self, value: Operand, currency: str | None) -> Answer:
        if not isinstance(value, EXPRESSIONS):
            return value
        value = self._with_part(value)
        value, written = _without_written_unit(value)
        found = [name for name in (written, currency) if name]
        powers = Counter(found)
        scale = Fraction(1)
        sign, next_power = 1, 1
        is_open, start = True, self.place
        while is_open:
            if self.place > start + _MAX_UNIT_TOKENS:
                raise Unreadable("a sentence after the value")
            token = self.peek()
            if token.kind == "word" and token.text.lower().removesuffix("s") in NUMBERS and token.text not in _COUNTED:
                raise Unreadable("a number among the units")
            if self._is_to() and not (powers and self._words_follow()):
                break
            if token.kind in ("word", "unit") or (token.kind == "letter" and token.text in "CF" and "degree" in powers):
                self.take()
                word = token.text.lower()
                if word in SCALES:
                    scale *= Fraction(SCALES[word]) ** sign
                elif (part := self._share(value, word, is_first=not powers and scale == 1)) is not None:
                    value = part
                elif word in _JOINING or (word == "in" and self.peek().kind == "word"):
                    sign = -1 if word == "per" else sign
                    found += [word] if word in ("of", "per") and not found else []
                elif word in ("square", "sq", "squared", "cubic", "cu", "cubed"):
                    power = 2 if word.startswith("sq") else 3
                    if word in ("squared", "cubed") or self.peek().kind not in ("word", "unit"):
                        self._raise_last(powers, power)
                    else:
                        next_power = power
                else:
                    found.append(token.text)
                    self._add_unit(powers, token.text, sign * next_power)
                    sign, next_power = 1, 1
            elif token.kind in ("/", "*") and self.peek(1).kind in ("word", "unit") and powers:
                sign = -1 if self.take().kind == "/" else sign
            elif (token.kind, token.text) == ("joint", "and") and powers and self._plural_follows():
                self.take()
            else:
                is_open = False
        if self.peek(-1).text.lower() == "per":
            raise Unreadable("'per' without a unit")
        if scale != 1:
            value = Operation("multiply", (value, Number(scale)))
        if not powers:
            return Quantity(value)
        only_counts = words.only_count(found, is_few=_is_few(value))
        unit = tuple(sorted(_as_volume(name, power) for name, power in powers.items() if power))
        return Quantity(value, Unit(unit, only_counts) if unit else None)

    def _words_follow(self) -> bool:
        """Whether a word follows that is no number: 3 trees to plant, and not 3 trees to five bushes."""
        return self.peek(1).kind == "word" and self.peek(1).text.lower() not in NUMBERS

    def _plural_follows(self) -> bool:
        """Whether more is counted by the same number: 5 boys and girls, and not 5 boys and six girls."""
        following = self._next_words(ahead=1)
        return any(map(words.is_counted, following)) and NUMBERS.keys().isdisjoint(following)

    def _share(self, value: Expression, word: str, *, is_first: bool) -> Number | None:
        """5 thirds, where the word just read says so; None where it is of the unit: 12 quarters may be coins."""
        if word not in PARTS or "quarter" in word:
            return None
        if not is_first or not isinstance(value, Number):
            raise Unreadable(f"'{word}' behind the value")
        following = self.peek().text.lower() if self.peek().kind == "word" else ""
        number = share(value.value, word, following)
        return None if number is None else Number(number)

    def _add_unit(self, powers: Counter[str], word: str, power: int) -> None:
        if not words.may_be_unit(word):
            raise Unreadable(f"'{word}' behind the value")
        name = words.unit_name(word)
        if name in ("degree c", "degree f", "C", "F", "c", "f") and "degree" in powers:
            del powers["degree"]
            name = name if len(name) > 1 else f"degree {name.lower()}"
        if self.peek().kind == "^" and not (self.peek(1).kind == "unit" or self.peek(2).kind == "unit"):
            self.take()
            exponent = self.exponent()
            if isinstance(exponent, Operation) and exponent.name == "negative":
                power, exponent = -power, exponent.arguments[0]
            if not isinstance(exponent, Number) or exponent.value.denominator != 1:
                raise Unreadable("a unit with such a power")
            power *= int(exponent.value)
        for part, part_power in words.QUOTIENTS.get(name, ((name, 1),)):
            powers[part] += power * part_power

    @staticmethod
    def _raise_last(powers: Counter[str], power: int) -> None:
        if not powers:
            raise Unreadable("'squared' without a unit")
        powers[list(powers)[-1]] *= power

    def set_content(self) -> Operand:
        bar_ends, self.bar_ends = self.bar_ends, True
        bars, self.bars = self.bars, 0
        content = self.items()
        self.bar_ends, self.bars = bar_ends, bars
        if self.accept("|", ":"):
            condition = self.items()
            self.expect("\\}")
            return values_where(content, condition)
        self.expect("\\}")
        return Collection("set", content.items)


def _has_words(answer: Answer) -> bool:
    """Whether there are words without a measure: in x > 3 integers and x < 5 false they are of x, or of it all."""
    if not isinstance(answer, Quantity) or answer.unit is None:
        return False
    is_measured = any(words.is_measure(name.partition("^")[0]) for name, _ in answer.unit.powers)
    return not (is_measured and answer.unit.only_counts)


def _has_unit(answer: Answer) -> bool:
    """Whether a number may follow without a joint: 3 boys 4 girls, and not 5 times 6."""
    if not isinstance(answer, Quantity) or answer.unit is None:
        return False
    return words.OPERATIONS.isdisjoint(name for name, _ in answer.unit.powers)


def _is_few(value: Expression) -> bool:
    """Whether a value is less than two: 1 apple, 0.5 cup."""
    number = exact(value)
    return number is not None and abs(number) < 2


def _as_volume(name: str, power: int) -> tuple[str, int]:
    """Cubic centimetres are millilitres."""
    volume = f"{name}^3"
    return (volume, power // 3) if abs(power) == 3 and volume in words.UNITS else (name, power)


def _without_written_unit(value: Expression) -> tuple[Expression, str | None]:
    r"""The degree sign or the percent of 30^\circ, -30^\circ and 2x^\circ."""
    match value:
        case Operation("degree" | "percent" as name, (inner,)):
            return inner, name
        case Operation("negative", (inner,)):
            bare, unit = _without_written_unit(inner)
            return (Operation("negative", (bare,)), unit) if unit else (value, None)
        case Operation("multiply", (*left, right)):
            bare, unit = _without_written_unit(right)
            return (Operation("multiply", (*left, bare)), unit) if unit else (value, None)
    return value, None
