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
