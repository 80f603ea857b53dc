r"""From the many ways to write an answer to one: plain LaTeX without what only concerns its looks."""

from __future__ import annotations

import re
import unicodedata

THIN = "\u2009"  # what groups the digits of 12\,500, 12{,}500 and 11,\!111; nothing elsewhere
ROW = "\ue000"  # the \\ that ends a row of a matrix

_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "‑": "-", "﹣": "-",
    "×": r"\times ", "✕": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "∗": "*",
    "÷": r"\div ", "∕": "/", "⁄": "/", "∶": ":", "±": r"\pm ", "∓": r"\mp ",
    "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "∞": r"\infty ",
    "≤": r"\le ", "≦": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "≧": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
    "∅": r"\emptyset ", "ø": r"\emptyset ", "Ø": r"\emptyset ", "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ",
    "′": "'", "’": "'", "‘": "'", "…": r"\ldots ", "⋯": r"\cdots ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "∠": r"\angle ", "△": r"\triangle ", "∣": "|", "│": "|",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}",
    "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "₹": r"\rupee ",
    "。": ".", "、": ",",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ϵ": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ϑ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_TABLE = str.maketrans({**_SYMBOLS, **{letter: f"\\{name} " for letter, name in _GREEK.items()}})
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad\ufe00-\ufe0f]")
_THIN_SPACES = re.compile("[\u2009\u202f\u2008\u200a]")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎]+")
_RAISED_OVER_LOWERED = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)\\s*[⁄/∕]\\s*([₀₁₂₃₄₅₆₇₈₉]+)")  # ⁵⁄₉
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_ORDINAL = "(st|nd|rd|th)"
_TEXT = r"\s*\\(?:text|textrm|mbox|mathrm)\s*\{[^{}]*\}\s*"

# Order matters: a later pattern sees what the earlier ones left.
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\[()\[\]]", " "),  # \( and \[ around formulas
        (r"(?<!\\)\$", ""),
        (r"\{,\}|\\[,!;:]|\\(?:neg)?(?:thin|med|thick)space(?![A-Za-z])", THIN),
        (r"(?<=\d)\s*\\(?:mathrm|text|rm)\s*\{\s*[eE]\s*\}\s*\{?([-+]?)\}?\s*\{?([-+]?\d+)\}?", r"\\times 10^{\1\2}"),
        (r"\{:\}", ":"),
        (r"\\(?:quad|qquad|enspace|enskip|space|nobreakspace|hfill|null|relax|par|newline|nobreak|allowbreak|notag"
         r"|nonumber)(?![A-Za-z])|\\[ \n>]|~", " "),
        (r"\\(?:[hv]skip|m?kern|mskip)\s*-?\d*\.?\d*\s*(?:em|ex|pt|mu|cm|mm|in|pc|bp)", " "),
        (r"\\[hv]space\*?\s*\{[^{}]*\}|\\(?:hphantom|vphantom|phantom|label|tag)\s*\{[^{}]*\}", " "),
        (r"\\(?:left|[bB]igg?l)\s*<", r"\\langle "),
        (r"\\(?:right|[bB]igg?r)\s*>", r"\\rangle "),
        (r"\\(?:left|right|middle)\s*\.", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|scriptscriptstyle|limits|nolimits"
         r"|displaylimits|mathstrut|strut|smash|boldmath|rm|bf|it|sf|tt|em|sl|sc|normalsize|small|large|Large|LARGE"
         r"|huge|Huge|boxed|fbox|framebox|underline|centering|noindent|ensuremath|mathopen|mathclose|mathord|mathrel"
         r"|mathbin)(?![A-Za-z])", " "),
        (r"\\(?:color|textcolor|colorbox)\s*\{[^{}]*\}", " "),
        (r"\\(?:[dtcs]|nice)frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:boldsymbol|bm|pmb)(?![A-Za-z])", r"\\mathbf"),
        (r"(\^\s*\{?\s*)\\(?:top|intercal)(?![A-Za-z])", r"\1T"),
        (rf"(?<=[\w)}}])(\s*)\\frac\s*\{{({_TEXT})\}}\s*\{{({_TEXT})((?:\^\{{?\d\}}?)?)\s*\}}", r"\1\2/\3\4"),
        (r"(?<=\d)\s*\^\s*(?:\{\s*)?(?:\\(?:text|mathrm)\s*\{\s*o\s*\}|o(?![A-Za-z]))(?:\s*\})?", r"^\\circ "),
        (rf"(?<=\d)\s*\^\s*(?:\{{\s*\\(?:text|mathrm|mbox)\s*\{{\s*{_ORDINAL}\s*\}}\s*\}}|\{{\s*{_ORDINAL}\s*\}}"
         rf"|\\(?:text|mathrm|mbox)\s*\{{\s*{_ORDINAL}\s*\}})|(?<=^\d){_ORDINAL}$|(?<=^\d\d){_ORDINAL}$",
         r"\\text{\1\2\3\4\5}"),  # 5^{\text{th}}
        (r"_\s*\{\s*\\text\s*\{\s*base\s*(\w*)\s*\}\s*(\w*)\s*\}", r"_{\1\2}"),
        (r"(?<=\w)\s*(?:\\text\s*\{[\s(]*(?:in )?base\s*(\w+)[\s)]*\}|\\text\s*\{\s*(?:in )?base\s*\}\s*(\w+)"
         r"|\s\(?(?:in )?base\s+(\w+)\)?)\s*$", r"_{\1\2\3}"),
        (r"(?<=[)\]}])\s*-\s*(?=\\\{)", r"\\setminus "),  # \mathbb{R} - \{2\}
        (r"\\operatorname\*", r"\\operatorname"),
        (r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}"),  # 0.\dot{1}4285\dot{7}
        (r"(?<!\d)\.(?=\\(?:overline|bar|dot)(?![A-Za-z]))", "0."),
        (r"\.\.\.+", r"\\ldots "),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times "),
        (rf"{ROW}\s*\[[\d.]{{1,5}}\s*[a-z]{{2}}\]", ROW),
        (r"\\(?:checkmark|square|blacksquare|qed)(?![A-Za-z])", " "),
    ]
]  # fmt: skip
_SYSTEM = re.compile(
    r"(\\left\s*\\\{\s*)?\\begin\s*\{(cases|aligned|align\*?|gathered|split|array)\}(\{l\})?(.*?)"
    r"\\end\s*\{\2\}(?(1)\s*\\right\s*\.)",
    re.DOTALL,
)
_ALIGNMENT = re.compile(r"^\s*&|&(?=\s*(?:[=<>≤≥]|\\(?:le|ge|lt|gt|ne|approx)))|(?<=[=<>])\s*&")
_SECOND_DERIVATIVE = re.compile(r'(?<=\b[A-Za-z])["″](?=\s*[(=+-])')
_LAST_DOUBLE_PRIME = re.compile(r'(?<=\b[A-Za-z])["″]')
_QUOTED = re.compile('(?<![\\d}])["“]([^"“”]*)["”]')
_INCHES = re.compile('(?<=[\\d}])\\s*["”″]')
_LONE_DOLLAR = re.compile(r"(\s*-?)\$(\d[\d.,]*(?: [a-z]+)*\s*)")
_GROUPED_BY_APOSTROPHES = re.compile(r"(?<![\d'.])\d{1,3}(?:'\d{3})+(?![\d'])")  # 12'500
_GROUPED_DECIMALS = re.compile(rf"\.(?:(?:\d{{3}}{THIN})+\d{{1,3}}|(?:\d{{5}}{THIN})+\d{{1,5}})(?!\d)")
_GROUPED_DIGITS = re.compile(rf"(?<=\d)(?:\s*,?\s*{THIN}\s*,?\s*)+(?=\d{{3}}(?!\d))")
_QUOTES = frozenset('"“”″')
_TRAILING = " \t\n.,;:\\" + THIN + ROW
_MARKS = ("**", "__", "``", "*", "`")


def to_plain_latex(text: str) -> str:
    r"""Rewrite an answer: Unicode, Markdown, fonts, spacing, sizes, and the punctuation of the sentence around it.

    It says nothing about what the answer means; ``\dfrac 12`` and ``½`` become the same ``\frac`` of 1 and 2.
    """
    text = _INVISIBLE.sub("", text)
    text = _THIN_SPACES.sub(THIN, text)
    text = _RAISED_OVER_LOWERED.sub(
        lambda ratio: unicodedata.normalize("NFKC", rf"\frac{{{ratio[1]}}}{{{ratio[2]}}}"), text
    )
    text = _RAISED.sub(lambda run: "^{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = _LOWERED.sub(lambda run: "_{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = _VULGAR.sub(_to_fraction, text)
    if not _QUOTES.isdisjoint(text):
        text = _without_quotes(text)
    text = text.translate(_TABLE)
    # NFKC would turn the thin spaces into plain ones.
    text = THIN.join(unicodedata.normalize("NFKC", part) for part in text.split(THIN)).translate(_TABLE)
    text = "".join(str(unicodedata.decimal(c)) if c > "~" and c.isdecimal() else c for c in text)
    if r"\begin" not in text:
        text = re.sub(r"\\\\+(?=[A-Za-z])", lambda _: "\\", text)  # escaped once too often
    text = text.replace("\\\\", ROW)
    if r"\begin" in text:
        text = _SYSTEM.sub(_as_equations, text)
    text = _LONE_DOLLAR.sub(r"\1\\$\2", text) if _LONE_DOLLAR.fullmatch(text) else text
    text = _GROUPED_BY_APOSTROPHES.sub(lambda digits: digits[0].replace("'", THIN), text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _GROUPED_DECIMALS.sub(lambda digits: digits[0].replace(THIN, ""), text)
    text = _GROUPED_DIGITS.sub(THIN, text)
    text = re.sub(rf"(?<!\d){THIN}|{THIN}(?!\d)", " ", text)
    return _without_wrapping(text)


def _without_quotes(text: str) -> str:
    """Marks of inches and of second derivatives as commands, and no others."""
    text = _QUOTED.sub(r"\1", _SECOND_DERIVATIVE.sub("''", text))
    text = _LAST_DOUBLE_PRIME.sub("''", _INCHES.sub(r"\\text{ inches}", text))
    return re.sub('["“”]', "", text)


def _as_equations(system: re.Match[str]) -> str:
    r"""The lines of an environment: what stands in the only one, or \begin{cases} of them, without their alignment."""
    brace, kind, column, content = system.groups()
    if r"\begin" in content or (kind == "array" and not (brace and column)):
        return system[0]
    lines = [_ALIGNMENT.sub(" ", part).strip(" \t\n,;" + THIN) for part in content.split(ROW)]
    lines = [line for line in lines if line]
    return lines[0] if len(lines) == 1 else rf"\begin{{cases}}{ROW.join(lines)}\end{{cases}}"


def _without_wrapping(text: str) -> str:
    before = None
    while text != before:
        before = text
        text = text.strip()
        if not text.endswith("\\ldots"):
            text = text.rstrip(_TRAILING)
        for mark in _MARKS:
            if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
                text = text[len(mark) : -len(mark)]
    return text


def _to_fraction(match: re.Match[str]) -> str:
    upper, _, lower = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return f"\\frac{{{upper}}}{{{lower}}}"
