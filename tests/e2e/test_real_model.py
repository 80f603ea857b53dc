"""A model that people know: trained with an adapter, aligned with pairs, evaluated, loaded elsewhere, trained on."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.models.locate import model_folder, step_folder
from tests.e2e.conftest import Run

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]

REWARDS = """
def bullets(response, extra_info):
    return float(sum(line.lstrip().startswith(("-", "*")) for line in response.splitlines()) == extra_info["number"])


def keyword(response, extra_info):
    return float(extra_info["word"] in response.lower())


def brief(response_tokens):
    return 1 - response_tokens / 64
"""
OBJECTIVES = ("bullets", "keyword", "brief")
SUBJECTS = ("tea", "rivers", "bees", "chess", "glass", "trains", "salt", "owls")
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model() -> Path:
    folder = Path(sys.prefix) / "models" / "smollm2-135m"
    if not (folder / "SHA256SUMS").is_file():
        pytest.skip(f"SmolLM2 is not there: ctwa model smollm2 --out {folder} makes it, and scripts/test.sh calls that")
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts for lists, three rewards of a line each, and pairs of a short and a long answer."""
    folder = tmp_path_factory.mktemp("lists")
    (folder / "rewards.py").write_text(REWARDS)

    def rows(subjects: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "data_source": "lists",
                "prompt": [{"role": "user", "content": f"List {2 + i % 3} short facts about {subject}."}],
                "reward_model": {"style": "rule", "ground_truth": ""},
                "extra_info": {"index": i, "number": 2 + i % 3, "word": subject},
            }
            for i, subject in enumerate(subjects)
        ]

    pairs = [
        {
            "prompt": [{"role": "user", "content": f"Tell me about {subject}."}],
            "chosen": [{"role": "assistant", "content": f"I like {subject}."}],
            "rejected": [{"role": "assistant", "content": f"Of {subject} people say much, and there is more to say."}],
            "labels": {"friendly": 1 - 2 * (i % 2), "short": 1},
        }
        for i, subject in enumerate(SUBJECTS * 2)
    ]
    files = {"train": rows(SUBJECTS), "val": rows(["snow", "bread"]), "pairs": pairs, "held-out-pairs": pairs[:4]}
    for name, content in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


def settings_of(model: Path, task: Path, folder: Path) -> list[str]:
    """Of a run of reinforcement learning, without a program."""
    objectives = ", ".join(f"{name}: {{reward_fn: '{task}/rewards.py:{name}', target: 0.1}}" for name in OBJECTIVES)
    return [
        "task=custom",
        "method=ctwa",
        "engine=cpu",
        f"ctwa.run={folder}",
        f"+ctwa.objectives={{{objectives}}}",
        f"data.train_files={task}/train.jsonl",
        f"data.val_files={task}/val.jsonl",
        f"actor_rollout_ref.model.path={model}",
        "data.train_batch_size=2",
        "actor_rollout_ref.rollout.n=4",
        "data.max_prompt_length=96",
        "data.max_response_length=32",
        "trainer.n_gpus_per_node=1",
        "trainer.total_training_steps=2",
        "trainer.test_freq=-1",
        "trainer.save_freq=2",
    ]


LORA = ["actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.actor.optim.lr=2e-4"]
COMPARED = ["algorithm.rollout_correction.bypass_mode=false", "algorithm.rollout_correction.rollout_is=token"]
"""The trainer computes the old log-probs itself, and says how far the rollout's are from them, token by token."""


@pytest.fixture(scope="module")
def trained(
    model: Path, task: Path, run_command: Callable[[Path, list[str]], Run], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("lora") / "run"
    measured = ["ctwa.diagnostics.gradients_every=2"]  # which an adapter has too
    command = ["-m", "ctwa.cli", "train", *settings_of(model, task, folder), *LORA, *COMPARED, *measured]
    return run_command(folder, command).checked()


@pytest.fixture(scope="module")
def aligned(
    model: Path, task: Path, run_command: Callable[[Path, list[str]], Run], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("prefer") / "run"
    pairs = ", ".join(
        f"{name}: {{data: '{task}/pairs.jsonl', validation: '{task}/held-out-pairs.jsonl', label: labels.{name}}}"
        for name in ("friendly", "short")
    )
    settings = [
        "task=custom",
        "method=raco",
        f"ctwa.run={folder}",
        f"ctwa.reference_cache={folder.parent / 'reference'}",
        f"+ctwa.objectives={{{pairs}}}",
        f"actor_rollout_ref.model.path={model}",
        "data.train_batch_size=4",
        "trainer.n_gpus_per_node=1",
        "trainer.total_training_steps=2",
        "trainer.test_freq=2",
        "trainer.save_freq=2",
        *LORA,
    ]
    return run_command(folder, ["-m", "ctwa.cli", "prefer", *settings]).checked()


def saved_by(run: Run) -> Path:
    return model_folder(step_folder(run.folder / "checkpoints", 2))


def answer(folder: Path) -> str:
    """What a model in plain transformers answers in its chat format, ended by its own token."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(CAPITAL, add_generation_prompt=True, return_tensors="pt")
    completion = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert completion[-1] == tokenizer.eos_token_id
    return tokenizer.decode(completion, skip_special_tokens=True)


def test_the_rollout_samples_from_the_policy_that_is_trained(trained: Run) -> None:
    first, second = trained.records[-2:]
    for metrics in (first, second):
        for end in ("max", "min"):
            assert abs(math.log(metrics[f"rollout_corr/rollout_is_{end}"])) < 1e-4
        assert all(metrics[f"objective/{name}/scored_frac"] == 1 for name in OBJECTIVES)
    # Of the adapter, where an objective tells completions of a prompt apart.
    assert max(first[f"gradient/norm/{name}"] for name in OBJECTIVES) > 0
    assert first["actor/grad_norm"] > 0


@pytest.mark.parametrize("command", ["trained", "aligned"])
def test_what_is_saved_is_a_whole_model_that_answers_in_chat_format(
    command: str, model: Path, request: pytest.FixtureRequest
) -> None:
    saved = saved_by(request.getfixturevalue(command))

    assert "Paris" in answer(saved)
    mine, base = load_file(saved / "model.safetensors"), load_file(model / "model.safetensors")
    assert mine.keys() == base.keys()  # the output layer is tied, and no adapter is left
    changed = {name for name, tensor in mine.items() if not torch.equal(tensor, base[name].float())}
    assert changed  # by the adapter, in what it covers
    assert all("_proj.weight" in name for name in changed)
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (saved, model))
    for text in ("17 + 25 ²", "a , b"):
        assert one(text).input_ids == other(text).input_ids
    assert one.apply_chat_template(CAPITAL, tokenize=False) == other.apply_chat_template(CAPITAL, tokenize=False)
    assert {path.stat().st_mode & 0o044 for path in saved.iterdir()} == {(model / "config.json").stat().st_mode & 0o044}


def test_what_is_saved_begins_another_run(trained: Run, task: Path, tmp_path: Path) -> None:
    command = ["train", *settings_of(saved_by(trained), task, tmp_path / "run"), "--dry-run"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "8 completions" in result.output


def test_runs_with_adapters_are_merged_and_evaluated(trained: Run, aligned: Run, model: Path, tmp_path: Path) -> None:
    soup = tmp_path / "soup"
    models = [f"{trained.folder}=0.5", f"{aligned.folder}=0.25", f"{model}=0.25"]
    merged = CliRunner().invoke(app, ["merge", *models, "--out", str(soup)])
    assert merged.exit_code == 0, merged.output
    assert "Paris" in answer(soup)

    out = tmp_path / "eval"
    measured = CliRunner().invoke(app, ["eval", str(trained.folder), "--limit", "2", "--out", str(out)])
    assert measured.exit_code == 0, measured.output
    for name in OBJECTIVES:
        assert name in measured.output
