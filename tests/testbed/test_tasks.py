import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctwa.testbed.presets import PRESETS
from ctwa.testbed.tasks import STYLES, Problem, draw_distinct, draw_problem, num_response_tokens, write_response

THREE = Problem((3, 4, 2, 5), ("+", "*", "-"))
FOUR = Problem((9, 9, 8, 0, 7), ("*", "-", "+", "*"))


def problems():
    def build(num_operations):
        return st.builds(
            Problem,
            st.tuples(*[st.integers(0, 9)] * (num_operations + 1)),
            st.tuples(*[st.sampled_from("+-*")] * num_operations),
        )

    return st.one_of(build(3), build(4))


@pytest.mark.parametrize(
    ("problem", "values"),
    [
        (THREE, (3, 7, 4, 9)),  # 3+4=7, 7*2=14->4, 4-5=-1->9
        (FOUR, (9, 1, 3, 3, 1)),  # 9*9=81->1, 1-8=-7->3, 3+0=3, 3*7=21->1
        (Problem((0, 9, 9, 9), ("-", "-", "-")), (0, 1, 2, 3)),
        (Problem((5, 5, 5, 5), ("+", "+", "*")), (5, 0, 5, 5)),
    ],
)
def test_values_are_reduced_left_to_right_as_worked_by_hand(problem, values):
    assert problem.values == values
    assert problem.answer == values[-1]


@given(problems())
def test_answer_is_the_left_to_right_value_modulo_ten(problem):
    value = problem.operands[0]
    for operator, operand in zip(problem.operators, problem.operands[1:], strict=True):
        value = eval(f"{value} {operator} {operand}")  # reduced once, at the end: the ring makes no difference
    assert problem.answer == value % 10


def test_prompt():
    assert THREE.prompt == "Compute mod 10 : 3 + 4 * 2 - 5 ?"


@pytest.mark.parametrize(
    ("problem", "is_test"),
    # The fraction of the rolling hash, worked outside this package.
    [
        (Problem((0, 0, 0, 0), ("+", "+", "+")), False),  # .8419
        (THREE, False),  # .8048
        (FOUR, True),  # .0897
        (Problem((1, 2, 3, 4), ("+", "+", "+")), True),  # .0247
        (Problem((0, 8, 5, 7), ("+", "+", "+")), True),  # .09992, just below the tenth
        (Problem((3, 2, 6, 7), ("+", "+", "+")), False),  # .10007, just above it
    ],
)
def test_split_of_known_problems(problem, is_test):
    assert problem.is_test == is_test


def test_split_holds_out_a_tenth():
    everything = [Problem(operands, ("+", "*", "-")) for operands in itertools.product(range(10), repeat=4)]
    assert 0.09 < sum(problem.is_test for problem in everything) / len(everything) < 0.11


def test_draws_are_distinct_of_one_part_and_repeatable():
    train = draw_distinct(random.Random(7), 300, test=False)
    assert len(set(train)) == 300
    assert not any(problem.is_test for problem in train)
    assert train == draw_distinct(random.Random(7), 300, test=False)
    assert train != draw_distinct(random.Random(8), 300, test=False)
    assert not set(train) & set(draw_distinct(random.Random(7), 300, test=True))


def test_draws_are_uniform():
    rng = random.Random(0)
    drawn = [draw_problem(rng, test=False) for _ in range(4000)]
    lengths = Counter(problem.num_operations for problem in drawn)
    assert set(lengths) == {3, 4}
    assert abs(lengths[3] - 2000) < 150
    operators = Counter(operator for problem in drawn for operator in problem.operators)
    assert set(operators) == set("+-*")
    assert max(operators.values()) < 1.1 * min(operators.values())
    operands = Counter(operand for problem in drawn for operand in problem.operands)
    assert set(operands) == set(range(10))
    assert max(operands.values()) < 1.2 * min(operands.values())


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (
            "P",
            r"we compute 3 + 4 to get 7 , we compute 7 * 2 to get 4 , we compute 4 - 5 to get 9 , "
            r"so the answer is \boxed{ 9 } .",
        ),
        (
            "V",
            r"Step 1 : we compute 3 + 4 to get 7 . Step 2 : we compute 7 * 2 to get 4 . "
            r"Step 3 : we compute 4 - 5 to get 9 . So the answer is \boxed{ 9 } .",
        ),
        ("S", r"Step 1 : 3 + 4 = 7 . Step 2 : 7 * 2 = 4 . Step 3 : 4 - 5 = 9 . \boxed{ 9 }"),
        ("T", r"3 + 4 = 7 ; 7 * 2 = 4 ; 4 - 5 = 9 ; \boxed{ 9 }"),
        ("H", r"Step 1 : 3 + 4 . Step 2 : * 2 . Step 3 : - 5 . \boxed{ 9 }"),
        ("h", r"Step 1 : read . Step 2 : solve . \boxed{ 9 }"),
        ("D", r"\boxed{ 9 }"),
        ("M", r"Step 1 : 3 + 4 * 2 = 4 . Step 2 : 4 - 5 = 9 . \boxed{ 9 }"),
    ],
)
def test_styles_as_written(style, text):
    assert write_response(THREE, style) == text


@pytest.mark.parametrize(
    ("style", "three", "four"),
    [
        ("P", 36, 45),
        ("V", 45, 57),
        ("S", 31, 40),
        ("T", 22, 28),
        ("H", 23, 29),
        ("h", 14, 14),
        ("D", 4, 4),
        ("M", 24, 26),
    ],
)
def test_lengths_of_the_styles(style, three, four):
    assert num_response_tokens(write_response(THREE, style)) == three
    assert num_response_tokens(write_response(FOUR, style)) == four


def test_mixtures_are_shares_of_known_styles():
    for preset in PRESETS.values():
        assert set(preset.mixture) <= set(STYLES)
        assert sum(preset.mixture.values()) == pytest.approx(1.0)
