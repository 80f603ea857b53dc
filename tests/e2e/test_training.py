"""What a run does and leaves, through Ray, verl and FSDP2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.conftest import Run

pytestmark = pytest.mark.e2e

OBJECTIVES = ("accuracy", "conciseness", "clarity")
# What may differ between runs of the same computation: clocks, and memory.
VOLATILE = ("time/", "perf/", "actor/perf/", "seconds")


def comparable(metrics: dict[str, float], *without: str) -> dict[str, float]:
    """The metrics that the computation determines."""
    return {key: value for key, value in metrics.items() if not any(part in key for part in (*VOLATILE, *without))}


def test_a_run_leaves_config_trace_events_samples_summary_and_a_model(six_steps: Run) -> None:
    folder = six_steps.folder
    for name in ("config.yaml", "run.json", "metrics.jsonl", "events.jsonl", "samples.jsonl", "summary.json"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "tensorboard").iterdir())
    assert len(six_steps.records) == 7  # the validation before the first step has a record of its own
    for metrics in six_steps.records[1:]:
        for name in OBJECTIVES:
            assert 0 <= metrics[f"objective/{name}/mean"] <= 1
            assert metrics[f"objective/{name}/scored_frac"] == 1
            assert {f"ctwa/{what}/{name}" for what in ("covariance", "ema", "deficit", "weight", "target")} <= set(
                metrics
            )
    assert {f"val/{name}" for name in OBJECTIVES} <= set(six_steps.records[0]) & set(six_steps.records[6])
    assert set(json.loads((folder / "summary.json").read_text())["objectives"]) == set(OBJECTIVES)


def test_the_terminal_shows_the_objectives_and_not_the_engine(six_steps: Run) -> None:
    assert "accuracy" in six_steps.output
    assert "6/6" in six_steps.output
    assert "held-out" in six_steps.output
    assert len(six_steps.output.splitlines()) < 40, six_steps.output
    assert "Warning" not in six_steps.output
    assert "INFO" not in six_steps.output


def test_a_saved_model_loads_with_plain_transformers(six_steps: Run, testbed: Path) -> None:
    saved = six_steps.folder / "checkpoints/global_step_6/actor/huggingface"
    model, base = (AutoModelForCausalLM.from_pretrained(path) for path in (saved, testbed / "model"))
    prompt = AutoTokenizer.from_pretrained(saved)("Compute mod 10 : 1 + 2 * 3 - 4 ?", return_tensors="pt")["input_ids"]
    completion = model.generate(prompt, max_new_tokens=80, do_sample=False)
    assert completion.shape[1] > prompt.shape[1]
    trained = dict(model.named_parameters())
    assert any(not torch.equal(parameter, trained[name]) for name, parameter in base.named_parameters())


def test_the_rollout_follows_the_trainer(six_steps: Run) -> None:
    """A stale or wrongly placed weight would show as a difference between the two's token probabilities."""
    for metrics in six_steps.records[1:]:
        assert metrics["training/rollout_probs_diff_max"] < 1e-5
    assert six_steps.records[-1]["actor/ppo_kl"] != 0  # and the policy did move


@pytest.fixture(scope="module")
def two_ranks(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        tmp_path_factory.mktemp("two") / "run", "trainer.n_gpus_per_node=2", "trainer.total_training_steps=1"
    ).checked()


def test_one_rank_and_two_ranks_measure_the_same(six_steps: Run, two_ranks: Run) -> None:
    one, two = six_steps.records[1], two_ranks.records[1]
    assert one["response_length/mean"] == two["response_length/mean"]
    for name in OBJECTIVES:
        assert one[f"objective/{name}/mean"] == two[f"objective/{name}/mean"]
        for what in ("covariance", "ema", "deficit", "weight"):
            assert two[f"ctwa/{what}/{name}"] == pytest.approx(one[f"ctwa/{what}/{name}"], abs=1e-6)
    assert two["ctwa/usable_groups"] == one["ctwa/usable_groups"] == 1
    # The same mini-batches of whole prompts, so the same two updates.
    assert two["actor/grad_norm"] == pytest.approx(one["actor/grad_norm"], rel=1e-4)


@pytest.fixture(scope="module")
def linear(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("linear") / "run"
    return train(folder, "method=linear", "trainer.total_training_steps=3", "trainer.save_freq=3").checked()


def weights_of(run: Run, step: int) -> dict[str, torch.Tensor]:
    path = run.folder / f"checkpoints/global_step_{step}/actor/huggingface"
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def assert_same_weights(one: Run, other: Run, step: int) -> None:
    first, second = weights_of(one, step), weights_of(other, step)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_ctwa_without_a_step_size_is_linear_to_the_last_bit(
    train: Callable[..., Run], linear: Run, tmp_path: Path
) -> None:
    ctwa = train(
        tmp_path / "run",
        "ctwa.method.eta=0",
        "ctwa.method.statistic=in_update",
        "trainer.total_training_steps=3",
        "trainer.save_freq=3",
    ).checked()
    for of_ctwa, of_linear in zip(ctwa.records, linear.records, strict=True):
        assert comparable(of_linear).items() <= comparable(of_ctwa).items()
    assert_same_weights(ctwa, linear, 3)


def test_the_order_of_the_objectives_changes_nothing(
    train: Callable[..., Run], six_steps: Run, testbed: Path, tmp_path: Path
) -> None:
    """The same three objectives, declared the other way round."""
    rewards = "ctwa.testbed.rewards"
    weights = {"clarity": 0.334, "conciseness": 0.333, "accuracy": 0.333}
    reversed_order = ",".join(f"{name}:{{reward_fn:'{rewards}:{name}',weight:{w}}}" for name, w in weights.items())
    run = train(
        tmp_path / "run", "~ctwa.objectives", f"+ctwa.objectives={{{reversed_order}}}", "trainer.total_training_steps=3"
    ).checked()
    assert list(json.loads((run.folder / "run.json").read_text())["objectives"]) == list(weights)
    for step in range(4):
        assert comparable(run.records[step]) == comparable(six_steps.records[step])
