from collections.abc import Callable
from typing import Any

import pytest

from ctwa.objectives import Completion, ObjectiveConfig, RewardEvaluator


@pytest.fixture
def accuracy(reward_fn: Any) -> Callable[[str, Any], float | None]:
    return reward_fn("accuracy")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "7"),
        (" 7 ", "7"),
        ("7.0", "7"),
        ("007", "7"),
        ("7.", "7"),
        ("1000", "1,000"),
        ("11111", "11,\\! 111"),
        ("-3", "-3"),
        ("0.5", "\\frac{1}{2}"),
        ("1/2", "\\frac12"),
        ("\\dfrac{1}{2}", "0.5"),
        ("0.333333", "\\frac{1}{3}"),
        ("2\\sqrt{2}", "\\sqrt{8}"),
        ("(x+1)^2", "x^2 + 2x + 1"),
        ("q + p", "p + q"),
        ("x = 3", "3"),
        ("50", "50\\%"),
        ("36", "\\$36"),
        ("90", "90^\\circ"),
        ("(3, 4]", "(3,4]"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
        ("2, 1", "1,2"),
        ("Evelyn", "\\text{Evelyn}"),
        ("C", "\\text{(C)}"),
        ("2 \\text{ apples}", "2"),
        ("\\begin{pmatrix} 1/2 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 0.5 \\\\ 2 \\end{pmatrix}"),
    ],
)
def test_equal_answers(accuracy: Any, answer: str, gold: str) -> None:
    assert accuracy(f"so \\boxed{{{answer}}}", gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("8", "7"),
        ("-7", "7"),
        ("70", "7"),
        ("7.5", "7"),
        ("0.3", "\\frac{1}{3}"),
        ("x^2 + 1", "(x+1)^2"),
        ("(3, 4)", "(3,4]"),
        ("2, 1, 3", "1,2"),
        ("Eve", "\\text{Evelyn}"),
        ("D", "\\text{(C)}"),
        ("", "7"),
        ("(", "7"),
        ("\\frac{", "7"),
    ],
)
def test_other_answers(accuracy: Any, answer: str, gold: str) -> None:
    assert accuracy(f"so \\boxed{{{answer}}}", gold) == 0.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("first \\boxed{3} then \\boxed{7}", 1.0),
        ("first \\boxed{7} then \\boxed{3}", 0.0),
        ("\\boxed{\\boxed{7}}", 1.0),
        ("\\boxed {7}", 1.0),
        ("\\boxed{7} and then \\boxed{3", 1.0),  # the length limit cut the second box off
        ("\\boxed{ 7 } . <eos>", 1.0),
        ("the answer is 7", 0.0),
        ("\\boxed{7", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_closed_box_is_the_answer(accuracy: Any, response: str, expected: float) -> None:
    assert accuracy(response, "7") == expected


def test_a_set_in_escaped_braces(accuracy: Any) -> None:
    assert accuracy("\\boxed{\\{1, 2\\}}", "\\{2, 1\\}") == 1.0


@pytest.mark.parametrize("gold", ["", "(", "\\frac{", "   "])
def test_a_ground_truth_that_cannot_be_read_is_not_scored(accuracy: Any, gold: str) -> None:
    assert accuracy("\\boxed{7}", gold) is None
    assert accuracy(f"\\boxed{{{gold}}}", gold) is None


def test_a_number_as_ground_truth(accuracy: Any) -> None:
    assert accuracy("\\boxed{7}", 7) == 1.0


def test_plain_numbers_and_equal_text_need_no_algebra(accuracy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_algebra(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the algebra system was asked")

    for name in ("parse", "verify"):
        monkeypatch.setitem(accuracy.__globals__, name, no_algebra)
    assert accuracy("\\boxed{ 7 }", "7") == 1.0
    assert accuracy("\\boxed{8}", "7") == 0.0
    assert accuracy("\\boxed{1000}", "1,000.0") == 1.0


def test_an_answer_of_absurd_length_is_wrong_without_being_parsed(accuracy: Any) -> None:
    assert accuracy(f"\\boxed{{{'1+' * 400}1}}", "401") == 0.0


def test_an_answer_that_takes_for_ever_is_killed_and_not_scored() -> None:
    responses = ["\\boxed{3}", "\\boxed{9^{9^{9^{9}}}}", "\\boxed{4}"]
    completions = [Completion(response, "", "3", "", {}, 5, None, True, {}) for response in responses]
    objective = ObjectiveConfig(reward_fn="reward_fns/accuracy.py:accuracy", timeout=1.0)
    with RewardEvaluator({"accuracy": objective}, num_workers=1, max_unscored=1.0) as evaluator:
        evaluation = evaluator.evaluate(completions, [0, 0, 0])
    assert [(failure.row, failure.reason) for failure in evaluation.failures] == [(1, "timeout")]
    assert evaluation.matrix.rewards_NM[:, 0].tolist() == [1, 0, 0]
