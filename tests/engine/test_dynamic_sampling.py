"""Which prompts a step takes, and what the settings allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ctwa.batch import RewardMatrix, Rollout
from ctwa.engine.checks.config import check_config
from ctwa.engine.compose import compose_config
from ctwa.engine.dynamic_sampling import left_out, taken
from ctwa.engine.settings import DynamicSampling
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


def test_a_prompt_counts_by_the_weights_that_it_is_told() -> None:
    """Of two prompts in which `a` alone varies, one is told to weigh it; `b` has no weight, whatever is told."""
    rewards = RewardMatrix.from_columns({"a": [0, 1, 0, 1], "b": [0, 1, 1, 0], "c": [1, 1, 1, 1]})
    told = {"a": torch.tensor([1.0, 1.0, 0.0, 0.0]), "b": torch.ones(4), "c": torch.tensor([0.0, 0.0, 1.0, 1.0])}
    rollout = Rollout(rewards, torch.tensor([3, 3, 7, 7]), torch.ones(4, 1), weights=told)
    weights = {"a": 1.0, "b": 0.0, "c": 1.0}

    of_prompts = left_out(rollout, DynamicSampling(keep="any"), weights)
    of_all = left_out(replace(rollout, weights=None), DynamicSampling(keep="any"), weights)

    assert of_prompts is not None
    assert of_all is not None
    assert of_prompts.tolist() == [False, False, True, True]
    assert not of_all.any()


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
