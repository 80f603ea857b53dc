"""What a run leaves and says, through Ray, verl and FSDP2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.conftest import Run

pytestmark = pytest.mark.e2e

OBJECTIVES = ("accuracy", "conciseness", "clarity")


def test_a_run_leaves_config_trace_events_samples_summary_and_a_model(ctwa_on_two_ranks: Run) -> None:
    folder, records = ctwa_on_two_ranks.folder, ctwa_on_two_ranks.records
    for name in ("config.yaml", "run.json", "metrics.jsonl", "events.jsonl", "samples.jsonl", "summary.json"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "tensorboard").iterdir())
    assert len(records) == 5  # the validation before the first step has a record of its own
    for metrics in records[1:]:
        for name in OBJECTIVES:
            assert 0 <= metrics[f"objective/{name}/mean"] <= 1
            assert metrics[f"objective/{name}/scored_frac"] == 1
            for what in ("covariance", "weight", "ctwa/ema", "ctwa/deficit", "ctwa/target"):
                assert f"{what}/{name}" in metrics
    assert {f"val/{name}" for name in OBJECTIVES} <= set(records[0]) & set(records[4])
    assert set(json.loads((folder / "summary.json").read_text())["objectives"]) == set(OBJECTIVES)


def test_the_terminal_shows_the_objectives_and_not_the_engine(ctwa_on_two_ranks: Run) -> None:
    output = ctwa_on_two_ranks.output
    assert "accuracy" in output
    assert "4/4" in output
    assert "held-out" in output
    assert len(output.splitlines()) < 50, output
    assert "Warning" not in output
    assert "INFO" not in output


def test_a_saved_model_loads_with_plain_transformers(ctwa_on_two_ranks: Run, testbed: Path) -> None:
    saved = ctwa_on_two_ranks.folder / "checkpoints/global_step_4/actor/huggingface"
    model, base = (AutoModelForCausalLM.from_pretrained(path) for path in (saved, testbed / "model"))
    prompt = AutoTokenizer.from_pretrained(saved)("Compute mod 10 : 1 + 2 * 3 - 4 ?", return_tensors="pt")["input_ids"]
    completion = model.generate(prompt, max_new_tokens=80, do_sample=False)
    assert completion.shape[1] > prompt.shape[1]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # as it was trained
    trained = dict(model.named_parameters())
    assert any(not torch.equal(parameter, trained[name]) for name, parameter in base.named_parameters())


def test_the_rollout_follows_the_trainer(ctwa_on_two_ranks: Run) -> None:
    """A stale or wrongly placed weight would show as a difference between the two's token probabilities."""
    for metrics in ctwa_on_two_ranks.records[1:]:
        assert metrics["training/rollout_probs_diff_max"] < 1e-5
    assert ctwa_on_two_ranks.records[-1]["actor/ppo_kl"] != 0  # and the policy did move
