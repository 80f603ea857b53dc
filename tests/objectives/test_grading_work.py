r"""What a grade takes: operations, whatever is answered, and never an exception."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from fractions import Fraction
from types import FrameType
from typing import Any

import pytest

from ctwa.objectives.grading import budget, grade
from ctwa.objectives.grading.canonical import as_region, canonical
from ctwa.objectives.grading.nodes import Interval, Number, Quantity
from ctwa.objectives.grading.reading import read
from ctwa.objectives.grading.values import equal, real

POWERS = r"\sum_{k=1}^{991}k^{x}+\frac1{x-x}"
GAMMAS = r"\sum_{k=1}^{999}(k+.5)!+\sum_{k=1}^{999}(k+.7)!+\frac1{x-x}"
WHOLE = r"\sum_{k=1}^{999}(4000+k)!"
LONG_FRACTIONS = "+".join(["7^{-9999}"] * 9)


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called, Python's and others."""
    num_calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return num_calls


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (POWERS, "5"),
        (rf"\{{{','.join([POWERS] * 9)}\}}", r"\{1,2,3\}"),
        (
            rf"\begin{{pmatrix}} {POWERS} \\ {POWERS} \\ {POWERS} \end{{pmatrix}}",
            r"\begin{pmatrix} x\\y\\z \end{pmatrix}",
        ),
        (f"12,345+({POWERS})", "12,345+x"),
        (f"{GAMMAS}, {GAMMAS}", "1,-2"),
        (rf"x<{WHOLE} \text{{ or }} x>{WHOLE}", "x<4"),
    ],
)
def test_however_much_an_answer_takes_no_grade_takes_more_operations_than_it_may(answer: str, gold: str) -> None:
    graded = []

    assert calls_of(lambda: graded.append(grade(f"\\boxed{{{answer}}}", gold))) < 1_000_000
    assert graded[0].score == 0.0
    assert graded[0].reason == "the answer takes too long to work out"


@pytest.mark.parametrize(
    ("expression", "enough", "too_few"),
    [
        ("x+y", 20, 5),
        (r"\sqrt{x+y}", 50, 10),
        ("(x+y)!", 150, 80),
        (r"\sqrt{2^{2000}+1}", 1_000, 490),  # worked out to 350 digits
        (LONG_FRACTIONS, 5_000, 1_000),
        ("4000!+x", 1_000, 250),
    ],
)
def test_what_takes_longer_counts_as_more_operations(expression: str, enough: int, too_few: int) -> None:
    quantity = read(expression)
    assert isinstance(quantity, Quantity)

    with budget.bounded(enough):
        assert equal(quantity.value, Number(Fraction(5))) is False
    with pytest.raises(budget.TooMuchWork), budget.bounded(too_few):
        equal(quantity.value, Number(Fraction(5)))


def test_a_ground_truth_that_takes_too_long_is_unscored_and_the_answer_not_blamed() -> None:
    graded = grade(r"\boxed{7}", r"\sum_{j=1}^{999}\sum_{k=1}^{999}\sqrt{j+k}")

    assert graded.score is None
    assert "ground truth" in graded.reason


def test_lists_of_many_numbers_are_compared_within_the_budget() -> None:
    numbers = [str(number) for number in range(100, 180)]

    assert grade(rf"\boxed{{\{{{','.join(numbers)}\}}}}", rf"\{{{','.join(reversed(numbers))}\}}").score == 1.0
    assert grade(rf"\boxed{{{'; '.join(numbers)}}}", "; ".join(reversed(numbers))).score == 1.0


ATOMS = ["x", "y", "k", "2", "9", "i", "e", r"\pi", ".7", "99", "5000"]
FORMS = [
    *("({0}+{1})", "{{{0}}}^{{{1}}}", r"\frac{{{0}}}{{{1}}}", "({0})!", r"\binom{{{0}}}{{{1}}}", r"\frac1{{{0}-{1}}}"),
    *(r"\sum_{{k=1}}^{{3}}{0}", r"\prod_{{k=1}}^{{x}}({0})", r"\sqrt[3]{{{0}}}", "|{0}|", r"\lfloor {0}\rfloor"),
    *(
        r"\max({0})",
        r"\min({0},{1})",
        r"\gcd({0},{1})",
        r"({0})\bmod {1}",
        r"\log_{{{0}}}({1})",
        r"{0}\cdot 10^{{{1}}}",
    ),
    *(r"\operatorname{{cis}}({0})", r"\sin({0})", r"\arcsin({0})", r"\ln({0})", r"\exp({0})", r"\cot({0})"),
]
SHAPES = ["{0}", "{0},{1}", r"\{{ {0},{1} \}}", "y={0}", "x<{0}", "{0}:{1}", r"(-\infty,{0})\cup({1},\infty)", r"{0}\%"]
GOLDS = ["5", "1,-2", r"\{1,2\}", "y=2x+3", "x<4", "2:3", r"(-\infty,2)\cup(3,\infty)", r"50\%", r"\sqrt2", "(n+1)!"]


def formula(chance: random.Random, depth: int) -> str:
    if depth == 0:
        return chance.choice(ATOMS)
    return chance.choice(FORMS).format(formula(chance, depth - 1), formula(chance, depth - 1))


def test_no_formula_raises() -> None:
    """A completion that raises is masked, and what raises is the policy's choice."""
    chance = random.Random(0)
    for _ in range(400):
        answer = chance.choice(SHAPES).format(formula(chance, chance.randint(1, 3)), formula(chance, 1))
        assert grade(f"\\boxed{{{answer}}}", chance.choice(GOLDS)).score == 0.0, answer


def test_unions_intersections_and_differences_hold_the_numbers_that_they_should() -> None:
    chance = random.Random(0)

    def interval() -> tuple[str, Callable[[float], bool]]:
        low, high = sorted(chance.sample(range(10), 2))
        opening, closing = chance.choice("(["), chance.choice(")]")

        def holds(number: float) -> bool:
            return low < number < high or (number == low and opening == "[") or (number == high and closing == "]")

        return f"{opening}{low},{high}{closing}", holds

    for _ in range(60):
        text, holds = interval()
        for operator in chance.choices([r"\cup", r"\cap", r"\setminus"], k=3):
            other_text, other_holds = interval()
            text = f"{text} {operator} {other_text}"
            holds = joined(holds, operator, other_holds)
        region = as_region(canonical(read(text)))
        assert region is not None
        ends: list[tuple[Any, Any, Interval]] = [(real(piece.low), real(piece.high), piece) for piece in region.pieces]
        for number in (half / 2 for half in range(-2, 22)):
            found = any(
                low < number < high or (number == low and piece.low_closed) or (number == high and piece.high_closed)
                for low, high, piece in ends
            )
            assert found == holds(number), (text, number)


def joined(one: Callable[[float], bool], operator: str, other: Callable[[float], bool]) -> Callable[[float], bool]:
    if operator == r"\cup":
        return lambda number: one(number) or other(number)
    return lambda number: one(number) and (other(number) == (operator == r"\cap"))
