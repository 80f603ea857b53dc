"""Small models made on the spot: a testbed's folder, a run's, and pairs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ctwa.models.seal import seal
from ctwa.testbed.data import held_out_rows, write_parquet
from ctwa.testbed.model import build_model
from ctwa.testbed.preferences import preference_rows
from ctwa.testbed.presets import get_preset
from ctwa.testbed.tasks import draw_distinct
from ctwa.testbed.tokenizer import build_tokenizer

NUM_PROMPTS = 10


def save(folder: Path, seed: int) -> Path:
    build_model(seed).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`testbed`, a folder as `ctwa testbed make` leaves it; `run`, as `ctwa train`; `pairs`, a file."""
    root = tmp_path_factory.mktemp("places")
    preset = get_preset("D")
    testbed = root / "testbed"
    base = save(testbed / "model", seed=0)
    rows = held_out_rows(preset, 0)[:NUM_PROMPTS]
    write_parquet(rows, testbed / "held_out.parquet")
    (testbed / "testbed.json").write_text(json.dumps({"settings": {"preset": "D"}, "base_scores": {}}))

    run = root / "ctwa-s0"
    for step in (2, 4):
        checkpoint = run / "checkpoints" / f"global_step_{step}"
        save(checkpoint / "actor" / "huggingface", seed=step)
        if step == 2:
            seal(checkpoint)
    (run / "run.json").write_text("{}")
    objectives = {name: {"reward_fn": f"ctwa.testbed.rewards:{name}"} for name in ("accuracy", "clarity")}
    config = {
        "ctwa": {
            "objectives": objectives,
            "reference_length": None,
            "rewards": {"num_workers": 2, "max_unscored": 0.05},
        },
        "data": {"val_files": [str(testbed / "held_out.parquet")], "val_max_samples": 6},
        "actor_rollout_ref": {
            "model": {"path": str(base)},
            "rollout": {
                "response_length": 12,
                "val_kwargs": {"n": 2, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "do_sample": True},
            },
        },
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))

    problems = draw_distinct(random.Random(0), 6, test=True)
    pairs = root / "pairs.parquet"
    write_parquet(preference_rows(preset, problems, random.Random(0), split="test", conflict=0.8), pairs)
    return SimpleNamespace(
        testbed=testbed, base=base, run=run, pairs=pairs, trained=run / "checkpoints/global_step_2/actor/huggingface"
    )


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[list[Any]], Path]:
    """Writes values as JSON Lines."""

    def write(values: list[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(value) + "\n" for value in values))
        return path

    return write
