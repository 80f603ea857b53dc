import time
from typing import Any

import pytest

STEPS = [
    # the testbed's styles, tokens joined by spaces on one line
    "Step 1 : we compute 3 + 4 to get 7 . Step 2 : we compute 7 * 2 to get 4 . So the answer is \\boxed{ 4 } .",
    "Step 1 : 3 + 4 = 7 . Step 2 : 7 * 2 = 4 . \\boxed{ 4 }",
    "Step 1 : 3 + 4 . Step 2 : * 2 . \\boxed{ 4 }",
    "Step 1 : read . Step 2 : solve . \\boxed{ 4 }",
    # what models write
    "**Step 1:** Add.\n**Step 2:** Multiply.\n\\boxed{14}",
    "### Step 1: Add\n3 + 4 = 7\n### Step 2: Multiply\n7 * 2 = 14\n$$\\boxed{14}$$",
    "## Step 1\nAdd.\n## Step 2\nMultiply.\n\\boxed{14}",
    "Step 1. Add.\nStep 2. Multiply.\n\\boxed{14}",
    "Step one: add. Step two: multiply. \\boxed{14}",
    "\\textbf{Step 1:} Add.\n\\textbf{Step 2:} Multiply.\n\\boxed{14}",
    "1. Add 3 and 4 to get 7.\n2. Double it.\nSo \\boxed{14}",
    "Solution:\n\n1) Add.\n\n2) Multiply.\n\n\\boxed{14}",
    "  (1) Add.\n  (2) Multiply.\n\\boxed{\\frac{1}{2}}",
    "1. **Add** the numbers\n   - 3 + 4 = 7\n2. **Double** it\n\\boxed{14}",
    "**1.** Add.\n**2.** Double.\n\\boxed{14}",
    "a) Add.\nb) Multiply.\n\\boxed{14}",
    "i. Add.\nii. Multiply.\n\\boxed{14}",
    "First, add 3 and 4 to get 7. Then double it. \\boxed{14}",
    "First we add: 7.\nNext we double.\nFinally, \\boxed{14}.",
    "Firstly, add. Secondly, multiply. \\boxed{14}",
]

NO_STEPS = [
    # what the surface rules of earlier work take for steps
    "$3 - 2 = 1$, $4 - 1 = 3$ so \\boxed{3}",
    "We get 5. Then x is 7. \\boxed{7}",
    "then then \\boxed{1}",
    # the testbed's other styles
    "we compute 3 + 4 to get 7 , we compute 7 * 2 to get 4 , so the answer is \\boxed{ 4 } .",
    "3 + 4 = 7 ; 7 * 2 = 4 ; \\boxed{ 4 }",
    "\\boxed{ 4 }",
    # markers that are no steps
    "Step 1: add 3 and 4 and double it. \\boxed{14}",
    "Step 1 : Step 2 : \\boxed{14}",
    "Step 1 : . Step 2 : . \\boxed{14}",
    "Step 2: add. Step 1: multiply. \\boxed{14}",
    "Step 1: add. Step 1: multiply. \\boxed{14}",
    "By Step 1 and Step 2 of the proof we get \\boxed{14}",
    "1.\n2.\n\\boxed{14}",
    "2. Add.\n1. Multiply.\n\\boxed{14}",
    "The sum is 1. 2 follows. It is 2. 3 comes next. \\boxed{3}",
    "3.5 is added\n4.5 is the sum\n\\boxed{8}",
    "1.5 + 2 = 3.5\n2.5 + 1 = 3.5\n\\boxed{7}",
    "- add\n- multiply\n\\boxed{14}",
    "Then we add. Then we multiply. \\boxed{14}",
    "Next, the sum. Finally, \\boxed{14}",
    "At first, we add, then multiply, and finally get \\boxed{14}",
    "First \\boxed{14}",
    "",
]


@pytest.mark.parametrize("response", STEPS)
def test_explicit_steps_and_an_answer_are_clear(reward_fn: Any, response: str) -> None:
    assert reward_fn("clarity")(response) == 1.0


@pytest.mark.parametrize("response", STEPS)
@pytest.mark.parametrize("box", ["", "\\boxed{}", "\\boxed{ }", "\\boxed{\u200b}", "\\boxed{14", "boxed{14}"])
def test_steps_without_a_closed_box_that_holds_something_are_not(reward_fn: Any, response: str, box: str) -> None:
    assert reward_fn("clarity")(response[: response.index("\\boxed")] + box) == 0.0


@pytest.mark.parametrize("response", NO_STEPS)
def test_without_two_steps_in_order_an_answer_is_not_clear(reward_fn: Any, response: str) -> None:
    assert reward_fn("clarity")(response) == 0.0


N = 50_000


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a" * N,
            "\n" * N,
            " " * N,
            "\t" * N,
            "*" * N,
            "1" * N,
            "* " * N,
            "1. " * N,
            ". " * N,
            "First " * N,
            "Then " * N,
        ),
        *("Step 1" + " " * N, "Step 1" + "*" * N, "Step" + " " * N, "Step " + "1" * N, "Step 1 " * N, "Step 1: " * N),
        *("1." + " " * N, "1." + "*" * N, "1.\n" * N, "i." + " " * N, "." + " " * N, ".\n" + " \n" * N, "\n" + " " * N),
        *(
            "First" + " " * N + "Then",
            "First.\n" * N,
            "First. " + "\n" * N,
            "\\boxed{" * N,
            "\\boxed{" * N + "}" * N,
            "{" * N,
        ),
        *("\\textbf{" * N, "> " * N, "\\" * N, "\\boxed" + " " * N, "\\boxed {" * N, "\\boxed 1" * N),
    ],
    ids=lambda text: text[:12],
)
def test_long_texts_are_no_burden(reward_fn: Any, text: str) -> None:
    """Every part of the patterns, repeated; with a box at the end, so that the steps are looked for."""
    start = time.process_time()
    assert reward_fn("clarity")(text + "}") == 0.0
    reward_fn("clarity")(text + "\n\\boxed{14}")

    assert time.process_time() - start < 5.0
