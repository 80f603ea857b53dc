"""A curriculum is of the run's objectives and of all sources of its data, and a plan shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from ctwa.engine.checks.config import check_config
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError

Compose = Callable[..., DictConfig]
Changed = Callable[[dict[str, Any]], DictConfig]


def test_a_plan_shows_shares_and_what_prompts_are_drawn_by(compose: Compose) -> None:
    config = compose(
        "ctwa.curriculum.sources={tests:2}", "ctwa.curriculum.difficulty={by: {accuracy: 2, clarity: 1}, target: 0.4}"
    )
    assert (
        "  curriculum   tests 100.0% of the prompts (300 rows)\n"
        "               drawn by the share of completions with accuracy >= 1 (weight 2) and clarity >= 1 (weight 1): "
        "most often at 0.4, 0.1 times as often at 0 and 1\n"
    ) in TrainJob(config).plan()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"ctwa.curriculum.sources": {"test": 1, "tests": 1}},
            r"of 'test'; there are tests; did you mean 'tests'\?",
        ),
        ({"ctwa.curriculum.difficulty": {"by": "acuracy"}}, r"'acuracy' is no objective .*; did you mean 'accuracy'\?"),
        ({"ctwa.curriculum.difficulty": {"by": "accuracy"}, "data.shuffle": False}, "draws prompts at random"),
        ({"ctwa.curriculum.sources": {"tests": 1}, "data.custom_cls.path": "pkg://a.b"}, "data.custom_cls reads"),
    ],
)
def test_what_is_not_there_is_refused(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values))


def test_a_source_that_is_not_named_is_refused(changed: Changed, tmp_path: Path) -> None:
    rows = tmp_path / "others.jsonl"
    rows.write_text('{"question": "1 + 1?", "answer": "2", "data_source": "others"}\n' * 40)
    train = f"{changed({}).ctwa.task_dir}/train.parquet"
    with pytest.raises(CtwaError, match=r"how many prompts 'others' gives \(40 rows .*: add others: 1, or 0 for none"):
        check_config(changed({"ctwa.curriculum.sources": {"tests": 1}, "data.train_files": [train, str(rows)]}))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ctwa.curriculum.difficulty={by: accuracy}", r"ctwa\.curriculum: ctwa caid samples every prompt"),
        (
            "+ctwa.objectives.near={reward_fn: 'ctwa.objectives.log_probs:kl'}",
            r"objectives\.near is read off the log-probabilities of a step of ctwa train",
        ),
        ("algorithm.use_kl_in_reward=true", r"use_kl_in_reward=true: ctwa caid has no rewards of tokens"),
    ],
)
def test_caid_has_no_curriculum_and_no_log_probabilities(task_dir: Path, override: str, sentence: str) -> None:
    from ctwa.engine.caid_settings import read_caid_settings
    from ctwa.engine.compose import compose_config

    config = compose_config(
        [
            *(f"ctwa.task_dir={task_dir}", "ctwa.run=runs/mine", "+ctwa.caid.thresholds={clarity:0.5}"),
            override,
        ],
        command="caid",
    )
    with pytest.raises(CtwaError, match=sentence):
        read_caid_settings(config)
