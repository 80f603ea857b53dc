"""What a reward takes from the environment is in no file of the run."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from ctwa.engine.secrets import written_config


def test_the_values_that_rewards_take_from_the_environment_stay_expressions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hush")
    monkeypatch.setenv("PLACE", "/data")
    kwargs = {"key": "${oc.env:JUDGE_KEY}", "headers": [{"Authorization": "Bearer ${oc.env:JUDGE_KEY}"}, "${size}"]}
    objectives = {"judge": {"reward_fn": "judge.py:judge", "kwargs": kwargs}, "short": {"reward_fn": "short.py:short"}}
    config = OmegaConf.create(
        {"size": 3, "data": {"train_files": "${oc.env:PLACE}/train.jsonl"}, "ctwa": {"objectives": objectives}}
    )

    written = written_config(config)

    assert written["data"]["train_files"] == "/data/train.jsonl"  # which every reader needs
    assert written["ctwa"]["objectives"]["judge"]["kwargs"] == {
        "key": "${oc.env:JUDGE_KEY}",
        "headers": [{"Authorization": "Bearer ${oc.env:JUDGE_KEY}"}, 3],
    }
    assert "hush" not in str(written)
    assert config.ctwa.objectives.judge.kwargs["key"] == "hush"


def test_a_run_without_objectives_of_rewards_is_written_as_it_is() -> None:
    config = OmegaConf.create({"ctwa": {"objectives": {"helpful": {"data": "a.parquet"}}, "seed": 1}})
    assert written_config(config) == OmegaConf.to_container(config)
    assert written_config(OmegaConf.create({"ctwa": {"seed": 1}})) == {"ctwa": {"seed": 1}}
