"""How many cores there are, and how many threads a process with a model gets of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctwa.engine.compose import compose_config
from ctwa.engine.cores import threads_of_a_rank
from ctwa.models.size import SMALL, is_small
from ctwa.run.cores import usable_cores

HERE = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders whose weights are files of a size, without a byte on the disk."""
    folder = tmp_path_factory.mktemp("models")
    for name, size in (("small", SMALL - 1), ("large", SMALL)):
        (folder / name).mkdir()
        with (folder / name / "model.safetensors").open("wb") as file:
            file.truncate(size)
    return {name: str(folder / name) for name in ("small", "large")} | {"hub": "HuggingFaceTB/SmolLM2-135M-Instruct"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, HERE),
        ({"cpu.max": "max 100000\n"}, HERE),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "99900000 100000\n"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": ""}, HERE),
    ],
)
def test_cores_are_those_of_the_affinity_within_the_quota_of_a_container(
    tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("model", "num_ranks", "cores", "of_the_user", "threads"),
    [
        ("large", 1, 16, "", 16),
        ("large", 3, 16, "", 5),
        ("large", 4, 2, "", 1),
        ("hub", 1, 8, "", 8),
        ("small", 1, 16, "", 1),
        ("small", 2, 16, "3", 3),
        ("large", 1, 16, "4,2", 4),
        ("large", 1, 16, "nonsense", 16),
    ],
)
def test_threads(
    models: dict[str, str], model: str, num_ranks: int, cores: int, of_the_user: str, threads: int
) -> None:
    assert threads_of_a_rank(models[model], num_ranks, cores, of_the_user) == threads


def test_what_is_small(models: dict[str, str], tmp_path: Path) -> None:
    assert {name: is_small(path) for name, path in models.items()} == {"small": True, "large": False, "hub": False}
    assert not is_small(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("model", "chosen"),
    [("small", (2, "sdpa", 16384)), ("large", (1, "ctwa_packed", 512)), ("hub", (1, "ctwa_packed", 512))],
)
def test_the_model_decides_how_the_cores_are_used(models: dict[str, str], model: str, chosen: tuple) -> None:
    task = ["task=custom", "ctwa.run=run", "data.train_files=a.jsonl", "data.val_files=a.jsonl"]
    sizes = ["data.max_prompt_length=128", "data.max_response_length=96"]
    config = compose_config([*task, *sizes, f"actor_rollout_ref.model.path={models[model]}"])
    actor, override = config.actor_rollout_ref.actor, config.actor_rollout_ref.model.override_config

    assert chosen == (
        config.trainer.n_gpus_per_node,
        override.attn_implementation,
        actor.ppo_max_token_len_per_gpu,
    )
    assert config.actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu == actor.ppo_max_token_len_per_gpu
    assert config.ctwa.threads == threads_of_a_rank(models[model], config.trainer.n_gpus_per_node)
    by_hand = compose_config([*task, f"actor_rollout_ref.model.path={models[model]}", "ctwa.threads=3"])
    assert by_hand.ctwa.threads == 3
