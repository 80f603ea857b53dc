"""Memory and numbers of GPUs, as others have published them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV3Config, LlamaConfig, Qwen3Config

from ctwa.capacity import memory
from ctwa.capacity.hardware import GPUS, Cluster
from ctwa.capacity.remedies import faults
from ctwa.capacity.shape import shape_of
from tests.capacity.workloads import SHAPE, STEP, model_of, served


class TestPublished:
    def test_states_of_training_are_those_of_zero(self) -> None:
        """1.9 GB of 120 GB on each of 64 GPUs for 7.5 B parameters (ZeRO, arXiv 1910.02054, figure 1)."""
        shape = replace(SHAPE, num_parameters=7_500_000_000)
        parts = memory.updating(replace(STEP, shape=shape, num_trained=7_500_000_000, shards=64))
        assert sum(parts[name] for name in ("weights", "gradients", "optimizer")) == pytest.approx(1.9e9, rel=0.02)

    def test_keys_and_values_of_a_token_are_those_of_vllm(self) -> None:
        """800 KB a token of OPT-13B (PagedAttention, arXiv 2309.06180, section 3)."""
        shape = replace(SHAPE, num_layers=40, heads=40, key_heads=40, head_width=128)
        assert memory.cache_token(replace(STEP, shape=shape)) / 1024 == 800

    @pytest.mark.parametrize(
        ("kind", "sizes", "size"),
        [
            (DeepseekV3Config, {"num_hidden_layers": 61, "num_key_value_heads": 4}, 70_272),
            (Qwen3Config, {"num_hidden_layers": 80, "num_key_value_heads": 8, "head_dim": 128}, 327_680),
            (LlamaConfig, {"num_hidden_layers": 126, "num_key_value_heads": 8, "head_dim": 128}, 516_096),
        ],
        ids=["DeepSeek-V3", "Qwen2.5-72B", "Llama 3.1 405B"],
    )
    def test_what_a_server_keeps_of_a_token_is_what_deepseek_has_published(
        self, kind: type, sizes: dict[str, int], size: int
    ) -> None:
        """70.272, 327.68 and 516.096 KB (arXiv 2505.09343, table 1); a latent is copied to each GPU of a server."""
        few_experts = {"n_routed_experts": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
        with torch.device("meta"):
            shape = shape_of(model := model_of(kind, **sizes, **few_experts), model.config)
        on_one, on_four = (
            memory.cache_token(served(replace(STEP, shape=shape), tensor_parallel=num)) for num in (1, 4)
        )

        assert on_one == size
        assert on_four == (size if shape.latent else size / 4)

    @pytest.mark.parametrize(("billions", "num_gpus"), [(7.6, 2), (14.8, 4), (72.7, 32)])
    def test_the_fewest_gpus_of_a_model_are_those_that_verl_has_published(self, billions: float, num_gpus: int) -> None:
        """GRPO of Qwen2 on H800s with 80 GB: 7B on 2, 14B on 4, 70B on 32 (verl, docs/perf/device_tuning.rst)."""

        def fits(num: int) -> bool:
            size = int(billions * 1e9)
            shape = replace(SHAPE, num_parameters=size, num_block_parameters=size // 41, num_layers=40)
            cluster = Cluster(GPUS["H100"], max(num // 8, 1), min(num, 8))
            least = replace(STEP, shape=shape, num_trained=size, cluster=cluster, shards=num, micro_tokens=2048)
            parallel = min(num, 8) if billions > 20 else num
            least = replace(least, offloads_weights=True, offloads_optimizer=True)
            return not faults(served(least, tensor_parallel=parallel))

        assert fits(num_gpus)
        assert not fits(num_gpus // 2)
