"""The reward function; what counts as equal is in tests/objectives/test_grading.py."""

from collections.abc import Callable
from typing import Any

import pytest

from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator


@pytest.fixture
def accuracy(reward_fn: Any) -> Callable[[str, Any], float | None]:
    return reward_fn("accuracy")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("first \\boxed{3} then \\boxed{7}", 1.0),
        ("first \\boxed{7} then \\boxed{3}", 0.0),
        ("\\boxed{\\boxed{7}}", 1.0),
        ("\\boxed{x = \\boxed{7}}", 1.0),
        ("\\boxed {7}", 1.0),
        ("\\boxed\n{7}", 1.0),
        ("\\boxed{ 7 } . <eos>", 1.0),
        ("write it in \\boxed{: \\boxed{7}", 1.0),
        ("\\fbox{7}", 1.0),
        ("So it is \\fbox{7}.", 1.0),
        ("It is $\\boxed 7$.", 1.0),
        ("It is $\\boxed7$.", 1.0),
        ("\\boxed\\frac{14}{2}$", 1.0),
        ("\\boxed 14/2.", 1.0),
        ("\\\\boxed{7}", 1.0),
        ("\\[\n\\boxed{\n7\n}\n\\]", 1.0),
        ("\\boxed{7}, \\boxed{7}", 1.0),
        # one answer in two boxes: an alternative is no answer
        ("\\boxed{3} or \\boxed{7}", 0.0),
        ("$\\boxed{7}$ and $\\boxed{3}$", 0.0),
        # the length limit cut the last box off
        ("\\boxed{7} and then \\boxed{3", 0.0),
        ("\\boxed{7} and then \\boxed{7", 0.0),
        ("\\boxed{7", 0.0),
        ("\\boxed{7} and then \\boxed", 0.0),
        ("\\boxed{7} and then $\\boxed", 0.0),
        ("\\boxed{7} and then \\boxed \n", 0.0),
        ("\\boxed{7} and then \\fbox", 0.0),
        ("\\boxed{7} no: \\boxed{}", 0.0),
        ("\\boxed{7}, \\boxed{}", 0.0),
        ("\\boxed{7} and \\boxed{ }", 0.0),
        ("\\boxed{7}, \\boxed{\\,}", 0.0),
        ("\\boxed{}, \\boxed{7}", 0.0),
        ("\\boxed{\\quad}, \\boxed{7}, \\boxed{7}", 0.0),
        ("\\boxed", 0.0),
        ("\\boxedx{7}", 0.0),
        ("boxed{7}", 0.0),
        ("the answer is 7", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_box_is_the_answer(accuracy: Any, response: str, expected: float) -> None:
    assert accuracy(response, "7") == expected


@pytest.mark.parametrize(
    ("response", "gold", "expected"),
    [
        ("$x = \\boxed{2}$ or $x = \\boxed{3}$", "2,3", 1.0),
        ("\\boxed{3}, \\boxed{2}", "\\{2,3\\}", 1.0),
        ("\\boxed{1}, \\boxed{2}, and \\boxed{3}", "1,2,3", 1.0),
        ("$\\boxed{2}$ \\text{ and } $\\boxed{3}$", "2,3", 1.0),
        ("$\\boxed{2},\\ \\boxed{3}$", "2,3", 1.0),
        ("$\\boxed{2},\\qquad x = \\boxed{3}$", "2,3", 1.0),
        ("height = $\\boxed{3}$, area = $\\boxed{12}$", "12", 1.0),
        ("$AB = \\boxed{2}$, $CD = \\boxed{3}$, $x_{12}' = \\boxed{4}$", "2,3,4", 1.0),
        ("\\boxed{2}, \\boxed{4}", "2,3", 0.0),
        ("\\boxed 2, \\boxed 3", "2,3", 1.0),
        ("$x_{1} &= \\boxed{2}, \\\\ \\alpha_2 &= \\boxed{3}$", "2,3", 1.0),
        ("\\boxed{2} &= \\boxed{3}", "3", 1.0),
        ("\\boxed{2}\\text{ }\\boxed{3}", "3", 1.0),
        ("\\boxed{2}, so \\boxed{2,3}", "2,3", 1.0),
        ("\\boxed{\\{1, 2\\}}", "\\{2, 1\\}", 1.0),
        ("\\boxed{\\{1, 2\\}", "\\{2, 1\\}", 0.0),
    ],
)
def test_an_answer_in_several_boxes(accuracy: Any, response: str, gold: str, expected: float) -> None:
    assert accuracy(response, gold) == expected


JOINTS = [
    *(
        ", ",
        "; ",
        " or ",
        " and ",
        " OR ",
        ", and ",
        " & ",
        "，",
        "、",
        "或",
        "\\text{, }",
        "\\text{ or }",
        "\\mbox{ and }",
    ),
    *(
        "\\;\\text{or}\\;",
        "\\quad\\text{or}\\quad ",
        " \\textrm{or} ",
        ", \\text{ and } ",
        ",\\qquad ",
        " \\lor ",
        " \\wedge ",
    ),
    *(
        "$ or $",
        "\\) or \\(",
        "\\]\nor\n\\[",
        "** or **",
        "$, $x = ",
        "$ and $x_2=",
        "\\) or \\(x_{12} = ",
        ", \\theta' =",
    ),
]


@pytest.mark.parametrize("joint", JOINTS)
def test_boxes_that_are_joined_are_one_answer(accuracy: Any, joint: str) -> None:
    """Two guesses are not the second of them, however they are joined."""
    response = f"It is \\boxed{{3}}{joint}\\boxed{{7}}."

    assert accuracy(response, "7") == 0.0
    assert accuracy(response, "3,7") == 1.0
    assert accuracy(response.replace("3", "7"), "7") == 1.0


@pytest.mark.parametrize("gold", [None, float("nan"), "", {"value": 7}, ["7"]])
def test_without_a_ground_truth_nothing_is_scored(accuracy: Any, gold: Any) -> None:
    assert accuracy("\\boxed{7}", gold) is None
    assert accuracy("no box", gold) is None


def test_a_number_as_ground_truth(accuracy: Any) -> None:
    assert accuracy("\\boxed{7}", 7) == 1.0


def test_an_answer_of_absurd_length_is_wrong_without_being_read(accuracy: Any) -> None:
    assert accuracy(f"\\boxed{{{'1+' * 400}1}}", "401") == 0.0


def test_bombs_are_graded_within_the_deadline() -> None:
    responses = ["\\boxed{3}", "\\boxed{9^{9^{9^{9}}}}", "\\boxed{10000000!}", "\\boxed{" * 20_000, "\\boxed{4}"]
    completions = [Completion(response, "", "3", "", {}, 5, None, True, {}) for response in responses]
    objective = ObjectiveConfig(reward_fn="reward_fns/accuracy.py:accuracy", timeout=2.0)
    with RewardEvaluator({"accuracy": objective}, num_workers=1, max_unscored=1.0) as evaluator:
        evaluation = evaluator.evaluate(completions, [0] * len(completions))
    assert list(evaluation.failures) == []
    assert evaluation.matrix.rewards_NM[:, 0].tolist() == [1, 0, 0, 0, 0]
