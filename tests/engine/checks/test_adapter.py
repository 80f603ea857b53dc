"""An adapter that a saved model would not have as it was trained is refused before the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig
from transformers import GPT2Config, Qwen2Config, Qwen3MoeConfig

from ctwa.engine.checks.adapter import look_at_adapter_of
from ctwa.engine.checks.model import check_adapter
from ctwa.errors import CtwaError
from tests.engine.names import MODEL

HEADS = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9, "num_attention_heads": 2, "num_key_value_heads": 2}
QWEN = Qwen2Config(intermediate_size=8, **HEADS)
EXPERTS = Qwen3MoeConfig(head_dim=4, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2, **HEADS)
GPT2 = GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2)
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]


def settings(**model: Any) -> DictConfig:
    defaults = {"path": "a model", "lora_rank": 4, "lora_alpha": 16, "target_modules": "all-linear"}
    return OmegaConf.create({"actor_rollout_ref": {"model": {**defaults, **model}}})


def adapter(folder: Path, **options: Any) -> str:
    LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": ["q_proj"], **options}).save_pretrained(str(folder))
    return str(folder)


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        (
            QWEN,
            {"target_modules": ["embed_tokens", "q_proj"]},
            r"=\['embed_tokens', 'q_proj'\] puts an adapter in model\.embed_tokens \(Embedding\), where a saved model "
            "would not have it: write a list of some of down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj$",
        ),
        (QWEN, {"target_modules": ["lm_head"]}, r"puts an adapter in lm_head \(the output layer\), where"),
        (QWEN, {"target_modules": ".*(q_proj|embed_tokens)"}, r"puts an adapter in model\.embed_tokens \(Embedding\)"),
        (QWEN, {"target_modules": r".*\.mlp"}, r"=\.\*\\\.mlp: no adapter can sit there \(Target module Qwen2MLP"),
        (QWEN, {"target_modules": "(q_proj"}, r"=\(q_proj: a text is a pattern of whole names, .* this is of none"),
        (QWEN, {"target_modules": ["mlp"]}, r"=\['mlp'\]: no adapter can sit there \(Target module Qwen2MLP"),
        (
            QWEN,
            {"target_modules": r"transformer\.h\.\d+\.q"},
            r"a text is a pattern of whole names, .* this is of none",
        ),
        (GPT2, {}, r"lora_rank=4: the model has no linear layers that an adapter could sit beside: leave it out, or"),
        (QWEN, {"exclude_modules": ["lm_hed"]}, r"exclude_modules: the model has no lm_hed: write some of down_proj"),
        (
            EXPERTS,
            {},
            r"=all-linear puts an adapter in model\.layers\.0\.mlp\.experts \(Qwen3MoeExperts\), .*, where a saved "
            "model would not have it: write a list of some of k_proj, o_proj, q_proj, v_proj$",
        ),
    ],
)
def test_where_a_saved_model_would_not_have_it(model: Any, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        look_at_adapter_of(settings(**values), model)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (QWEN, {}),
        (QWEN, {"lora_rank": 0, "target_modules": ["no adapter is asked for"]}),
        (QWEN, {"exclude_modules": ["lm_head", "mlp.up_proj"]}),
        (EXPERTS, {"target_modules": ATTENTION}),
        (None, {"target_modules": ["the model has to be downloaded yet"]}),
    ],
)
def test_where_it_has_it(model: Any, values: dict[str, Any]) -> None:
    look_at_adapter_of(settings(**values), model)


@pytest.mark.parametrize(
    "values", [{"lora_rank": 0}, {"lora_rank": 16}, {"lora_alpha": 8}, {"lora_rank": 4, "lora_alpha": 15.5}], ids=str
)
def test_one_that_a_run_begins_with_is_what_the_settings_say(values: dict[str, Any], tmp_path: Path) -> None:
    look_at_adapter_of(settings(lora_adapter_path=adapter(tmp_path / "a")), QWEN)

    with pytest.raises(CtwaError, match=r"has r=4 and lora_alpha=16 in .*: write .*lora_rank=4 .*lora_alpha=16$"):
        look_at_adapter_of(settings(**values, lora_adapter_path=str(tmp_path / "a")), QWEN)


def test_fractional_and_rank_stabilised_scales_are_taken(tmp_path: Path) -> None:
    begun = adapter(tmp_path / "a", lora_alpha=0.5, use_rslora=True, lora_dropout=0.05)
    look_at_adapter_of(settings(lora_adapter_path=begun, lora_alpha=0.5), QWEN)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_dora": True}, "has use_dora in its adapter_config.json, with which it is no plain product"),
        ({"bias": "lora_only"}, "has bias in its"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save in its"),
        ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 8}}, "has (rank|alpha)_pattern, .* in its"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights in its"),
        ({"target_modules": ["embed_tokens"]}, r"trains model\.embed_tokens \(Embedding\), which a saved model would"),
        ({"target_modules": ["c_attn"]}, "is no adapter of this model .*; give one of it"),
        ({"target_parameters": ["experts.down_proj"]}, "has target_parameters in its"),
    ],
    ids=str,
)
def test_one_that_would_be_saved_as_another_is_refused(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    begun = adapter(tmp_path / "a", **options)

    with pytest.raises(CtwaError, match=rf"^{MODEL}.lora_adapter_path: {begun} {sentence}"):
        look_at_adapter_of(settings(lora_adapter_path=begun), QWEN)


def test_one_of_another_type_and_settings_that_it_has_itself(tmp_path: Path) -> None:
    begun = adapter(tmp_path / "a", target_modules=["q_proj", "v_proj"])
    for targets in (None, ["q_proj", "v_proj"], ["v_proj", "q_proj"]):
        look_at_adapter_of(settings(lora_adapter_path=begun, target_modules=targets), QWEN)

    for other in ({"target_modules": ["q_proj"]}, {"target_modules": ".*q_proj"}, {"exclude_modules": ["q_proj"]}):
        (key,) = other
        with pytest.raises(CtwaError, match=rf"json where it sits, and not as {MODEL}\.{key}: leave it out$"):
            look_at_adapter_of(settings(lora_adapter_path=begun, **other), QWEN)

    (tmp_path / "a/adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(CtwaError, match="is an adapter of type 'IA3'; give one of LORA"):
        look_at_adapter_of(settings(lora_adapter_path=begun), QWEN)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target_parameters": ["experts.down_proj"], "lora_rank": 4}, "a saved model has an adapter in linear layers"),
        (
            {"lora_adapter_path": "me/mine"},
            "=me/mine would not be loaded: write its r .* as .*lora_rank, and its",
        ),
    ],
)
def test_what_is_known_before_any_file_is_looked_at(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_adapter(settings(**{"lora_rank": 0, **values}))
