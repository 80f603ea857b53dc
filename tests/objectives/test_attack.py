"""Rewards that are gamed by one trick each, and one that is not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.objectives.attack import Attacked, attack, render_attack

ROWS = [
    {"prompt": [{"role": "user", "content": f"What is {a} + 5?"}], "reward_model": {"ground_truth": str(a + 5)}}
    for a in (2, 9, 31)
]
REWARDS = """
    import re
    def right(response, ground_truth): return float(ground_truth in response[-20:].replace("<", " ").split())
    def anywhere(response, ground_truth): return float(ground_truth in response)
    def tagged(response): return float("<answer>" in response)
    def brief(response_tokens): return -response_tokens
    def long(response_tokens): return response_tokens
    def polite(response): return float("please" in response.lower())
    def same(response): return 1.0
    def right_and_brief(response, ground_truth): return right(response, ground_truth) - len(response) / 1000
    def exact(response, ground_truth): return float(response.strip() == ground_truth)
    def program(response): return float("def f()" in response)
    def never(response): return None
    def ranked(group_response, ground_truth): return [float(ground_truth in each) for each in group_response]
    def picky(response, ground_truth): return None if "Step" in response else float(ground_truth in response)
"""


@pytest.fixture
def attacked(reward_file: Callable[..., str]) -> Callable[..., Attacked]:
    path = reward_file(REWARDS)
    return lambda name, **options: attack(f"{path}:{name}", options.pop("rows", ROWS), **options)


def paid(found: Attacked) -> set[str]:
    return {each.name for each in found.through}


def test_what_each_reward_pays_for(attacked: Callable[..., Attacked]) -> None:
    assert paid(attacked("right")) == set()
    assert paid(attacked("anywhere")) == {"digits", "every guess"}
    assert paid(attacked("tagged")) == {"tags alone", "tags around a word", "every guess", "the same in tags"}
    assert {"empty", "one letter"} <= paid(attacked("brief"))
    assert "long filler" not in paid(attacked("brief"))
    assert {"long filler", "word repeated"} <= paid(attacked("long"))
    assert len(paid(attacked("same"))) == len(attacked("same").attacks)


def test_the_best_of_the_responses_given_is_good(attacked: Callable[..., Attacked]) -> None:
    responses = [["No.", "Yes, please, it is."]] * 3
    found = attacked("polite", responses=responses)
    assert (found.good, found.num_rows) == (1, 3)
    assert paid(found) == {"keywords"}
    with pytest.raises(
        CtwaError, match=r"row 0 \(from 0\) has no ground truth, and so nothing is known of a good answer"
    ):
        attacked("polite", rows=[{"prompt": "a"}])


def test_functions_of_a_group_see_good_and_bad_together(attacked: Callable[..., Attacked]) -> None:
    assert paid(attacked("ranked")) == paid(attacked("anywhere"))


def test_what_has_no_value_is_not_paid(attacked: Callable[..., Attacked]) -> None:
    found = attacked("picky")
    outline = next(each for each in found.attacks if each.name == "outline of nothing")
    assert (outline.paid, math.isnan(outline.mean)) == (0, True)
    with pytest.raises(CtwaError, match="gives no value to any good answer"):
        attacked("never")


def test_what_a_very_long_response_costs_makes_no_other_good(attacked: Callable[..., Attacked]) -> None:
    assert paid(attacked("right_and_brief")) == set()


def test_the_answer_alone_is_a_good_answer(attacked: Callable[..., Attacked]) -> None:
    assert (attacked("exact").good, paid(attacked("exact"))) == (1, set())


def test_good_answers_that_are_none_are_told(attacked: Callable[..., Attacked]) -> None:
    def said(found: Attacked) -> bool:
        console = Console(width=300)
        with console.capture() as captured:
            console.print(render_attack(found))
        return "no good answer is worth more than most of these" in captured.get()

    program = [["def f(): return 1"]] * 3
    assert said(attacked("program"))
    assert not said(attacked("program", responses=program))
    assert paid(attacked("program", responses=program)) == set()


@pytest.mark.parametrize(("name", "status"), [("right", 0), ("anywhere", 1)])
def test_the_command_tells_and_its_status_says(
    reward_file: Callable[..., str], tmp_path: Path, name: str, status: int
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    spec = f"{reward_file(REWARDS)}:{name}"
    arguments: list[Any] = ["check-reward", spec, "--data", str(data), "--attack"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == status
    assert ("none of these is paid like a good answer" in result.output) == (status == 0)
    assert ("digits, every guess: paid like a good answer" in result.output) == (status == 1)
