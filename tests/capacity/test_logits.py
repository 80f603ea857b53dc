"""Buffers of the size of a micro-batch's logits: as the plan counts them, and as torch's allocator gives them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional
from verl.workers.engine import FSDPEngineWithLMHead

from ctwa.capacity import memory
from ctwa.capacity.hardware import GPUS, Cluster
from ctwa.capacity.shape import ModelShape
from ctwa.capacity.workload import Workload
from ctwa.engine.compose import compose_config
from ctwa.engine.gpu_plan import ANY_DATA, ANY_RUN
from ctwa.engine.settings import read_settings
from ctwa.engine.verl import logits
from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine
from ctwa.engine.workload import of_rewards

ROWS, LENGTH, VOCABULARY = 16, 64, 4096
SIZE = ROWS * LENGTH * VOCABULARY * 2
"""Bytes of the logits in bf16."""
CHUNK = 16 * VOCABULARY
LAYOUTS = ["padded", "packed"]
TEMPERATURES = [1.0, 0.7]
UPDATES: dict[str, Sequence[str]] = {
    "plain": ["method=linear"],
    "bonus": ["method=linear", "actor_rollout_ref.actor.entropy_coeff=0.01"],
    "entropy": ["method=linear", "actor_rollout_ref.actor.calculate_entropy=true"],
    "several": ["method=mgda", "ctwa.gradients.passes=shared_forward"],
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "CHUNK_NUMBERS", CHUNK)
    monkeypatch.setattr(torch_functional, "logprobs_from_logits_v2", logits.log_probs_of_labels)


@cache
def counted(update: str, temperature: float, attention: str = "sdpa") -> Workload:
    """A step, without flash-attention if nothing else is said, with a micro-batch as small as those here."""
    config = compose_config(
        [
            *("engine=gpu", "task=math500", *ANY_RUN, *ANY_DATA, *UPDATES[update]),
            f"+actor_rollout_ref.model.override_config.attn_implementation={attention}",
            f"actor_rollout_ref.rollout.temperature={temperature}",
        ],
        command="train",
    )
    shape = ModelShape(1000, 10, 1000, 1, 8, 8, 1, 1, 8, VOCABULARY)
    work = of_rewards(config, read_settings(config), shape, Cluster(GPUS["H100"], 1, 1), None)
    assert work.logits_chunk == (logits.WORKING_BYTES if attention == "sdpa" else 0)
    return replace(work, micro_tokens=ROWS * LENGTH, logits_chunk=2 * 4 * CHUNK)


def held(
    layout: str,
    temperature: float,
    update: str | None = None,
    *,
    engine: type = MultiObjectiveEngine,
    cast: bool = True,
) -> int:
    """Bytes that a pass holds at the most beyond the weights: of an update, or for log-probabilities and entropies.

    The model is its output layer, whose input is narrow, in bf16; verl's engine calls what it does, and what the loss
    does with the values is little. With ``cast`` functions compute in the types of CUDA's autocast.
    """
    rows = [torch.arange(LENGTH) + row for row in range(ROWS)]
    columns = {"input_ids": rows, "position_ids": [torch.arange(LENGTH)] * ROWS}
    nested = {name: torch.nested.as_nested_tensor(each, layout=torch.jagged) for name, each in columns.items()}
    data = TensorDict(nested, batch_size=ROWS)
    wants_entropy = update in (None, "bonus", "entropy")
    is_packed = layout == "packed"
    options = {"temperature": temperature, "use_remove_padding": is_packed, "calculate_entropy": wants_entropy}
    tu.assign_non_tensor(data, **options)
    ours = object.__new__(engine)
    ours.pad_to_length, ours.pad_to_length_bucket, ours.use_ulysses_sp = False, 1, False
    ours.engine_config = SimpleNamespace(entropy_checkpointing=False, entropy_from_logits_with_chunking=False)
    is_verls = engine is FSDPEngineWithLMHead
    ours.compute_entropy_from_logits = torch_functional.entropy_from_logits if is_verls else logits.entropies
    inputs, output_args = ours.prepare_model_inputs(data)
    head = torch.nn.Linear(8, VOCABULARY, bias=False, dtype=torch.bfloat16)
    hidden = torch.ones(*inputs["input_ids"].shape, 8, dtype=torch.bfloat16, requires_grad=True)

    def loss() -> Tensor:
        output = SimpleNamespace(logits=head(hidden))
        made = ours.prepare_model_outputs(output, output_args, data, None)
        bonus = [made["entropy"].values().sum()] if update == "bonus" else []
        return sum(bonus, made["log_probs"].values().sum())

    def go() -> None:
        with torch.set_grad_enabled(update is not None):
            with CudaAutocast() if cast else nullcontext():
                total = loss()
            for last in (False, False, True) if update == "several" else (True,) if update else ():
                total.backward(retain_graph=not last)

    return peak(go)


def peak(call: Callable[[], None]) -> int:
    """Bytes that are allocated at once on the CPU during a call, at the most, those inside of functions among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    assert profiled.profiler is not None
    events: Any = profiled.profiler.kineto_results
    sizes = sorted((each.start_ns(), each.nbytes()) for each in events.events() if each.name() == "[memory]")
    now = most = 0
    for _, size in sizes:
        now += size
        most = max(most, now)
    return most


class CudaAutocast(TorchFunctionMode):
    """What autocast to bf16 on CUDA computes in float32, of what verl does to logits; on a CPU it would not."""

    wide = (torch.softmax, torch.nn.functional.softmax, torch.nn.functional.log_softmax, torch.logsumexp, torch.sum)

    def __torch_function__(
        self, function: Callable, types: Any, arguments: tuple = (), options: dict | None = None
    ) -> Any:
        del types
        if function in self.wide:
            arguments = (arguments[0].float(), *arguments[1:])
        return function(*arguments, **options or {})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("update", UPDATES)
def test_an_update_holds_what_is_counted(update: str, temperature: float, layout: str) -> None:
    assert held(layout, temperature, update) == pytest.approx(memory.logits(counted(update, temperature)), rel=0.03)


@pytest.mark.parametrize(
    ("update", "temperature", "copies"),
    [("plain", 1.0, 1), ("plain", 0.7, 2), ("entropy", 1.0, 2), ("several", 0.7, 3)],
)
def test_flash_attentions_gradient_takes_the_logits_place_where_nothing_else_goes_through_them(
    update: str, temperature: float, copies: int
) -> None:
    """By hand: the kernel runs on no CPU."""
    assert counted(update, temperature, "flash_attention_2").logits_copies == copies


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_pass_for_log_probs_and_entropies_holds_the_logits_and_two_chunks(temperature: float, layout: str) -> None:
    found = held(layout, temperature)
    scaled = SIZE if temperature != 1 else 0
    assert found == pytest.approx(SIZE + scaled + 2 * 4 * CHUNK, rel=0.02)
    assert found < memory.logits(counted("plain", temperature)) * 1.01  # the update has the peak, or as much


def test_verls_own_pass_holds_seven_buffers_which_a_gpu_has_shown() -> None:
    """33.93 GB were measured of Qwen3-0.6B: its weights in float32, and seven buffers of 32 rows of 463 tokens."""
    found = held("padded", 1.0, engine=FSDPEngineWithLMHead)
    assert found / SIZE == pytest.approx(7, rel=0.01)
    weights, buffer = 4 * 596_049_920, 2 * 32 * 463 * 151_936
    assert weights + 7 * buffer == pytest.approx(33.93e9, rel=2e-3)
