"""Which prompts a step takes, and what the settings allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ctwa.engine.checks.config import check_config
from ctwa.engine.compose import compose_config
from ctwa.engine.dynamic_sampling import taken
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0, 0]),  # enough count: the first of them
        ([0, 1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0, 1]),  # too few do: the first of the others beside them
        ([0, 1], [1, 1]),
    ],
)
def test_a_step_takes_the_first_prompts_that_count(counts: list[int], expected: list[int]) -> None:
    assert taken(torch.tensor(counts, dtype=torch.bool), 3).int().tolist() == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keep": "any"}, "kept where any objective varies among the completions, the others are dropped"),
        (
            {"keep": 0.5, "otherwise": "refill", "max_rounds": 2},
            "kept where objectives with 0.5 of the weight vary among the completions, refilled in up to 2 rounds",
        ),
    ],
)
def test_a_plan_shows_what_was_asked_for(
    changed: Callable[[dict[str, Any]], DictConfig], values: dict[str, Any], words: str
) -> None:
    assert f"prompts      {words}\n" in TrainJob(changed({"ctwa.dynamic_sampling": values})).plan()


@pytest.mark.parametrize("keep", ["most", 0, 1.5, True])
def test_what_is_neither_a_word_nor_a_share_is_refused(compose: Callable[..., DictConfig], keep: object) -> None:
    with pytest.raises(CtwaError, match=r"ctwa\.dynamic_sampling\.keep"):
        check_config(compose(f"ctwa.dynamic_sampling.keep={keep}"))


def test_caid_takes_every_prompt(task_dir: Any) -> None:
    from ctwa.engine.caid_settings import read_caid_settings

    config = compose_config(
        [
            *(f"ctwa.task_dir={task_dir}", "ctwa.run=runs/mine", "+ctwa.caid.thresholds={clarity:0.5}"),
            "ctwa.dynamic_sampling.keep=any",
        ],
        command="caid",
    )
    with pytest.raises(CtwaError, match=r"ctwa\.dynamic_sampling\.keep=any: ctwa caid samples all prompts"):
        read_caid_settings(config)
