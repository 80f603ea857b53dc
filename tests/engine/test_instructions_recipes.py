"""What the recipes of `task=instructions` ask for: every run they start passes the checks."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ctwa.engine.caid_settings import read_caid_settings
from ctwa.engine.checks.config import check_config
from ctwa.engine.compose import compose_config
from ctwa.engine.prefer_job import check_preference_config, prepare_data
from ctwa.evaluation.config import read_config
from ctwa.evaluation.pairs import make_pairs
from ctwa.instructions.prepare import Settings, prepare
from ctwa.run.jsonl import write_atomically

ROOT = Path(__file__).parents[2]
NAMES = ("constraints", "brevity", "well_formed")
Calls = list[list[str]]
CallsOf = Callable[..., Calls]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    prepare(folder, Settings(num_train=40, num_held_out=10))
    return folder


@pytest.fixture
def calls_of(tmp_path: Path, task_dir: Path, data: Path) -> CallsOf:
    """What a recipe asks of `ctwa`, call by call, by a `ctwa` that writes its arguments down."""
    stub, log = tmp_path / "ctwa", tmp_path / "calls"
    stub.write_text(f'#!/usr/bin/env bash\n{{ printf "%q " "$@"; echo; }} >>{shlex.quote(str(log))}\n')
    stub.chmod(0o755)

    def calls(recipe: str, *words: str, **environment: str) -> Calls:
        log.write_text("")
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        given = {"PATH": path, "MODEL": str(task_dir / "model"), "DATA": str(data), **environment}
        script = ROOT / "recipes" / f"{recipe}.sh"
        subprocess.run(["bash", script, *words], check=True, capture_output=True, env=given, cwd=tmp_path)
        return [shlex.split(line) for line in log.read_text().splitlines()]

    return calls


@pytest.mark.parametrize(("method", "lora"), [("ctwa", "1"), ("lagrangian", "0"), ("schedule", "0"), ("static", "0")])
def test_every_kind_of_method_passes_the_checks(method: str, lora: str, calls_of: CallsOf) -> None:
    """The testbed's model stands in: its tokenizer knows few of the words."""
    (call,) = calls_of("instructions", method, "ctwa.max_unknown_tokens=1", "data.max_prompt_length=512", LORA=lora)
    config = compose_config(call[1:])
    settings = check_config(config)

    assert call[0] == "train"
    assert settings.method.type == {"static": "linear"}.get(method, method)
    assert tuple(settings.objectives) == NAMES
    assert settings.objectives["brevity"].kwargs == {"budget": config.data.max_response_length}
    assert config.actor_rollout_ref.model.lora_rank == 16 * int(lora)
    assert (
        Path(settings.run).name == f"instructions{'-lora' * int(lora)}-{method}-s0"
    )  # an adapter has a folder of its own
    weights = [objective.weight for objective in settings.objectives.values()]
    assert (weights[0] > weights[1]) == (method == "static")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(({"LORA": word}, f"LORA={word} is neither 0 nor 1") for word in ("yes", "true", "11", " ")),
        ({"GPUS": "4"}, "GPUS=4 is not for the engine cpu: leave it out, or set ENGINE=gpu"),
    ],
)
def test_what_a_variable_does_not_know_is_refused(given: dict[str, str], said: str, calls_of: CallsOf) -> None:
    for recipe in ("instructions", "instructions_prefer", "instructions_caid"):
        with pytest.raises(subprocess.CalledProcessError) as error:
            calls_of(recipe, *(["linear"] if recipe != "instructions_caid" else []), **given)
        assert error.value.stderr.decode().startswith(f"error: {said}")


def test_on_gpus_the_sizes_are_those_of_larger_models(calls_of: CallsOf) -> None:
    for engine, gpus in (("one_gpu", "1"), ("gpu", "1"), ("gpu", "4")):
        (call,) = calls_of("instructions", "ctwa", ENGINE=engine, GPUS=gpus, MODEL="Qwen/Qwen3-1.7B")
        config = compose_config(call[1:])

        assert config.trainer.device == "cuda"
        assert config.trainer.n_gpus_per_node == int(gpus)
        assert config.actor_rollout_ref.model.path == "Qwen/Qwen3-1.7B"
        assert config.data.train_batch_size * config.actor_rollout_ref.rollout.n == 256
        assert config.data.apply_chat_template_kwargs.enable_thinking is False


def test_prompts_are_made_where_there_are_none(calls_of: CallsOf, tmp_path: Path) -> None:
    made, run = calls_of("instructions", "linear", DATA=str(tmp_path / "new"))

    assert made == ["instructions", "make", "--out", str(tmp_path / "new")]
    assert run[0] == "train"


def test_a_model_that_was_not_made_yet_is_named_with_its_command(calls_of: CallsOf) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        calls_of("instructions", "linear", MODEL="")

    assert error.value.returncode == 2
    assert b"no model in models/smollm2-135m: make it (scripts/smollm2.sh)" in error.value.stderr


@pytest.mark.parametrize("method", ["raco", "clamp"])
def test_preferences_are_those_of_the_models_own_completions(method: str, calls_of: CallsOf, data: Path) -> None:
    *made, run = calls_of("instructions_prefer", method)

    assert [call[0] for call in made] == ["eval", "pairs"] * 2
    for part, (evaluation, pairs) in {"train": made[:2], "validation": made[2:]}.items():
        config = read_config(Path(evaluation[1]))
        assert config.generation is not None
        assert config.generation.objectives is not None
        assert tuple(config.generation.objectives) == NAMES
        assert pairs == ["pairs", evaluation[3], "--out", str(data / "pairs" / f"{part}.parquet")]
        samples = Path(evaluation[3]) / "samples.jsonl"
        samples.parent.mkdir()
        write_atomically(samples, SAMPLES)
        make_pairs(samples.parent, data / "pairs" / f"{part}.parquet")
    config = compose_config([*run[1:], "data.train_batch_size=4"], command="prefer")
    settings = check_preference_config(config)
    prepare_data(config, settings)

    assert run[0] == "prefer"
    assert settings.method.type == {"raco": "cagrad_clip"}.get(method, method)
    assert set(settings.objectives) == set(NAMES)
    assert calls_of("instructions_prefer", method)[0][0] == "prefer"  # the pairs are there


def test_a_dry_run_samples_no_pairs(calls_of: CallsOf, data: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        calls_of("instructions_prefer", "raco", "--dry-run")

    assert b"and a dry run samples none: run it without --dry-run first" in error.value.stderr
    assert not (data / "pairs").exists()


SAMPLES = "".join(
    f'{{"schema": 2, "model": "base", "row": {row}, "prompt": [{{"role": "user", "content": "Compute"}}],'
    f' "response": "{response}", "finished": true,'
    f' "rewards": {{"constraints": {number}, "brevity": {1 - number}, "well_formed": {number}}}}}\n'
    for row in range(8)
    for number, response in enumerate(("2", "3"))
).encode()


@pytest.mark.parametrize(("lora", "rate"), [("0", 1e-5), ("1", 2e-4)])
def test_caid_holds_the_constraints(lora: str, rate: float, calls_of: CallsOf) -> None:
    (call,) = calls_of("instructions_caid", "ctwa.max_unknown_tokens=1", THRESHOLD="0.1", LORA=lora)
    config = compose_config(call[1:], command="caid")
    settings = read_caid_settings(config)

    assert call[0] == "caid"
    assert config.actor_rollout_ref.actor.optim.lr == rate
    assert settings.caid.thresholds == {"constraints": 0.1}
    assert tuple(settings.objectives) == NAMES


def test_the_evaluations_yaml_of_the_pairs_is_plain(calls_of: CallsOf, data: Path) -> None:
    calls_of("instructions_prefer", "raco", PAIR_PROMPTS="7", MODEL="a model's folder")
    written = yaml.safe_load((data / "pairs" / "train.yaml").read_text())

    assert written["generation"]["limit"] == 7
    assert written["models"] == {"base": "a model's folder"}
