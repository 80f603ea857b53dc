"""The grader's numbers in words."""

from __future__ import annotations

import pytest

from ctwa.objectives.grading import grade

_UP_TO_NINETEEN = """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_PARTS = "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
_OF_MANY = {"twentieth": 20, "thirtieth": 30, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
PARTS = [*zip(_PARTS.split(), range(3, 14), strict=True), *_OF_MANY.items()]


def score(answer: str, gold: str) -> float | None:
    return grade(f"so \\boxed{{{answer}}}", gold).score


def in_words(number: int, joint: str, hyphen: str) -> str:
    for scale, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= scale:
            many, rest = divmod(number, scale)
            between = joint if rest < 100 else " "
            text = f"{in_words(many, joint, hyphen)} {name}"
            return text + between + in_words(rest, joint, hyphen) if rest else text
    if number < 20:
        return _UP_TO_NINETEEN.split()[number - 1]
    tens = _TENS.split()[number // 10 - 2]
    return tens + hyphen + in_words(number % 10, joint, hyphen) if number % 10 else tens


@pytest.mark.parametrize(("joint", "hyphen"), [(" and ", "-"), (" ", " "), (" ", "-")])
def test_whole_numbers(joint: str, hyphen: str) -> None:
    for number in [*range(1, 131), *(int(17 * 1.37**power) for power in range(54))]:
        text = in_words(number, joint, hyphen)
        assert (text, score(f"\\text{{{text}}}", str(number))) == (text, 1.0)
        assert (text, score(f"\\text{{minus {text}}}", str(-number))) == (text, 1.0)
        assert (text, score(f"\\text{{{text}}}", str(number + 1))) == (text, 0.0)
        assert (text, score(f"{number} \\text{{ {text}}}", str(number))) == (text, 0.0)


@pytest.mark.parametrize(("part", "whole"), PARTS)
def test_parts(part: str, whole: int) -> None:
    """They were units, which are no error where the ground truth has none."""
    assert score(f"\\text{{one {part}}}", f"\\frac1{{{whole}}}") == 1.0
    assert score(f"\\text{{five {part}s}}", f"\\frac5{{{whole}}}") == 1.0
    assert score(f"5 \\text{{ {part}s}}", f"\\frac5{{{whole}}}") == 1.0
    assert score(f"\\text{{five and one {part}}}", f"5\\frac1{{{whole}}}") == 1.0
    for text in (f"\\text{{five {part}s}}", f"5 \\text{{ {part}s}}", f"5 \\text{{ {part}}}"):
        assert score(text, "5") == 0.0
    assert score(f"5 \\text{{ {part} graders}}", "5") == 1.0


CHANGING = (
    *(
        "k",
        "K",
        "M",
        "B",
        "bn",
        "mil",
        "gross",
        "scores",
        "myriad",
        "K dollars",
        "mil people",
        "negative",
        "doubled",
        "halved",
    ),
    *("inverse", "reciprocal", "short", "under", "hex", "binary", "octal", "st", "sqrt", "tau", "in the red"),
    *("false", "is impossible", "is too small", "repeating", "is wrong for reasons", "dollars short"),
)
COUNTING = (
    *("apples", "people", "women", "sheep", "radii", "negative roots", "false positives", "short stories", "gallon"),
    *("sq. units", "sq.m", "ft-lbs", "yuan", "V", "kWh", "feet tall", "years old", "dollars each", "in all", "more"),
    *("left", "percent of the people", "km/h", "m square", "marbles in a bag", "рублей", "个人", "times"),
    *("men", "years of age", "meters per second", "bacteria", "salmon", "staff", "mpg", "mA", "GPa", "kHz", "u", "Rs"),
    *("zeros", "blue ones", "of them", "of us", "per person", "for each child", "on average", "needed", "left to wrap"),
    *("is the final answer", "are left", "will be left", "boxes are needed", "times as many", "times as much as hers"),
    *("boys and girls", "days and nights", "apples and oranges in all"),
    *("hours to go", "units to the right", "cats as well", "percent off", "girls in my class", "remain", "hex digits"),
)
IN_A_FORMULA = (  # as models write them without \text
    *(
        "years old",
        "meters per second",
        "miles per hour",
        "men",
        "sq ft",
        "sq. ft",
        "in total",
        "km/h",
        "km / h",
        "ft/s",
    ),
    *("slices of pizza", "of the students", "hours a day", "are left", "more than Bob", "apples in all", "per person"),
    *("feet from the wall", "trees to plant", "for each child", "games won", "egg cartons", "mpg", "toy cars"),
)


@pytest.mark.parametrize("value", ["5", "-3", "12.5", "1", "0.3", r"\frac12", r"\pi", "x+1", r"\$5", r"\text{five}"])
def test_words_that_change_a_value_are_not_left_out(value: str) -> None:
    """They were units, which are no error where the ground truth has none."""
    for words in CHANGING:
        changed = f"{value}\\text{{ {words}}}"
        grades = score(changed, value), score(value, changed), score(changed, changed)
        assert (changed, *grades) == (changed, 0.0, None, 1.0)


@pytest.mark.parametrize("value", ["5", "12", "-3", "2.5", r"\pi", "x+1"])
def test_an_unknown_word_is_left_out_only_if_it_is_a_plural(value: str) -> None:
    for word in ("quintupled", "plummeting", "mega", "above", "less", "way", "th"):
        assert (word, score(f"{value}\\text{{ {word}}}", value)) == (word, 0.0)
        assert (word, score(value, f"{value}\\text{{ {word}}}")) == (word, None)
    assert score(f"{value}\\text{{ ways}}", value) == score(value, f"{value}\\text{{ ways}}") == 1.0


@pytest.mark.parametrize("words", COUNTING)
def test_words_that_say_of_what_there_are_so_many_may_be_left_out(words: str) -> None:
    assert score(f"5\\text{{ {words}}}", "5") == 1.0
    assert score("5", f"5\\text{{ {words}}}") == 1.0
    assert score("6", f"5\\text{{ {words}}}") == 0.0


@pytest.mark.parametrize("words", IN_A_FORMULA)
def test_words_behind_a_value_need_no_text(words: str) -> None:
    """Short ones were products of variables, and the answer was not read."""
    for value in ("5", r"\$5", "x = 5", r"\frac{10}{2}", "(5)", "5.0"):
        assert (value, score(f"{value} {words}", "5")) == (value, 1.0)
        assert (value, score(f"{value} {words}", "6")) == (value, 0.0)
        assert (value, score(f"{value} {words}", f"{value} \\text{{ {words}}}")) == (value, 1.0)


def test_letters_behind_a_value_stay_variables() -> None:
    for product in ("5 abc", "5 xy", "5 cos theta", "5 m", "5 a cm", "5 sin ab", "AB to CD", "5 ab + cd"):
        assert (product, score(product, "5")) == (product, 0.0)
    assert (
        score("5 abc", "5cba")
        == score("AB to CD", r"\frac{AB}{CD}")
        == score("triangle ABC", r"\text{triangle }ABC")
        == 1.0
    )


@pytest.mark.parametrize("value", ["1", r"\frac34", "0.5", r"1\frac12"])
def test_a_singular_may_be_left_out_behind_less_than_two(value: str) -> None:
    assert score(f"{value} \\text{{ pizza}}", value) == 1.0
    assert score(value, f"{value} \\text{{ pizza}}") == 1.0


@pytest.mark.parametrize("inequality", ["x<5", "x>3", r"x \ne 2", r"1 \le x \le 4"])
def test_words_behind_an_inequality_are_not_left_out(inequality: str) -> None:
    for words in ("false", "integers", "prime", "rational", "apples"):
        assert score(f"{inequality}\\text{{ {words}}}", inequality) == 0.0
        assert score(inequality, f"{inequality}\\text{{ {words}}}") is None


@pytest.mark.parametrize("words", ["cm", "years old", "meters long", "kHz", "V"])
def test_units_behind_an_inequality_may_be_left_out(words: str) -> None:
    assert score(f"x > 3\\text{{ {words}}}", "x>3") == score("x>3", f"x > 3\\text{{ {words}}}") == 1.0


def test_the_letter_of_a_scale_is_no_unit() -> None:
    assert score(r"5 \text{ M}", r"5 \text{ m}") == score(r"5 \text{ MW}", r"5 \text{ mW}") == 0.0
    assert score(r"5 \text{ m}", "5") == 1.0
    assert score(r"10\cdot30 \text{ K}", r"300\text{K}") == 1.0
