r"""From plain LaTeX to tokens: numbers, letters, words, operators, commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ctwa.objectives.grading import words
from ctwa.objectives.grading.nodes import Number, Unreadable
from ctwa.objectives.grading.notation import ROW, THIN
from ctwa.objectives.grading.numerals import NUMBERS, PARTS, SCALES
from ctwa.objectives.grading.words import is_unit, names

MAX_DEPTH = 40  # of \text in \text, and of brackets


@dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
        kind: ``number``, ``letter`` (a variable), ``word``, ``function``, ``unit`` (a currency, percent, degree),
            ``command`` (``frac``, ``sqrt``, ...), ``accent``, ``joint`` (and, or), or the operator itself.
        text: what stands there.
        number: the literal of a ``number``.
        spaced: white space comes before it.
    """

    kind: str
    text: str
    number: Number | None = None
    spaced: bool = False


FUNCTIONS = names(
    """cis sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth exp ln log lg
    gcd lcm max min det deg arg Re Im"""
)
_OPERATORS = {
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "pm": "pm", "mp": "mp", "over": "over",
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "geqq": ">=",
    "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "approx": "approx", "simeq": "approx", "sim": "~",
    "equiv": "equiv", "in": "in", "cup": "cup", "bigcup": "cup", "cap": "cap", "setminus": "setminus",
    "backslash": "setminus", "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "colon": ":",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lVert": "norm", "rVert": "norm", "Vert": "norm",
    "langle": "langle", "rangle": "rangle", "lfloor": "lfloor", "rfloor": "rfloor", "lceil": "lceil", "rceil": "rceil",
    "ldots": "dots", "cdots": "dots", "dots": "dots", "dotsc": "dots", "dotsb": "dots", "vdots": "dots",
    "ddots": "dots", "dotsm": "dots", "dotso": "dots", "prime": "'", "choose": "choose",
    "to": "to", "rightarrow": "to", "Rightarrow": "implies", "implies": "implies", "iff": "implies",
    "Leftrightarrow": "implies",
}  # fmt: skip
_COMMANDS = {
    "frac": "frac", "sqrt": "sqrt", "binom": "binom", "dbinom": "binom", "tbinom": "binom", "sum": "sum",
    "prod": "prod", "begin": "begin", "end": "end", "bmod": "bmod", "pmod": "pmod", "mod": "pmod", "infty": "infinity",
    "infinity": "infinity", "emptyset": "emptyset", "O": "emptyset", "varnothing": "emptyset", "mathbb": "mathbb",
    "Bbb": "mathbb", "R": "mathbb", "angle": "angle", "triangle": "angle", "measuredangle": "angle",
}  # fmt: skip
_OF_TWO = frozenset({"frac", "binom", "dbinom", "tbinom"})
_UNIT_COMMANDS = {
    "%": "percent", "$": "dollar", "circ": "degree", "degree": "degree", "textdegree": "degree", "euro": "euro",
    "texteuro": "euro", "pounds": "pound sterling", "textsterling": "pound sterling", "yen": "yen", "rupee": "rupee",
    "textdollar": "dollar", "mathdollar": "dollar",
}  # fmt: skip
CURRENCIES = frozenset({"dollar", "euro", "pound sterling", "yen", "rupee"})
_ACCENTS = names(
    """overline bar widebar hat widehat tilde widetilde vec overrightarrow overleftrightarrow dot ddot
    mathcal cal mathscr mathfrak overarc wideparen"""
)
_SAME_ACCENT = {
    "bar": "overline", "widebar": "overline", "widehat": "hat", "widetilde": "tilde", "overrightarrow": "vec",
    "wideparen": "overarc", "cal": "mathcal",
}  # fmt: skip
_TEXT = names("""text mbox hbox textrm textnormal textsf texttt textup textit textbf emph textmd textsl""")
_FONTS = names("""mathrm mathbf mathit mathsf mathtt boldsymbol bm bold pmb operatorname mathnormal bf rm it""")
_GREEK = names(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi omicron pi varpi rho
    varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi
    Omega ell hbar imath jmath nabla partial aleph"""
)

# Functions that are units too, and what their arguments begin with: \sec 5 is one, and \min 5 is none.
_SHORT_UNITS = {
    "min": names("( { _"),
    "sec": names("( { ^ | number letter command accent function"),
}
_PLAIN_FUNCTIONS = FUNCTIONS - {"deg", "arg", "Re", "Im"} | {"sqrt", "abs"}
_NUMBER = rf"\d{{1,3}}(?:[{THIN} ]\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+|\.(?!\d))?|\.\d+"
_TOKEN = re.compile(
    rf"(?P<command>\\[A-Za-z]+)|(?P<escaped>\\.)|(?P<number>{_NUMBER})|(?P<letters>[^\W\d_]+)"
    rf"|(?P<relation><=|>=|!=|==|<|>|=)|(?P<power>\*\*)|(?P<space>[\s{THIN}]+)|(?P<other>.)",
    re.DOTALL,
)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d])(?:\.\d+)?")
_TEXT_WORD = re.compile(r"[^\W\d_]+(?:[-'.][^\W\d_]+)*\.?|\u00a2")
_SEVERAL_WORDS = re.compile(r"[^\W\d_]{2,}(?:(?:\.? +| ?/ ?)[^\W\d_]+){1,30}")
_PERIOD = re.compile(r"\s*\\(?:overline|bar|dot|overbar)\s*(?:\{\s*(\d+)\s*\}|(\d))")
_LETTERS = re.compile(r"[^\W\d_](?:(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+)[^\W\d_])*")
_REPEATED = re.compile(r"(\d+?)\1+$")
_DOTS = re.compile(r"\s*\\[lc]?dots\s*$")
_PERIOD_IN_BRACKETS = re.compile(r"\((\d+)\)")
_NUMERALS = NUMBERS.keys() | SCALES.keys() | PARTS.keys()
_FIRST_DIGIT = re.compile(r"\s*\d")


def tokenize(text: str, *, groups_thousands: bool = True) -> tuple[Token, ...]:
    """The tokens of plain LaTeX; ``groups_thousands``: outside brackets 1,000 is one number and not two.

    Raises:
        Unreadable: braces that do not match, or nested too deep.
    """
    tokens = _with_short_units(_Tokenizer(groups_thousands).run(text, is_text=False, depth=0))
    return tuple(_without_hyphens(tokens))


def _with_short_units(tokens: list[Token]) -> list[Token]:
    """The min of 30 min and the sec of 5 sec as words: behind a value, and without an argument; the th of 5th."""
    following = [*tokens, Token("end", "")][1:]
    for place, (token, after) in enumerate(zip(tokens, following, strict=True)):
        is_short = token.kind == "function" and token.text in _SHORT_UNITS and place > 0
        if is_short and _is_value(tokens[place - 1]) and after.kind not in _SHORT_UNITS[token.text]:
            tokens[place] = Token("word", token.text, spaced=token.spaced)
        elif token.kind == "word" and place > 0 and not token.spaced and _is_ordinal(tokens[place - 1], token.text):
            tokens[place] = Token("word", "ordinal")
    return tokens


def _is_ordinal(number: Token, ending: str) -> bool:
    return number.text.isdecimal() and ending in ("th", {"1": "st", "2": "nd", "3": "rd"}.get(number.text[-1]))


def _without_hyphens(tokens: list[Token]) -> list[Token]:
    """Twenty-one and two-thirds as two words."""
    is_numeral = [token.text.lower() in _NUMERALS for token in tokens]
    neighbours = zip(tokens, [False, *is_numeral], [*is_numeral[1:], False], strict=False)
    return [token for token, before, after in neighbours if token.kind != "-" or token.spaced or not (before and after)]


def _is_value(token: Token) -> bool:
    return token.kind in ("number", "letter", ")", "]", "}")


class _Tokenizer:
    def __init__(self, groups_thousands: bool) -> None:
        self.groups_thousands = groups_thousands
        self.brackets = 0

    def run(self, text: str, *, is_text: bool, depth: int) -> list[Token]:
        if depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        tokens: list[Token] = []
        place, spaced = 0, False
        while place < len(text):
            if (
                self.groups_thousands
                and not self.brackets
                and (match := _THOUSANDS.match(text, place))
                and match[0][0] != "0"
            ):
                tokens.append(_number(match[0], spaced))
                place, spaced = match.end(), False
                continue
            if is_text and (match := _TEXT_WORD.match(text, place)):
                tokens += _text_word(match[0], spaced)
                place, spaced = match.end(), False
                continue
            match = _TOKEN.match(text, place)
            assert match is not None  # `other` takes any character
            place = match.end()
            kind, content = match.lastgroup, match[0]
            if kind == "space":
                spaced = True
                continue
            if kind == "command":
                name = content[1:]
                if name in _TEXT or name in _FONTS:
                    inner, place = _group(text, place)
                    tokens += self._font(
                        name, inner, spaced, depth, follows_value=bool(tokens) and _is_value(tokens[-1])
                    )
                else:
                    tokens.append(_command(name, spaced))
                    if name in _OF_TWO:  # \frac12 and \frac1{72}: one digit is an argument
                        place = self._digit_arguments(text, place, tokens, depth)
            elif kind == "escaped":
                self.brackets += {"{": 1, "}": -1}.get(content[1], 0)
                tokens.append(_escaped(content[1], spaced))
            elif kind == "number":
                token, place = _with_period(text, match, spaced)
                tokens.append(token)
            elif kind == "letters" and (phrase := self._phrase(text, match.start(), tokens, spaced)):
                tokens += self.run(phrase, is_text=True, depth=depth + 1)
                place = match.start() + len(phrase)
            elif kind == "letters":
                tokens += _letters(content, spaced)
            elif not (is_text and content == "."):  # a sentence's full stop
                tokens.append(self._operator(content, spaced))
            spaced = False
        return tokens

    def _font(self, name: str, inner: str, spaced: bool, depth: int, *, follows_value: bool) -> list[Token]:
        r"""What \text{...} or \mathbf{...} holds: words in text, formulas where it is a font around a formula."""
        stripped = inner.strip()
        if name in _FONTS and stripped in FUNCTIONS:
            return [Token("function", stripped, spaced=spaced)]
        if stripped in FUNCTIONS - {"deg", "arg"} and name != "operatorname":
            return [Token("function", stripped, spaced=spaced)]
        if name in ("mathrm", "rm") and all(is_unit(word) for word in _TEXT_WORD.findall(inner)):
            name = "text"
        is_formula = name in _FONTS and ("\\" in inner or "^" in inner or "_" in inner)
        if name in _FONTS and (len(stripped) == 1 or not stripped.isalpha()):
            is_formula = True
        is_letter = _LETTERS.fullmatch(stripped) and not any(is_unit(word) for word in _TEXT_WORD.findall(inner))
        if name in _TEXT and is_letter and (not follows_value or stripped in "ei"):
            return self.run(inner, is_text=False, depth=depth + 1)  # A, B and \text{A, B}, e and \text{e}
        tokens = self.run(inner, is_text=not is_formula or name in _TEXT, depth=depth + 1)
        if tokens and spaced:
            tokens[0] = Token(tokens[0].kind, tokens[0].text, tokens[0].number, spaced=True)
        if is_formula and name in _FONTS and len(tokens) > 1:
            return [Token("{", "{", spaced=spaced), *tokens, Token("}", "}")]
        return tokens

    @staticmethod
    def _phrase(text: str, place: int, before: list[Token], spaced: bool) -> str | None:
        """Several words at the start or behind a value, of which the short ones are no products: 60 miles per hour."""
        if before and not (spaced and (_is_value(before[-1]) or before[-1].kind == "unit")):
            return None
        match = _SEVERAL_WORDS.match(text, place)
        runs = re.findall(r"/?[^\W\d_]+", match[0].replace("/ ", "/")) if match else []
        is_phrase = all(map(_may_be_in_phrase, runs)) and any(map(words.is_word, runs))
        return match[0] if match and is_phrase else None

    def _digit_arguments(self, text: str, place: int, tokens: list[Token], depth: int) -> int:
        for _ in range(2):
            if match := _FIRST_DIGIT.match(text, place):
                tokens.append(_number(match[0].strip(), spaced=False))
                place = match.end()
            elif text[place:].lstrip().startswith("{"):
                inner, place = _group(text, place)
                tokens.append(Token("{", "{"))
                tokens += self.run(inner, is_text=False, depth=depth + 1)
                tokens.append(Token("}", "}"))
            else:
                break
        return place

    def _operator(self, content: str, spaced: bool) -> Token:
        if content in "([":
            self.brackets += 1
        elif content in ")]":
            self.brackets -= 1
        if content in ("%", "$", "¢"):
            return Token("unit", {"%": "percent", "$": "dollar", "¢": "cent"}[content], spaced=spaced)
        kind = {"==": "=", "**": "^", ROW: "row", "’": "'", ";": ",", "∣": "|"}.get(content, content)
        return Token(kind, content, spaced=spaced)


def _command(name: str, spaced: bool) -> Token:
    if name in _OPERATORS:
        return Token(_OPERATORS[name], name, spaced=spaced)
    if name in _COMMANDS:
        return Token("command", _COMMANDS[name], spaced=spaced)
    if name in FUNCTIONS:
        return Token("function", name, spaced=spaced)
    if name in _UNIT_COMMANDS:
        return Token("unit", _UNIT_COMMANDS[name], spaced=spaced)
    if name in _ACCENTS:
        return Token("accent", _SAME_ACCENT.get(name, name), spaced=spaced)
    if name in _GREEK:
        return Token("letter", name.removeprefix("var"), spaced=spaced)
    if name in ("lor", "vee"):
        return Token("joint", "or", spaced=spaced)
    if name in ("land", "wedge"):
        return Token("joint", "and", spaced=spaced)
    raise Unreadable(f"\\{name} is not known")


def _escaped(character: str, spaced: bool) -> Token:
    if character in "{}":
        return Token("\\" + character, character, spaced=spaced)
    if character in _UNIT_COMMANDS:
        return Token("unit", _UNIT_COMMANDS[character], spaced=spaced)
    if character == "|":
        return Token("norm", "norm", spaced=spaced)
    if character in "&#_":
        return Token("word", character, spaced=spaced)
    raise Unreadable(f"\\{character} is not known")


def _number(text: str, spaced: bool) -> Token:
    digits = text.replace(THIN, "").replace(" ", "").replace(",", "")
    places = len(digits.partition(".")[2]) if "." in digits.rstrip(".") else None
    return Token("number", digits, Number(Fraction(digits.rstrip(".")), places), spaced)


def _with_period(text: str, match: re.Match[str], spaced: bool) -> tuple[Token, int]:
    r"""A number, with the repeating digits that may follow it: 0.1\overline{6}."""
    token = _number(match[0], spaced)
    if "." not in match[0]:
        return token, match.end()
    assert token.number is not None
    places = token.number.places or 0
    period = _PERIOD.match(text, match.end())
    if period is None and (in_brackets := _PERIOD_IN_BRACKETS.match(text, match.end())):  # 0.(3), 0.1(6)
        is_all = not text[: match.start()].strip(" -") and in_brackets.end() == len(text)
        period = in_brackets if is_all else None
    dots = _DOTS.match(text, match.end())
    if period is not None:
        end, digits = period.end(), next(filter(None, period.groups()))
    elif dots and (repeated := _REPEATED.search(match[0].partition(".")[2])) and len(repeated[0]) > 2:  # 0.1666...
        end, digits = dots.end(), repeated[1]
    else:
        return token, match.end()
    value = token.number.value + Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
    return Token("number", token.text + digits, Number(value), spaced), end


def _text_word(word: str, spaced: bool) -> list[Token]:
    bare = word.rstrip(".")
    parts = bare.split("-")
    if len(parts) > 1 and all(part.lower() in _NUMERALS or part in ("and", "a") for part in parts):
        return [_one_text_word(part, spaced) for part in parts]
    if bare in ("pi", "infinity"):
        return _letters(bare, spaced)
    return [_one_text_word(bare, spaced)]


def _one_text_word(bare: str, spaced: bool) -> Token:
    if bare.lower() in ("a.m", "p.m"):
        return Token("word", bare.replace(".", ""), spaced=spaced)
    if bare.lower() in words.JOINTS:
        return Token("joint", words.JOINTS[bare.lower()], spaced=spaced)
    if bare in FUNCTIONS - {"deg", "arg", "max", "min"}:
        return Token("function", bare, spaced=spaced)
    if bare == "mod":
        return Token("command", "pmod", spaced=spaced)
    return Token("word", bare, spaced=spaced)


def _letters(run: str, spaced: bool) -> list[Token]:
    """A run of letters in a formula: a function, a word, or a product of variables."""
    if run in _PLAIN_FUNCTIONS:
        return [Token("command" if run == "sqrt" else "function", run, spaced=spaced)]
    if run.lower() in words.JOINTS:
        return [Token("joint", run.lower(), spaced=spaced)]
    if run in _GREEK and len(run) > 1:
        return [Token("letter", run, spaced=spaced)]
    if run.lower() in ("infinity", "infty", "inf"):
        return [Token("command", "infinity", spaced=spaced)]
    if words.is_word(run):
        return [Token("word", run, spaced=spaced)]
    return [Token("letter", letter, spaced=spaced and place == 0) for place, letter in enumerate(run)]


def _may_be_in_phrase(run: str) -> bool:
    if run.startswith("/"):
        return is_unit(run[1:])
    if run in FUNCTIONS - _SHORT_UNITS.keys() or run in _GREEK or run.lower() in words.JOINTS:
        return False
    return words.is_word(run) or words.is_short_word(run)


def _group(text: str, place: int) -> tuple[str, int]:
    """The content of the braces (or the one token) at ``place``, and where it ends."""
    while place < len(text) and text[place].isspace():
        place += 1
    if place >= len(text):
        raise Unreadable("a command without its argument")
    if text[place] != "{":
        match = _TOKEN.match(text, place)
        assert match is not None
        content = match[0] if match.lastgroup in ("command", "escaped") else text[place]
        return content, place + len(content)
    depth = 0
    for end in range(place, len(text)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
            if depth == 0:
                return text[place + 1 : end], end + 1
    raise Unreadable("a brace that is not closed")
