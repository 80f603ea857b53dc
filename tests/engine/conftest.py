"""A task on disk that is small enough to make for every run of the tests, and configurations over it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.compose import compose_config
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.contract import Contract
from ctwa.objectives.evaluator import load_contracts
from ctwa.testbed.model import build_model
from ctwa.testbed.tokenizer import build_tokenizer
from tests.composing import files_parsed_once as files_parsed_once

NUM_TRAIN_ROWS = 300

Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a run sets for its processes does not reach the next test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def a_hub_with_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the network whether a model's name is known there."""
    monkeypatch.setattr("ctwa.models.source.ask_hub", lambda _: None)


_CONTRACTS: dict[str, dict[str, Contract]] = {}


@pytest.fixture(autouse=True)
def same_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reward functions are imported once for all tests, and not in a process for each."""

    def load(objectives: dict[str, ObjectiveConfig]) -> dict[str, Contract]:
        key = repr(objectives)
        if key not in _CONTRACTS:
            _CONTRACTS[key] = load_contracts(objectives)
        return _CONTRACTS[key]

    monkeypatch.setattr("ctwa.objectives.evaluator.load_contracts", load)


@pytest.fixture(scope="session")
def task_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in verl's format under the names of every task, and an untrained model."""
    folder = tmp_path_factory.mktemp("task")
    for name, num_rows in {"train": NUM_TRAIN_ROWS, "val": 4, "held_out": 4}.items():
        rows = [
            {
                "data_source": "tests",
                "prompt": [{"role": "user", "content": f"Compute mod 10 : {row % 10} + 1 ?"}],
                "reward_model": {"style": "rule", "ground_truth": str((row + 1) % 10)},
                "extra_info": {"index": row, "budget": 32.0},
            }
            for row in range(num_rows)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    build_model(seed=0).save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="session")
def run_overrides(task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What every configuration needs: a run folder (never made here), the task's folder, the model."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return [f"ctwa.run={run}", f"ctwa.task_dir={task_dir}", f"actor_rollout_ref.model.path={task_dir / 'model'}"]


@pytest.fixture(scope="session")
def compose(run_overrides: list[str]) -> Compose:
    """Compose over the task on disk, as the command line does (about a second each)."""
    return lambda *overrides: compose_config([*run_overrides, *overrides])


@pytest.fixture(scope="session")
def testbed_config(compose: Compose) -> DictConfig:
    return compose()


@pytest.fixture
def changed(testbed_config: DictConfig) -> Callable[[dict[str, Any]], DictConfig]:
    """The testbed's configuration with some keys changed, without composing again."""

    def change(values: dict[str, Any]) -> DictConfig:
        config = copy.deepcopy(testbed_config)
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        return config

    return change
