"""What `ctwa prefer` and `ctwa caid` refuse before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig

from ctwa.engine.launch import compose_config
from ctwa.engine.preference.caid_settings import read_caid_settings
from ctwa.engine.preference.caid_trainer import Samples
from ctwa.engine.preference.launch import check_preference_config, plan_text, prepare_data
from ctwa.errors import CtwaError
from ctwa.testbed.preferences import make_preferences

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def prefer(task_dir: Path) -> Compose:
    if not (task_dir / "pairs").exists():
        make_preferences("D", task_dir / "pairs", num_train=40, num_validation=10, num_test=4)

    def compose(*overrides: str) -> DictConfig:
        own = ["ctwa.run=run", f"ctwa.task_dir={task_dir}", "data.train_batch_size=8"]
        return compose_config([*own, *overrides], name="prefer", module="ctwa.config.prefer")

    return compose


@pytest.fixture(scope="module")
def caid(task_dir: Path) -> Compose:
    def compose(*overrides: str) -> DictConfig:
        own = ["ctwa.run=run", f"ctwa.task_dir={task_dir}"]
        return compose_config([*own, *overrides], name="caid", module="ctwa.config.caid")

    return compose


def test_the_plan_says_what_a_step_costs(prefer: Compose) -> None:
    for method, passes in {"raco": "1 forward and 2 backward", "linear": "1 forward and 1 backward"}.items():
        config = prefer(f"method={method}")
        settings = check_preference_config(config)
        data, _, num_steps = prepare_data(config, settings)
        text = plan_text(config, settings, data, num_steps)
        assert f"8 pairs, {passes}" in text
        assert "40 of" in text
        assert "10 to validate" in text


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("ctwa.objectives.accuracy.label=labels.humour", "labels.humour"),
        ("ctwa.objectives.accuracy.weight=-1", "accuracy.weight"),
        ("ctwa.objectives.accuracy.data=none.parquet", "none.parquet"),
        ("ctwa.objectives.accuracy.validation=null", "share the pairs"),
        ("ctwa.max_length=8", "exceed 8"),
        ("data.train_batch_size=7", "divide over 2 ranks"),
        ("data.train_batch_size=64", "the smallest has 40"),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3", "multiple"),
        ("actor_rollout_ref.actor.strategy=fsdp", "write fsdp2"),
        ("actor_rollout_ref.model.path=/nowhere/model", "/nowhere/model does not exist"),
        ("ctwa.stop_on=[sadness]", "stop_on"),
        ("+ctwa.method.mu=1", "mu"),
    ],
)
def test_a_mistake_is_named(prefer: Compose, override: str, told: str) -> None:
    config = prefer(override)
    with pytest.raises(CtwaError, match=told):
        prepare_data(config, check_preference_config(config))


def test_without_a_validation_file_a_share_of_the_prompts_is_kept_back(prefer: Compose) -> None:
    config = prefer(*(f"ctwa.objectives.{name}.validation=null" for name in ("accuracy", "conciseness")))
    data, _, _ = prepare_data(config, check_preference_config(config))
    assert len(data.train) == len(data.validation) == 1
    train, validation = ({pair.prompt for pair in part[0].pairs} for part in (data.train, data.validation))
    assert len(train) + len(validation) == 40
    assert not train & validation


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["ctwa.caid.thresholds={humour:1}"], "humour"),
        (["ctwa.caid.thresholds={accuracy:0.1,conciseness:0.1,clarity:0.1}"], "leave one out"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.pairs_per_prompt=200"], "make 120 pairs"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.policies={safety:/nowhere/policy}"], "/nowhere/policy"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "ctwa.caid.beta=0"], "beta"),
        (["ctwa.caid.thresholds={accuracy:0.1}", "actor_rollout_ref.rollout.val_kwargs.do_sample=false"], "the same"),
        ([], "caid.thresholds"),
    ],
)
def test_a_mistake_of_caid_is_named(caid: Compose, overrides: list[str], told: str) -> None:
    with pytest.raises(CtwaError, match=told):
        read_caid_settings(caid(*overrides))


def test_the_reward_is_made_of_what_is_no_constraint(caid: Compose) -> None:
    settings = read_caid_settings(caid("ctwa.caid.thresholds={accuracy:0.1}"))
    assert settings.reward_weights == {"conciseness": 0.333, "clarity": 0.334}


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    samples = Samples(
        [(1, 2), (3,)],
        [[(4,), (5, 6), (7,)], [(8, 9), (10,), (11,)]],
        {"g h": torch.tensor([[0.1, 0.2, 0.3], [1, 2, 3]], dtype=torch.float64)},
    )
    samples.write(tmp_path / "samples.parquet")
    again = Samples.read(tmp_path / "samples.parquet")
    assert (again.prompts, again.responses) == (samples.prompts, samples.responses)
    assert torch.equal(again.scores_PS["g h"], samples.scores_PS["g h"])
    assert pq.read_table(tmp_path / "samples.parquet").num_rows == 6
