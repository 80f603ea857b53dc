"""Numbers in words: twenty-five, three hundred and five, two thirds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ctwa.objectives.grading.nodes import Unreadable

_UP_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty"""
_TENS = "thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: number for number, word in enumerate(_UP_TO_TWENTY.split())} | {
    word: 10 * tens for tens, word in enumerate(_TENS.split(), start=3)
}
_SCALES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "quintillion": 10**18,
}
SCALES = _SCALES | {f"{word}s": scale for word, scale in _SCALES.items()}

_IRREGULAR = {"three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}
_PARTS = {  # how many make a whole
    "half": 2,
    "quarter": 4,
    **{
        _IRREGULAR.get(word, word.removesuffix("y") + "ieth" if word.endswith("y") else word + "th"): number
        for word, number in NUMBERS.items()
        if number > 2
    },
    **{word + "th": scale for word, scale in _SCALES.items() if word not in ("dozen", "lakh", "crore")},
}
PARTS = _PARTS | {f"{word}s": number for word, number in _PARTS.items()} | {"halves": 2}


def numeral(words: Sequence[str]) -> tuple[Fraction, int] | None:
    """The number with which a row of words begins, and how many of them it takes; None where it begins with none.

    Raises:
        Unreadable: it can be understood in two ways, as twenty fifths and twenty sixth graders.
    """
    whole, used, room = _cardinal(words)
    if not used:
        return None
    part, following = [*words[used : used + 2], "", ""][:2]
    if room == 10 and part in ("first", "second"):
        raise Unreadable(f"'{part}' behind the tens of a number in words")
    if part not in PARTS:
        return Fraction(whole), used
    if room > 10 or PARTS[part] < room:
        raise Unreadable(f"the {part} of a number in words")
    parts = share(Fraction(whole), part, following)
    return (Fraction(whole), used) if parts is None else (parts, used + 1)


def share(number: Fraction, part: str, following: str) -> Fraction | None:
    """So many halves, thirds, ...; None where the word is of the unit: 25 sixth graders, four quarters.

    Raises:
        Unreadable: the word is no plural, and the next one, if there is any, nothing to count: 5 third.
    """
    if "quarter" in part and number >= 4:
        return None
    if part in _PARTS and (number != 1 or following.startswith("grader")):
        if part == "half" or following in ("", "and", "of"):
            raise Unreadable(f"'{part}' behind {number}")
        return None
    return number / PARTS[part]


def _cardinal(words: Sequence[str]) -> tuple[int, int, int]:
    """The whole number at the beginning, how many words it takes, and below which number another may be added to it."""
    whole, group, used = 0, 0, 0
    room, last_scale = 1000, 10**21
    for place, word in enumerate(words):
        number, scale = NUMBERS.get(word), SCALES.get(word, 0)
        if word == "and" and used and room >= 100 and _begins_whole(words[place + 1 :]):
            continue
        if number is not None and number < room and (number or not used):
            group += number
            room = 10 if number >= 20 else 1
        elif scale == 100 and 0 < group < 100:
            group, room = 100 * group, 100
        elif 1000 <= scale < last_scale and group:
            whole, group = whole + group * scale, 0
            room, last_scale = 1000, scale
        else:
            break
        used = place + 1
    return whole + group, used, room


def _begins_whole(words: Sequence[str]) -> bool:
    """Whether a whole number follows, and no fraction: three hundred and five, three hundred and one half."""
    return words[0] in NUMBERS and (len(words) == 1 or words[1] not in PARTS) if words else False
