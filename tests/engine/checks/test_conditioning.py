"""Weights in prompts: what is refused before the engine starts, and what a plan says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig

from ctwa.engine.caid_settings import read_caid_settings
from ctwa.engine.checks.config import check_config
from ctwa.engine.checks.look import room_for_weights
from ctwa.engine.compose import compose_config
from ctwa.engine.data import read_run_data
from ctwa.engine.settings import read_settings
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError

Changed = Callable[[dict[str, Any]], DictConfig]
NODE = "ctwa.conditioning"
LENGTHS = ("data.max_prompt_length", "actor_rollout_ref.rollout.prompt_length")
ON = {f"{NODE}.concentration": 1.0, "ctwa.method": {"type": "linear"}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ctwa.method": {"type": "ctwa"}}, "the method ctwa has others: write method=linear or method=product"),
        ({"ctwa.method": {"type": "mgda"}}, "the method mgda has others"),
        ({f"{NODE}.template": "{accuracy} {prompt}"}, f"{NODE}.template leaves out clarity, conciseness: write"),
        ({f"{NODE}.template": "{weights}"}, f"{NODE}.template: the template has 0 times {{prompt}}; write it once"),
        # Words that the tokenizer does not know are one token, which says nothing of the weights.
        ({f"{NODE}.resolution": 100}, "reads the weights 'accuracy 11, clarity 89, .*' as the same tokens"),
        (dict.fromkeys(LENGTHS, 12), r"longer than data\.max_prompt_length=12, the shortest 13 tokens"),
        (dict.fromkeys(LENGTHS, 12) | {f"{NODE}.concentration": None}, None),  # without weights it has 9
    ],
)
def test_what_cannot_be_is_refused_by_name(changed: Changed, values: dict[str, Any], said: str | None) -> None:
    config = changed(ON | values)
    if said is None:
        check_config(config)
        return
    with pytest.raises(CtwaError, match=said):
        check_config(config)


def test_a_plan_shows_the_prompt_as_the_policy_reads_it(changed: Changed) -> None:
    plan = TrainJob(changed(ON)).plan()

    assert "the first    '<bos> 3 3 3 ; Compute mod 10 : 0 + 1 ?'\n" in plan
    own = "accuracy 3, clarity 3, conciseness 3"
    assert f"drawn around {own} (Dirichlet, concentration 1); validated at {own}\n" in plan


def test_what_leaves_overlong_prompts_out_leaves_room_for_weights(changed: Changed) -> None:
    config = changed(ON)
    conditioning = read_settings(config).build_conditioning()

    assert conditioning is not None
    assert room_for_weights(config, read_run_data(config), conditioning) == 4  # three digits and a semicolon


def test_caid_tells_prompts_nothing(task_dir: Any) -> None:
    overrides = (f"ctwa.task_dir={task_dir}", "ctwa.run=runs/mine", "+ctwa.caid.thresholds={clarity:0.5}")
    config = compose_config([*overrides, f"{NODE}.concentration=1"], command="caid")

    with pytest.raises(CtwaError, match=f"{NODE}.concentration: the reward of ctwa caid has one weight"):
        read_caid_settings(config)
