import subprocess
import sys

import pytest

from ctwa.testbed.presets import PRESETS
from ctwa.testbed.rewards import accuracy, clarity, conciseness
from ctwa.testbed.tasks import Problem, num_response_tokens, write_response

THREE = Problem((3, 4, 2, 5), ("+", "*", "-"))
FOUR = Problem((9, 9, 8, 0, 7), ("*", "-", "+", "*"))


@pytest.mark.parametrize(
    ("style", "concise_on_three", "concise_on_four", "clear"),
    [
        ("P", 0, 0, 0),
        ("V", 0, 0, 1),
        ("S", 1, 0, 1),
        ("T", 1, 1, 0),
        ("H", 1, 1, 1),
        ("h", 1, 1, 1),
        ("D", 1, 1, 0),
        ("M", 1, 1, 1),
    ],
)
def test_rewards_of_the_styles(style, concise_on_three, concise_on_four, clear):
    for problem, concise in ((THREE, concise_on_three), (FOUR, concise_on_four)):
        response = write_response(problem, style)
        extra_info = {"budget": PRESETS["D"].budget(problem)}
        assert accuracy(response, str(problem.answer)) == 1.0
        assert conciseness(num_response_tokens(response), extra_info) == concise
        assert clarity(response) == clear


def test_compact_steps_have_all_three_within_the_budget_of_f():
    for problem in (THREE, FOUR):
        extra_info = {"budget": PRESETS["F"].budget(problem)}
        assert conciseness(num_response_tokens(write_response(problem, "S")), extra_info) == 1.0
        assert conciseness(num_response_tokens(write_response(problem, "P")), extra_info) == 0.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"\boxed{ 7 }", 1.0),
        (r"\boxed{ 3 } so \boxed{ 7 }", 1.0),
        (r"\boxed{ 7 } so \boxed{ 3 }", 0.0),
        (r"\boxed{ 7 } so \boxed{ = }", 1.0),  # the last box that is well formed
        (r"\boxed{ 7", 0.0),
        (r"\boxed{ 10 }", 0.0),
        (r"\boxed{ 7 7 }", 0.0),
        ("7", 0.0),
        ("", 0.0),
    ],
)
def test_accuracy_reads_the_last_box(response, expected):
    assert accuracy(response, "7") == expected


def test_conciseness_is_strict():
    assert conciseness(31, {"budget": 32.0}) == 1.0
    assert conciseness(32, {"budget": 32.0}) == 0.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"Step 1 : Step \boxed{ 7 }", 1.0),
        (r"Step 1 : \boxed{ 7 }", 0.0),
        (r"step 1 : step 2 : \boxed{ 7 }", 0.0),  # `step` is another word of the vocabulary
        (r"Step 1 : Step 2 :", 0.0),
        (r"Step 1 : Step 2 : \boxed{ }", 0.0),
    ],
)
def test_clarity_wants_two_steps_and_a_box(response, expected):
    assert clarity(response) == expected


def test_rewards_import_without_torch():
    code = "import sys, ctwa.testbed.rewards; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
