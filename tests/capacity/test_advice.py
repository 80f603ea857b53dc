"""Whatever a plan advises, typed in, is a run that is not refused and that fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig, PretrainedConfig, Qwen3MoeConfig

from ctwa.capacity.hardware import GPUS, Cluster, read_cluster
from ctwa.capacity.remedies import remedies
from ctwa.capacity.seconds import Rates
from ctwa.capacity.shape import shares_heads
from ctwa.engine.gpu_plan import make_plan
from tests.capacity.workloads import PAIRS, STEP, served

MODEL, ACTOR = "actor_rollout_ref.model", "actor_rollout_ref.actor"
SERVERS = "actor_rollout_ref.rollout.tensor_model_parallel_size"
WIDE = {"hidden_size": 7168, "intermediate_size": 28_672, "num_hidden_layers": 12, "vocab_size": 50_000}
LLAMA, EXPERTS = {"architectures": ["LlamaForCausalLM"]}, {"architectures": ["Qwen3MoeForCausalLM"]}
MODELS: Mapping[str, PretrainedConfig] = {
    "llama": LlamaConfig(**WIDE | LLAMA, num_attention_heads=56, num_key_value_heads=8),
    "odd heads": LlamaConfig(**WIDE | LLAMA, num_attention_heads=28, num_key_value_heads=4),
    "experts": Qwen3MoeConfig(
        **WIDE
        | EXPERTS
        | {"hidden_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 32, "num_key_value_heads": 4},
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
    ),
}


def plan(arguments: Sequence[str], gpus: str, command: str = "train") -> tuple[str, bool]:
    return make_plan(arguments, gpus, command=command, rates=Rates())


def advised(told: str) -> list[str]:
    """What a plan says to write."""
    _, _, ways = told.partition("\n  write ")
    return [way.strip() for way in ways.splitlines()]


@pytest.mark.parametrize(
    ("model", "gpus", "command", "own", "among"),
    [
        # A mini-batch of 8 rows is too small for the GPUs that are needed.
        ("llama", "8xA10", "train", ["task=instructions", "data.train_batch_size=2"], f"{ACTOR}.ppo_mini_batch_size=4"),
        ("llama", "4xA6000", "prefer", ["task=instructions", f"{ACTOR}.fsdp_config.fsdp_size=4"], "fsdp_size=-1"),
        # Of the GPUs that there are at first the number is written.
        (
            "odd heads",
            "8xA10",
            "train",
            ["task=math500", "trainer.n_gpus_per_node=8", "trainer.nnodes=1"],
            "--gpus 8x8xA10",
        ),
        # An adapter beside every matrix would be one in the experts.
        ("experts", "1xA100-40", "train", ["task=math500"], f"{MODEL}.target_modules=[k_proj,o_proj,q_proj,v_proj]"),
    ],
)
def test_what_a_plan_advises_is_a_run_that_fits(
    model: str, gpus: str, command: str, own: list[str], among: str, tmp_path: Path
) -> None:
    MODELS[model].save_pretrained(tmp_path)
    arguments = [*own, f"{MODEL}.path={tmp_path}"]
    told, fits = plan(arguments, gpus, command)
    assert not fits
    assert any(among in way for way in advised(told)), told

    for way in advised(told):
        option, _, cluster = way.partition("--gpus ")
        words = f"{option} {cluster.partition(' ')[2]}".split()
        kept = [each for each in arguments if not (cluster and each.startswith("trainer."))]
        assert plan([*kept, *words], cluster.partition(" ")[0] or gpus, command)[1], way


@pytest.mark.parametrize("heads", [(32, 8), (28, 4), (12, 2), (9, 3), (71, 1)], ids=str)
@pytest.mark.parametrize("of_node", [1, 3, 6, 8])
@pytest.mark.parametrize("pairs", [False, True])
def test_servers_share_heads_and_ranks_share_rows(heads: tuple[int, int], of_node: int, pairs: bool) -> None:
    step = served(STEP, prompts=3, completions=8) if not pairs else PAIRS
    step = replace(
        step,
        shape=replace(step.shape, heads=heads[0], key_heads=heads[1]),
        cluster=Cluster(GPUS["A10"], 1, of_node),
        shards=of_node,
        num_rows=24,
        mini_batch=12 if pairs else 24,
    )
    for way in remedies(step):
        ranks = read_cluster(way.settings.get("--gpus", str(step.cluster)))
        size = int(way.settings.get(SERVERS, 1))
        assert shares_heads(*heads, size), way
        assert ranks.gpus_per_node % size == 0, way
        if "--gpus" in way.settings:
            assert way.workload.mini_batch % ranks.num_gpus == 0
            assert way.workload.mini_batch <= math.lcm(step.mini_batch, ranks.num_gpus)
            batch = int(way.settings.get("data.train_batch_size", 12 if pairs else 3))
            assert batch * (2 if pairs else 8) == way.workload.num_rows
