r"""The grader of answers in MATH's notations."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctwa.objectives.grading import grade

ROOT = Path(__file__).parents[2]
EQUAL = Path(__file__).with_name("answers_equal.txt")
DIFFERENT = Path(__file__).with_name("answers_different.txt")


def load_sweep() -> Any:
    spec = importlib.util.spec_from_file_location("grader_sweep", ROOT / "benchmarks" / "grader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def pairs(table: Path) -> list[tuple[str, str]]:
    """The lines `answer :: ground truth` of a table."""
    lines = [line for line in table.read_text().splitlines() if line and not line.startswith("# ")]
    return [(answer, gold) for answer, gold in (line.split("::") for line in lines)]


def score(answer: str, gold: Any) -> float | None:
    return grade(f"so \\boxed{{{answer}}}", gold).score


def test_the_tables_are_read() -> None:
    assert len(pairs(EQUAL)) > 370
    assert len(pairs(DIFFERENT)) > 170


def test_what_says_the_same_is_right() -> None:
    wrong = [(answer, gold, grade(f"\\boxed{{{answer}}}", gold)) for answer, gold in pairs(EQUAL)]

    assert [entry for entry in wrong if entry[2].score != 1.0] == []


def test_what_says_something_else_is_wrong() -> None:
    right = [(answer, gold, grade(f"\\boxed{{{answer}}}", gold)) for answer, gold in pairs(DIFFERENT)]

    assert [entry for entry in right if entry[2].score != 0.0] == []


def test_what_says_something_else_is_wrong_the_other_way_round_too() -> None:
    """Except for ratios: 3:30 may be a time and so is no 6:60, which is none."""
    swapped = [(gold.strip(), answer.strip()) for answer, gold in pairs(DIFFERENT) if ":" not in gold]

    assert [(answer, gold) for answer, gold in swapped if gold and score(answer, gold) == 1.0] == []


@pytest.mark.parametrize("answer", ["4,3", "\\{3,4\\}"])
def test_a_ground_truth_with_names_asks_which_is_which_and_one_without_does_not(answer: str) -> None:
    assert score("3,4", "x=3, y=4") == 1.0
    assert score(answer, "x=3, y=4") == 0.0
    assert score("x=3, y=4", answer) == 1.0


@pytest.mark.parametrize("answer", ["58\u200b", "\u00a058", "\t58\n", "\ufeff58", "5\u20608", " 58 ", "58 \\ "])
def test_invisible_characters_say_nothing(answer: str) -> None:
    assert score(answer, "58") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        *(
            "true",
            "A.",
            "a)",
            "£12",
            "½",
            "(",
            "\\frac{1}{",
            "x \\star y",
            "\\int_0^1 x\\,dx",
            "\\lim_{n\\to\\infty} a_n",
        ),
        *(
            "the set of all primes that are sums of two squares",
            "2+4+\\cdots+2n",
            "\\sum_{n=1}^\\infty \\frac1n",
            "?",
            "≜",
        ),
        *(
            "1/0",
            "9^{9^{9^9}}",
            "10000000!",
            "*",
            ":",
            ";",
            ",",
            "日本",
            "\\unknown{3}",
            "3 + \\text{ cats } - 7",
            "{7",
        ),
    ],
)
def test_an_answer_that_is_the_ground_truth_letter_for_letter_is_right(text: str) -> None:
    if text.count("{") == text.count("}"):
        assert score(text, text) == 1.0
        assert score(f" {text} ", f"{text}\n") == 1.0
    assert grade("no box", text).score == 0.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "\\int_0^1 x\\,dx"),
        ("\\frac12", "\\int_0^1 x\\,dx"),
        ("0", "\\lim_{n\\to\\infty} a_n"),
        ("30", "2+4+\\cdots+10"),
        ("2+4+6+\\cdots+10", "2+4+\\cdots+10"),
        ("\\frac{\\pi^2}{6}", "\\sum_{n=1}^\\infty \\frac{1}{n^2}"),
        ("\\text{all odd primes}", "\\text{every prime number that is not two}"),
        ("7", "1/0"),
        ("7", "("),
        ("100000000!", "100000001!"),
        ("x \\circledast z", "x \\circledast y"),
        ("(3,5)", "\\{x\\in\\mathbb{Z}\\mid 3<x<5\\}"),
    ],
)
def test_what_a_ground_truth_without_a_value_says_is_unscored_with_a_reason(answer: str, gold: str) -> None:
    graded = grade(f"\\boxed{{{answer}}}", gold)

    assert graded.score is None
    assert "ground truth" in graded.reason


@pytest.mark.parametrize(
    "gold",
    [
        None,
        math.nan,
        math.inf,
        {"answer": "4"},
        ["4"],
        ("4",),
        True,
        np.bool_(True),
        b"4",
        np.array(["4"]),
        np.array([4]),
        object(),
        "",
        "   ",
        "nan",
        "NaN",
        "None",
        "null",
        "N/A",
        "NaT",
        "[]",
        np.float64("nan"),
        np.float32("inf"),
        Decimal("nan"),
        Decimal("sNaN"),
        pytest.param(2**20_000, id="more digits than Python writes"),
        pytest.param(Fraction(2**20_000, 3), id="a fraction of such a number"),
        Decimal("1e1000000"),
        "1e1000000",
        4j,
    ],
)
def test_a_ground_truth_that_is_no_answer_is_never_scored(gold: Any) -> None:
    graded = grade("so \\boxed{4}", gold)

    assert graded.score is None
    assert "ground truth" in graded.reason


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", 7),
        ("7", 7.0),
        ("7", np.int64(7)),
        ("0.1", np.float32(0.1)),
        ("0.5", Fraction(1, 2)),
        ("\\frac12", Decimal("0.5")),
        ("0.00002", 2e-05),
        ("2 \\times 10^{-5}", 2e-05),
        ("2e-5", 2e-05),
        ("10^{16}", 1e16),
        ("10000000000000000", 1e16),
        ("0.3", 0.1 + 0.2),
        ("\\frac13", 1 / 3),
        ("\\frac{2}{3}", 2 / 3),
        ("-1.5", -1.5),
        ("\\sqrt{2}", math.sqrt(2)),
        ("45\\%", 0.45),
        ("7", np.str_("7")),
        ("x=7", 7),
        ("2.5", np.array(2.5).item()),
        ("x=0.3", 0.1 + 0.2),
        ("30\\%", 0.1 + 0.2),
        ("\\$0.30", 0.1 + 0.2),
        ("0.3 \\text{ m}", 0.1 + 0.2),
        ("x=\\sqrt2", 2**0.5),
        ("\\frac13", np.float32(1 / 3)),
        ("\\frac23", np.float32(2 / 3)),
        ("0.33333334", np.float32(1 / 3)),
        ("\\frac13", np.float16(1 / 3)),
        pytest.param("2^{1024}", 2**1024, id="more than a float holds"),
        pytest.param(str(2**1024), 2**1024, id="more than a float holds, in digits"),
        ("65504", np.float16(65504)),
        pytest.param(str(int(sys.float_info.max)), sys.float_info.max, id="all that a float holds"),
        ("\\frac{1}{3}", Fraction(1, 3)),
        ("10^{20}", Decimal("1e20")),
    ],
)
def test_numbers_as_ground_truths(answer: str, gold: Any) -> None:
    assert score(answer, gold) == 1.0
    assert score("8", gold) == 0.0
    assert score("0.0000201", gold) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("0.3000001", 0.3), ("x=0.300000001", 0.3), ("0.33334", np.float32(1 / 3)), ("16777218", np.float32(2**24))],
)
def test_a_floating_point_ground_truth_is_no_other_number_than_it_was_rounded_from(answer: str, gold: Any) -> None:
    assert score(answer, gold) == 0.0


def test_a_ground_truth_that_cannot_be_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert score("7", "\\oddcommand{7}") is None

    assert [record.getMessage() for record in caplog.records] == [
        r"ground truth '\\oddcommand{7}' cannot be read (\oddcommand is not known): only the same text is right"
    ]


def test_a_choice_with_one_bracket_is_read(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for gold in ("A)", r"\text{A) }12"):
            assert [score(answer, gold) for answer in ("A", "B", "B)", "12")] == [1.0, 0.0, 0.0, 0.0]

    assert caplog.records == []


NESTED = 200
BOMBS = [
    *(
        "9^{9^{9^{9}}}",
        "10000000!",
        "((((((10!)!)!)!)!)!)",
        "3!!!!!",
        "2^{2^{2^{2^{2^2}}}}",
        "e^{e^{e^{e^e}}}",
        "0^{0}",
    ),
    *("(x+1)^{1000000}", "\\binom{10^{9}}{10^{8}}", "\\binom{99999.5}{3}", "\\underbrace{1+1}_{2}", "i^{i^{i^{i}}}"),
    *("\\sum_{k=0}^{1000} \\sum_{j=0}^{1000} k^j", "\\sum_{k=0}^{10^9} k", "\\prod_{k=1}^{999} k!", "\\sin(10^{30})"),
    *("1/" * NESTED + "1", "(" * NESTED + "1" + ")" * NESTED, "{" * NESTED + "1" + "}" * NESTED, "-" * 450 + "1"),
    *("\\sqrt{" * 70 + "2" + "}" * 70, "\\frac{1}{" * 50 + "2" + "}" * 50, "|" * 400, "x" * 490, "\\sin" * 110),
    *(
        "\\pm" * 160 + "1",
        "+".join(["\\pm 1"] * 70),
        "\\text{" * 80 + "a" + "}" * 80,
        "1:" * NESTED + "1",
        "f(" * 150 + "x",
    ),
    *(",".join(f"x^{n % 9}" for n in range(90)), "1 " * NESTED, "100," * 99 + "100", "5 cm^{999999999}", "5\\%" * 150),
    *(
        "\\begin{vmatrix}" + "\\\\".join(["x&" * 5 + "x"] * 6) + "\\end{vmatrix}",
        "x \\cup " * 60 + "1",
        "½" * 300,
        "√" * 400,
    ),
    *("\\sqrt[0]{2}", "5000!", "10^{18000}+1", "1_{" + "9" * 300 + "}", "\x00" * 300, "\ud800", "*" * 400, "1" * 480),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:20].encode("unicode_escape").decode())
def test_no_answer_takes_long_and_none_of_these_is_right(bomb: str) -> None:
    start = time.process_time()
    for gold in ("7", "x^2+1", "y=2x+1", "0.333333"):
        assert score(bomb, gold) == 0.0
    score("7", bomb)

    assert time.process_time() - start < 5.0  # five grades


@pytest.mark.parametrize(
    "response",
    [
        *("\\boxed{" * 20_000, "\\boxed{" * 20_000 + "}" * 20_000, "{" * 100_000, "\\boxed x" * 15_000, "\\" * 100_000),
        *(
            "\\boxed{" + "1" * 100_000 + "}",
            "\\boxed{6}, " * 10_000,
            ("\\boxed" + " " * 300) * 300,
            "\\boxed 1" + "{1" * 30_000,
            "\\boxed1" * 15_000,
        ),
        *("\\boxed{6} and" + " " * 100_000 + "\\boxed{7}x", "\\boxed{6}" + ("a" * 50 + "\\boxed{6}") * 2_000),
    ],
    ids=lambda response: response[:12],
)
def test_no_response_takes_long(response: str) -> None:
    start = time.process_time()
    grade(response, "7")

    assert time.process_time() - start < 3.0


@pytest.mark.parametrize("source", ["table", "math500"])
def test_the_sweep_finds_no_wrong_grade(source: str) -> None:
    """benchmarks/grader.py: each answer itself, ten other notations, ten changes of one character."""
    sweep: Any = load_sweep()
    folder = os.environ.get("CTWA_MATH500")
    if source == "math500" and folder is None:
        pytest.skip("set CTWA_MATH500 to a folder with the parquet files of MATH-500")
    answers = sweep.table_answers() if source == "table" else sweep.data_answers(Path(str(folder)))
    swept = sweep.sweep(answers, sweep.ctwa_grade)

    assert swept.wrong == []
    assert swept.unscored <= 1  # a sum with dots
    assert swept.graded["itself"] == len(answers)
    assert swept.graded["notation"] == 10 * len(answers)
    assert swept.graded["change"] > 8 * len(answers)


def test_the_sweep_can_fail() -> None:
    sweep: Any = load_sweep()

    def lenient(response: str, ground_truth: str) -> float:
        return 1.0

    def strict(response: str, ground_truth: str) -> float:
        return 0.0

    assert {kind for kind, *_ in sweep.sweep(["\\frac{3}{7}"], lenient).wrong} == {"change"}
    assert {kind for kind, *_ in sweep.sweep(["\\frac{3}{7}"], strict).wrong} == {"itself", "notation"}
