"""A workload of 7 B parameters on eight GPUs, and workloads of models that are small enough to be here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ctwa.capacity.hardware import GPUS, Cluster
from ctwa.capacity.shape import ModelShape, shape_of
from ctwa.capacity.workload import Passes, Sampling, Workload

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 512,
}
SHAPE = ModelShape(
    num_parameters=7_000_000_000,
    num_block_parameters=200_000_000,
    num_active_parameters=6_500_000_000,
    num_layers=30,
    hidden=4096,
    intermediate=11_008,
    heads=32,
    key_heads=8,
    head_width=128,
    vocabulary=100_000,
)
STEP = Workload(
    shape=SHAPE,
    cluster=Cluster(GPUS["H100"], 1, 8),
    num_rows=1024,
    row_tokens=2048,
    longest=2048,
    micro_tokens=16_384,
    passes=Passes(log_probs=2, forwards=1, backwards=1),
    num_trained=SHAPE.num_parameters,
    sampling=Sampling(prompts=128, completions=8, prompt_tokens=512, response_tokens=1536, mean_response_tokens=1536),
    shards=8,
)
PAIRS = replace(STEP, num_rows=64, longest=4096, sampling=None, has_pairs=True, passes=Passes(0, 1, 1))


def served(step: Workload, **changes: Any) -> Workload:
    """With another server."""
    return replace(step, sampling=replace(step.served, **changes))


def model_of(kind: type = LlamaConfig, **sizes: int) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(**SMALL | sizes), attn_implementation="sdpa")


def on_one_rank(model: Any, tokens: int) -> Workload:
    """A pass of a model that is here, in float32, without checkpointing."""
    shape = shape_of(model, model.config)
    return replace(
        STEP,
        shape=shape,
        num_trained=shape.num_parameters,
        shards=1,
        micro_tokens=tokens,
        checkpoints_activations=False,
        compute_bytes=4,
        logits_copies=2,
    )
