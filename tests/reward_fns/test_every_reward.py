"""What holds of every ready-made reward function: a hostile response costs no more than its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator, load_contracts
from ctwa.objectives.library import ready_made

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
    *("```x\n", "```python\n", "$$a", "`a\n", "answer A\n"),
    *("河", "é", "𝐚", "A B", "not ", "- x\n", "x;", "e.g. ", "\\frac", "\\text{"),
]
HOSTILE_TEXTS = [
    *((piece * NUM_CHARACTERS)[:NUM_CHARACTERS] for piece in HOSTILE),
    *(begins + ")" * NUM_CHARACTERS for begins in ("<answer>A", "\\boxed{A", "answer A", "A")),
    "a" + "\u0315\u0300" * 10_000,  # marks that combine
]
KWARGS: dict[str, dict[str, Any]] = {
    "length_budget": {"budget": 10},
    "soft_overlong": {"max_tokens": 100, "buffer": 10},
    "cosine_length": {"max_tokens": 10**9},
    "exact_match": {"place": "last_number"},
    "json_valid": {"keys": ["a"]},
}
TRUTHS = {"multiple_choice": "B", "code_tests": "assert f(1) == 1"}
ASK_SOMEBODY = {"judge", "remote_score", "reward_model"}
NAMES = [each.name for each in ready_made() if each.name not in ASK_SOMEBODY]
OF_TASKS = ["constraints", "brevity", "well_formed"]
TASKS_TRUTH = (
    '[{"kind": "sentences", "num": 2}, {"kind": "json", "keys": ["a"]}, {"kind": "ending", "phrase": "a b c."}]'
)


def evaluated(objectives: dict[str, ObjectiveConfig], truth: str) -> dict[str, list[str]]:
    completions = [Completion(text, "What is it?", truth, "", {}, len(text), 9.0, True, {}) for text in HOSTILE_TEXTS]
    with RewardEvaluator(objectives, num_workers=1, max_unscored=1.0) as evaluator:
        evaluation = evaluator.evaluate(completions, [0] * len(completions))
    slow: dict[str, list[str]] = {}
    for failure in evaluation.failures:
        if failure.reason != "none":
            slow.setdefault(failure.objective, []).append(
                f"{HOSTILE_TEXTS[failure.row][:20]!r}: {failure.reason} {failure.text}"
            )
    return slow


@pytest.mark.parametrize(
    ("name", "kwargs", "sentence"),
    [
        ("length_budget", {"budget": 10, "limit": 9}, "budget=10 and limit=9: write 0 < budget <= limit"),
        ("length_budget", {"budget": "ten"}, "budget='ten' is not of its annotation, int"),
        ("soft_overlong", {"max_tokens": 10, "buffer": 11}, "write 0 < buffer <= max_tokens"),
        ("cosine_length", {"max_tokens": 0}, "max_tokens=0: write the length limit"),
        ("cosine_length", {"max_tokens": 9, "wrong": [1]}, r"wrong=\[1\]: write the values at no length"),
        ("repetition", {"penalty": 1}, "a penalty of at most 0"),
        ("format_tags", {"tags": "think"}, "tags='think': write a list"),
        ("language", {"code": "fr", "among": ["de"]}, r"code=fr is not among \['de'\]"),
        ("language", {"code": "xx"}, "xx"),
        ("json_valid", {"schema": {"type": "integr"}}, "schema is no JSON Schema: 'integr'"),
        ("exact_match", {"place": "boxes"}, "'boxes' is no place of an answer: write one of whole, tags"),
        ("judge", {"base_url": "http://a b", "model": "m"}, "endpoint.base_url: write http:// or https://"),
        ("judge", {"base_url": "http://a:0", "model": "m"}, "endpoint.base_url: there is no port 0"),
        (
            "judge",
            {"base_url": "http://a", "model": "m", "extra_body": {"model": "n"}},
            "extra_body: model is no further",
        ),
        ("judge", {"base_url": "http://a", "model": "m", "extra_body": {"x": math.inf}}, "extra_body: JSON cannot say"),
        ("judge", {"base_url": "http://a", "model": "m", "scale": [3, 3]}, "write the worst and the best grade"),
        ("judge", {"base_url": "http://a", "model": "m", "pattern": "x"}, "pattern='x' has no group"),
        ("judge", {"base_url": "http://a", "model": "m", "api_key_env": "NO_KEY"}, "names NO_KEY, which is not set"),
        ("judge", {"base_url": "http://a", "model": "m", "scale": 5}, "scale=5: write the worst and the best grade"),
        ("judge", {"base_url": "http://a", "model": "m", "scale": [1, math.nan]}, "write the worst and the best grade"),
        ("judge", {"base_url": "http://a", "model": "m", "max_attempts": 0}, "endpoint.max_attempts: Input should be"),
        ("judge", {"base_url": "http://a", "model": "m", "requests_per_minute": 0}, "=0: write a number above 0"),
        ("judge", {"base_url": "http://a", "model": "m", "prices": [1]}, r"prices=\[1\]: write those of a million"),
        ("remote_score", {"url": "http://a", "concurrency": 0}, "endpoint.concurrency: Input should be greater"),
        ("reward_model", {"model": "m", "batch_size": 0}, "batch_size=0: write a number of at least 1"),
        ("cosine_length", {"max_tokens": 9, "right": 3}, "right=3: write the values at no length"),
        ("cosine_length", {"max_tokens": 9, "right": ["a", "b"]}, "write the values at no length"),
        ("language", {"among": "en"}, "among='en': write a list of codes"),
        ("language", {"code": "EN"}, "write codes of ISO 639-1 in small letters, such as en"),
        ("multiple_choice", {"choices": ["A", "B"]}, "write their letters as one text"),
        ("json_valid", {"schema": {"properties": {"a": {"$ref": "#/$defs/no"}}}}, r"a \$ref to '#/\$defs/no', which"),
        ("json_valid", {"schema": {"items": {"$ref": "https://example.org/other"}}}, r"a \$ref to 'https://example"),
        ("json_valid", {"keys": 5}, "keys=5: write a list of names"),
        ("json_valid", {"other_keys": False}, "leaves no key without keys"),
        ("format_tags", {"tags": ["<think>"]}, "'<think>' is no name of a tag: write it without < and >"),
        ("format_tags", {"tags": [1]}, r"tags=\[1\]: write a list"),
        ("remote_score", {"url": "ftp://a"}, "endpoint.base_url: write http:// or https://"),
        ("reward_model", {"model": "/no/where"}, "model=/no/where: there is no such folder"),
        ("reward_model", {"model": "m", "device": "gpu"}, "device=gpu: write cpu, cuda or cuda:1"),
    ],
)
def test_kwargs_that_cannot_be_used_are_refused_before_a_run(name: str, kwargs: dict[str, Any], sentence: str) -> None:
    spec = f"reward_fns/{name}.py:{name}"
    with pytest.raises(CtwaError, match=sentence) as error:
        load_contracts({name: ObjectiveConfig(reward_fn=spec, kwargs=kwargs)})
    assert str(error.value).startswith("the kwargs of reward function '")


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
