"""The words of answers: units, and which runs of letters are words at all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

from ctwa.objectives.grading.numerals import NUMBERS, SCALES


def names(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


JOINTS = {"and": "and", "or": "or"}
FILLERS = {"about", "approximately", "exactly", "the", "answer", "final", "is", "there", "are"}
ARTICLES = {"the", "a", "an"}
SIGNS = {"negative", "minus"}
# Behind a value they say what it is not.
NO_UNITS = names("not no never wrong incorrect factorial least most minus if unless too")
AUXILIARIES = names("is are was were will be")  # 5 are left
# So do these, unless what is counted follows: 5 negative, 5 dollars short, but 5 negative roots.
_CHANGES = names(
    """negative short under loss debt deficit owed red doubled tripled halved fold inverse inverted reciprocal
    repeating recurring periodic binary ternary octal hex hexadecimal mod sqrt tau phi false untrue impossible
    invalid"""
)
# 5 mil, 5 mil dollars; what is shorter (K, M, bn) is one of these too, unless it is a measure or an English word.
_OTHER_SCALES = names("mil bil mill gross grosses score scores myriad myriads")
_SHORT_WORDS = names("as at be by do go he in it me my of on or so to up us we")
_DIRECTIONS = names("less fewer lower above below over off")  # 10% less, but no 1 less
# They need no noun: 5 more, 5 in all, 5 over par, 5 are needed, 5 is the answer.
_ALONE = names(
    """more par each apiece total all altogether overall combined average left remain remained remaining needed required
    sold spent earned saved daily weekly monthly yearly annually exactly approximately approx roughly only answer"""
)
_BEFORE_NOUNS = names("of per")  # 5 of them, 5 per person
_PLURALS = (
    *("people", "men", "children", "feet", "teeth", "mice", "geese", "oxen", "cattle", "sheep", "deer", "fish", "dice"),
    *("data", "radii", "foci", "loci", "maxima", "minima", "extrema", "formulae", "polyhedra", "bacteria", "criteria"),
    *("phenomena", "alumni", "cacti", "fungi", "nuclei", "stimuli", "octopi"),
    *("police", "staff", "crew", "offspring", "aircraft", "spacecraft", "salmon", "shrimp", "trout", "moose", "bison"),
)
_NO_PLURALS = ("ss", "us", "is")  # less, plus, this
_HAN_SCALE = re.compile("(?!千[米克瓦卡升]|百分点)[十百千万萬亿億兆]|.*[半之]")  # 5万 is no 5, 5千米 are

# name -> (dimension, how many of the dimension's own unit, other spellings)
_UNITS: dict[str, tuple[str, Fraction, str]] = {
    "m": ("length", Fraction(1), "meter metre"),
    "cm": ("length", Fraction(1, 100), "centimeter centimetre"),
    "mm": ("length", Fraction(1, 1000), "millimeter millimetre"),
    "km": ("length", Fraction(1000), "kilometer kilometre"),
    "inch": ("length", Fraction("0.0254"), "in inches"),
    "foot": ("length", Fraction("0.3048"), "ft feet"),
    "yard": ("length", Fraction("0.9144"), "yd"),
    "mile": ("length", Fraction("1609.344"), "mi"),
    "g": ("mass", Fraction(1), "gram gramme"),
    "mg": ("mass", Fraction(1, 1000), "milligram"),
    "kg": ("mass", Fraction(1000), "kilogram kilo"),
    "ounce": ("mass", Fraction("28.349523125"), "oz"),
    "pound": ("mass", Fraction("453.59237"), "lb lbs"),
    "s": ("time", Fraction(1), "sec second"),
    "minute": ("time", Fraction(60), "min mins"),
    "hour": ("time", Fraction(3600), "h hr hrs"),
    "day": ("time", Fraction(86400), ""),
    "week": ("time", Fraction(604800), ""),
    "month": ("month", Fraction(1), ""),
    "year": ("month", Fraction(12), "yr yrs"),
    "ml": ("volume", Fraction(1, 1000), "milliliter millilitre mL"),
    "liter": ("volume", Fraction(1), "l L litre"),
    "dollar": ("dollar", Fraction(1), "usd buck"),
    "cent": ("dollar", Fraction(1, 100), "¢"),
    "euro": ("euro", Fraction(1), "eur"),
    "pound sterling": ("pound sterling", Fraction(1), "gbp"),
    "yen": ("yen", Fraction(1), "jpy"),
    "rupee": ("rupee", Fraction(1), "inr"),
    "percent": ("percent", Fraction(1), "pct"),
    "degree": ("degree", Fraction(1), "deg"),
    "radian": ("radian", Fraction(1), "rad"),
    "degree c": ("degree c", Fraction(1), "celsius centigrade"),
    "degree f": ("degree f", Fraction(1), "fahrenheit"),
    "mph": ("mph", Fraction("0.44704"), ""),
    "kph": ("kph", Fraction(1000, 3600), "kmh"),
    "unit": ("unit", Fraction(1), ""),
}
UNITS = {name: (dimension, factor) for name, (dimension, factor, _) in _UNITS.items()}
_NAMES = {other: name for name, (_, _, others) in _UNITS.items() for other in [name, *others.split()]} | {"cc": "cm^3"}
# Units of no size that is known here, in the singular too; K, M and B may be thousands, millions and billions.
_MEASURES = names(
    """acre hectare ton tonne gallon quart pint cup teaspoon tablespoon tsp tbsp gal qt newton joule watt volt ampere
    amp ohm hertz kelvin mole mol pascal bar atm calorie cal kcal byte bit kmph rpm mpg wpm fps psi ppm bpm hp yuan won
    peso franc ruble baht rupiah rand rs penny pence am pm o'clock noon midnight ordinal sqft sqm u A C F H J N V W"""
)
_SYMBOL = re.compile("[nµμmcdkMGT]?(?:Pa|Hz|Wh|eV|mol)|[nµμmcdkMGT][mgALlVWJNFHB]|[nµμm]s")  # kHz, MB, ms
# Two of them are quotients.
QUOTIENTS = {"mph": (("mile", 1), ("hour", -1)), "kph": (("km", 1), ("hour", -1))}

_KNOWN = names(
    """true false yes no none odd even prime east west north south red blue green black white both all any undefined
    infinite finite increasing decreasing am pm base percent degrees men
    monday tuesday wednesday thursday friday saturday sunday"""
)
# A volume is also a length to the third power.
UNITS |= {
    f"{name}^3": ("volume", (10 * size) ** 3) for name, (dimension, size) in UNITS.items() if dimension == "length"
}
# Short unit names that may be a product of variables are words only inside \text.
_MAY_BE_A_PRODUCT = names("mg cc in min h l L g m s ml mL deg rad sec hr mi pct")
_VOWELS = set("aeiouyAEIOUY")
_LATIN_VOWELS = frozenset("aeiou")


def unit_name(word: str) -> str:
    """The one name of a unit in its spellings; of any other word, its singular in lower case."""
    is_letter = len(word) == 1 and (word in _MEASURES or word.lower() in _NAMES)
    if word not in _NAMES and (is_letter or _SYMBOL.fullmatch(word)):
        return word  # M is no metre, MW no mW
    for candidate in (word, word.lower(), word.rstrip("."), word.lower().rstrip(".")):
        if candidate in _NAMES:
            return _NAMES[candidate]
    singular = _singular(word.lower().rstrip("."))
    return _NAMES.get(singular, singular)


def is_unit(word: str) -> bool:
    """Whether a word is one of the units that are known."""
    return unit_name(word) in UNITS


def is_measure(word: str) -> bool:
    """Whether a word is a unit, of a size that is known here or not."""
    return is_unit(word) or not _MEASURES.isdisjoint((word, word.lower())) or bool(_SYMBOL.fullmatch(word))


def may_be_unit(word: str) -> bool:
    """Whether a word may stand behind a value: not so in 5 factorial."""
    return word.lower() not in NO_UNITS and not _HAN_SCALE.match(word)


def only_count(found: Sequence[str], *, is_few: bool) -> bool:
    """Whether words behind a value say no more than what there are so many of: 5 cats, and not 5 doubled.

    Args:
        found: the words, from the first one on.
        is_few: the value is less than two, so that a singular may follow.
    """
    counted = [place for place, word in enumerate(found) if is_counted(word)]
    if found[0] in _BEFORE_NOUNS:
        counted = counted or [0]
    behind = {word.lower() for word in found[counted[-1] + 1 if counted else 0 :]}
    if behind & _CHANGES or any(map(_may_be_scale, found)):
        return False
    return bool(counted) or bool(behind & _ALONE) or (is_few and not behind & _DIRECTIONS)


def _may_be_scale(word: str) -> bool:
    lowered = word.lower()
    is_short = len(word) < 3 and lowered not in _SHORT_WORDS and word.isascii() and not is_measure(word)
    return is_short or lowered in _OTHER_SCALES


def is_counted(word: str) -> bool:
    """Whether a word says by itself that it is a measure or several things; other languages have other plurals."""
    if not word.isascii() or is_measure(word):
        return True
    lowered = word.lower().rstrip(".")
    is_plural = lowered.endswith("s") and len(lowered) > 2 and not lowered.endswith(_NO_PLURALS)
    return (
        is_plural
        or lowered.endswith(_PLURALS)
        or (len(parts := re.split("[-.]", lowered)) > 1 and any(map(is_measure, parts)))
    )


def is_word(letters: str) -> bool:
    """Whether letters in a formula are meant as a word (``Evelyn``, ``4 cats``) and not as a product (``abc``)."""
    lowered = letters.lower()
    if len(letters) < 2 or letters in _MAY_BE_A_PRODUCT:
        return False
    if lowered == "to" or lowered in NUMBERS or lowered in SCALES or lowered in JOINTS or lowered in _KNOWN:
        return True
    if is_unit(letters) or (letters in _MEASURES and len(letters) > 2) or not _is_of_formulas(letters):
        return True
    if len(letters) < 4 or not _VOWELS & set(letters):
        return False
    codes = {ord(letter) for letter in lowered}
    is_alphabet = len(codes) == len(letters) and max(codes) - min(codes) == len(letters) - 1
    return not is_alphabet


def is_short_word(letters: str) -> bool:
    """Whether two or three letters next to words are one too: the old of 5 years old, the per of 60 miles per hour."""
    is_syllable = len(letters) == 3 and not _LATIN_VOWELS.isdisjoint(letters)
    return is_syllable or letters.lower() in _SHORT_WORDS | AUXILIARIES | {"a", "sq", "cu"}


def _is_of_formulas(letters: str) -> bool:
    """Whether letters are Latin and Greek ones, as those of variables: Москва is no product."""
    return letters.isascii() or all(unicodedata.name(letter, "").startswith(("LATIN", "GREEK")) for letter in letters)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


# As units are named; a number behind one of them is no other quantity.
OPERATIONS = frozenset(map(unit_name, names("times multiplied divided over plus point root choose")))
