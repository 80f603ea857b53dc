"""What the configurations of several families say of a model's shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV3Config, FalconConfig, MixtralConfig, Qwen3NextConfig

from ctwa.capacity import memory, seconds
from ctwa.capacity.seconds import Rates
from ctwa.capacity.shape import shape_of
from tests.capacity.workloads import SHAPE, STEP, model_of


def test_blocks_of_linear_attention_keep_nothing_of_a_token() -> None:
    """Of the four blocks three have a state of one size, whatever the length."""
    sizes = {"num_hidden_layers": 4, "head_dim": 16, "num_experts": 2, "moe_intermediate_size": 16}
    with torch.device("meta"):
        shape = shape_of(model := model_of(Qwen3NextConfig, **sizes), model.config)

    assert (shape.num_layers, shape.num_state_layers) == (4, 3)
    step = replace(STEP, shape=shape)
    assert memory.cache_token(step) == 2 * 1 * 2 * 16 * 2
    with_attention = replace(step, shape=replace(shape, num_state_layers=0))
    assert seconds.operations(step, 1, 0) < seconds.operations(with_attention, 1, 0)

    of_states = replace(step, shape=replace(shape, num_state_layers=4))
    assert memory.cached_rows(of_states) == of_states.served.max_rows
    assert seconds.sampling(of_states, Rates()) > 0


@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [
        pytest.param(
            MixtralConfig, {"num_local_experts": 8, "num_experts_per_tok": 2}, {"intermediate": 2 * 160}, id="Mixtral"
        ),
        pytest.param(
            DeepseekV3Config,
            {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 2, "moe_intermediate_size": 16}
            | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0},
            {"intermediate": (2 + 2) * 16},
            id="DeepSeek",
        ),
        pytest.param(FalconConfig, {"multi_query": True}, {"key_heads": 1}, id="Falcon 7B"),
        pytest.param(
            FalconConfig, {"new_decoder_architecture": True, "num_kv_heads": 2}, {"key_heads": 2}, id="Falcon 40B"
        ),
    ],
)
def test_families_whose_configurations_have_words_of_their_own(
    kind: type, sizes: dict[str, int], expected: dict[str, int]
) -> None:
    with torch.device("meta"):
        shape = shape_of(model := model_of(kind, **sizes), model.config)

    assert {name: getattr(shape, name) for name in expected} == expected


def test_keys_that_blocks_share_are_kept_once() -> None:
    shape = replace(SHAPE, num_sharing_layers=SHAPE.num_layers // 2)
    assert 2 * memory.cache_token(replace(STEP, shape=shape)) == memory.cache_token(STEP)
