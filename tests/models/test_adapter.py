"""A saved model has an adapter as PEFT computes with it, or the adapter is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3MoeConfig,
)

from ctwa.errors import CtwaError
from ctwa.models.adapter import keep_adapter, linear_layers, merge_adapter, misplaced, scale_of, unlike_products

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
QWEN = Qwen2Config(hidden_size=8, intermediate_size=8, num_hidden_layers=2, vocab_size=9, **HEADS)
EXPERTS = Qwen3MoeConfig(
    vocab_size=9,
    hidden_size=8,
    head_dim=4,
    moe_intermediate_size=8,
    num_hidden_layers=1,
    num_experts=4,
    num_experts_per_tok=2,
    **HEADS,
)
GPT2 = GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2)
TOKENS_NT = torch.arange(8)[None]
TARGETS = ["q_proj", "v_proj"]
EVERYWHERE = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def with_adapter(config: PretrainedConfig = QWEN, **options: Any) -> PeftModel:
    """A model with an adapter that changes what it says."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lora = LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | options)
        adapted = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    assert isinstance(adapted, PeftModel)
    return adapted.eval()


def save(adapted: PeftModel, folder: Path, **options: Any) -> None:
    """As verl leaves it: PEFT's names beside the plain model's config."""
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(adapted.config)
    plain.save_pretrained(folder, state_dict=adapted.state_dict(), **options)


@pytest.mark.parametrize("max_shard_size", ["5GB", "2KB"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"lora_alpha": 0.5},
        {"use_rslora": True},
        {"target_modules": r".*layers\.1\.mlp\.up_proj"},
        {"exclude_modules": ["v_proj"]},
        {"layers_to_transform": [1]},
    ],
    ids=str,
)
def test_a_saved_model_and_a_saved_adapter_are_what_was_trained(
    options: dict[str, Any], max_shard_size: str, tmp_path: Path
) -> None:
    adapted = with_adapter(**options)
    assert misplaced(adapted) == []
    save(adapted, tmp_path, max_shard_size=max_shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or max_shard_size == "2KB"
    keep_adapter(tmp_path, tmp_path / "adapter", adapted.peft_config["default"])
    merge_adapter(tmp_path, scale=scale_of(adapted))
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)

    expected = adapted(TOKENS_NT).logits
    base = AutoModelForCausalLM.from_config(QWEN)
    beside = {name.replace(".base_layer", ""): each for name, each in adapted.base_model.model.state_dict().items()}
    base.load_state_dict({name: each for name, each in beside.items() if ".lora_" not in name})
    assert not torch.allclose(base(TOKENS_NT).logits, expected, atol=1e-3)
    of_peft = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(of_peft(TOKENS_NT).logits, expected)

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(loaded(TOKENS_NT).logits, expected)
    assert loaded.state_dict().keys() == AutoModelForCausalLM.from_config(QWEN).state_dict().keys()


def test_a_kept_adapter_names_where_it_sits_in_alphabetical_order(tmp_path: Path) -> None:
    adapted = with_adapter(target_modules="all-linear")
    save(adapted, tmp_path)
    keep_adapter(tmp_path, tmp_path / "adapter", adapted.peft_config["default"])

    kept = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert kept["target_modules"] == sorted(kept["target_modules"])
    assert {name.rpartition(".")[2] for name in kept["target_modules"]} == set(EVERYWHERE)
    assert (kept["inference_mode"], adapted.peft_config["default"].inference_mode) == (True, False)
    assert unlike_products(kept) == []


UNLIKE = {
    "an embedding": (QWEN, {"target_modules": ["embed_tokens", "q_proj"]}, "model.embed_tokens (Embedding)"),
    "the output layer": (QWEN, {"target_modules": ["lm_head", "q_proj"]}, "lm_head (the output layer)"),
    "experts": (EXPERTS, {"target_modules": "all-linear"}, "model.layers.0.mlp.experts (Qwen3MoeExperts)"),
    "parameters": (EXPERTS, {"target_parameters": ["experts.down_proj"]}, "model.layers.0.mlp.experts (Qwen3MoeExp"),
    "DoRA": (QWEN, {"use_dora": True}, "model.layers.0.self_attn.q_proj (Linear)"),
    "a module": (QWEN, {"modules_to_save": ["embed_tokens"]}, "model.embed_tokens.modules_to_save.default.weight (tra"),
    "biases": (QWEN, {"bias": "lora_only"}, "model.layers.0.self_attn.q_proj.bias (trained whole)"),
    "a bias of its own": (QWEN, {"lora_bias": True}, "model.layers.0.self_attn.q_proj (Linear)"),
    "tokens": (QWEN, {"trainable_token_indices": [1]}, "model.embed_tokens.token_adapter.trainable_tokens_delta.def"),
    "transposed": (GPT2, {"target_modules": "all-linear"}, "transformer.h.0.attn.c_attn (Conv1D)"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_a_saved_model_would_not_have_is_found_before_anything_is_trained(name: str) -> None:
    config, options, found = UNLIKE[name]
    assert misplaced(with_adapter(config, **options))[0].startswith(found)


@pytest.mark.parametrize("name", [name for name in UNLIKE if name not in ("the output layer", "biases", "transposed")])
def test_nothing_of_an_adapter_is_left_over_when_it_is_merged(name: str, tmp_path: Path) -> None:
    config, options, _ = UNLIKE[name]
    save(with_adapter(config, **options), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(CtwaError, match=r"the adapter has .*, which would be lost in a plain model"):
        merge_adapter(tmp_path, scale=3.0)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_adapter_of_several_scales_is_refused() -> None:
    with pytest.raises(CtwaError, match=r"the scales \[1\.5, 3\.0\] \(rank_pattern, alpha_pattern\), and one is saved"):
        scale_of(with_adapter(rank_pattern={"q_proj": 4}))


@pytest.mark.parametrize("config", [QWEN, EXPERTS, GPT2], ids=lambda config: config.model_type)
def test_the_linear_layers_below_the_output_layer_are_those_that_an_adapter_may_sit_in(
    config: PretrainedConfig,
) -> None:
    ends = {name.rpartition(".")[2] for name in linear_layers(AutoModelForCausalLM.from_config(config))}

    assert ends == {"qwen2": set(EVERYWHERE), "gpt2": set()}.get(
        config.model_type, {"q_proj", "k_proj", "v_proj", "o_proj"}
    )
    if ends:
        assert misplaced(with_adapter(config, target_modules=sorted(ends))) == []
