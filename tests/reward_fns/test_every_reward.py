"""What holds of every ready-made reward function: a hostile response costs no more than its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator

NUM_CHARACTERS = 50_000
HOSTILE = [
    *(
        " ",
        "\n",
        "\t",
        "a",
        "1",
        "1,",
        ".",
        "a.",
        "A. ",
        '"',
        "'",
        "(",
        "{",
        "[",
        "<",
        "*",
        "`",
        "```\n",
        "#",
        "-",
        "_",
    ),
    *(
        "\\boxed{",
        "<think>",
        "<answer>",
        "</think>",
        "Step ",
        "Step 1: ",
        "1. ",
        "\\",
        "$",
        "B or ",
        "answer is ",
        "\u200b",
    ),
    *("河", "é", "𝐚", "A B", "not ", "- x\n", "x;", "e.g. ", "\\frac", "\\text{"),
]
KWARGS: dict[str, dict[str, Any]] = {
    "length_budget": {"budget": 10},
    "soft_overlong": {"max_tokens": 100, "buffer": 10},
    "cosine_length": {"max_tokens": 10**9},
    "exact_match": {"place": "last_number"},
    "json_valid": {"keys": ["a"]},
}
TRUTHS = {"multiple_choice": "B", "code_tests": "assert f(1) == 1"}
NAMES = [
    *("accuracy", "clarity", "conciseness", "code_tests", "cosine_length", "exact_match", "format_tags", "json_valid"),
    *("language", "length_budget", "multiple_choice", "repetition", "soft_overlong"),
]
OF_TASKS = ["constraints", "brevity", "well_formed"]
TASKS_TRUTH = (
    '[{"kind": "sentences", "num": 2}, {"kind": "json", "keys": ["a"]}, {"kind": "ending", "phrase": "a b c."}]'
)


def evaluated(objectives: dict[str, ObjectiveConfig], truth: str) -> dict[str, list[str]]:
    texts = [(piece * NUM_CHARACTERS)[:NUM_CHARACTERS] for piece in HOSTILE]
    completions = [Completion(text, "What is it?", truth, "", {}, len(text), 9.0, True, {}) for text in texts]
    with RewardEvaluator(objectives, num_workers=1, max_unscored=1.0) as evaluator:
        evaluation = evaluator.evaluate(completions, [0] * len(completions))
    slow: dict[str, list[str]] = {}
    for failure in evaluation.failures:
        if failure.reason != "none":
            slow.setdefault(failure.objective, []).append(f"{HOSTILE[failure.row]!r}: {failure.reason} {failure.text}")
    return slow


@pytest.mark.parametrize("name", NAMES)
def test_a_long_response_is_read_in_time(name: str, reward_fn: Callable[[str], Any]) -> None:
    spec = f"reward_fns/{name}.py:{name}"
    objective = ObjectiveConfig(reward_fn=spec, kwargs=KWARGS.get(name, {}), timeout=5.0)
    assert evaluated({name: objective}, TRUTHS.get(name, "7")) == {}


@pytest.mark.parametrize("name", OF_TASKS)
def test_so_is_one_to_the_prompts_with_constraints(name: str) -> None:
    kwargs = {"budget": 96} if name == "brevity" else {}
    objective = ObjectiveConfig(reward_fn=f"ctwa.instructions.rewards:{name}", kwargs=kwargs, timeout=5.0)
    assert evaluated({name: objective}, TASKS_TRUTH) == {}
