"""Heads of attention that several ranks, or several GPUs of a server, are to share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
)
from transformers.integrations import flash_attention

from ctwa.capacity.shape import shares_heads
from ctwa.engine.checks.model import check_heads
from ctwa.errors import CtwaError
from tests.engine.names import ACTOR, MODEL, ROLLOUT, Changed

SERVERS, ROWS = f"{ROLLOUT}.tensor_model_parallel_size", f"{ACTOR}.ulysses_sequence_parallel_size"
OWN = f"{MODEL}.override_config.num_key_value_heads"


def llama(heads: int, key_heads: int) -> LlamaConfig:
    sizes = {"intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    return LlamaConfig(hidden_size=8 * heads, num_attention_heads=heads, num_key_value_heads=key_heads, **sizes)


def _id(value: Any) -> str:
    return (
        f"{type(value).__name__}"
        if isinstance(value, PretrainedConfig)
        else ",".join(value)
        if isinstance(value, dict)
        else ""
    )


@pytest.mark.parametrize("heads", [(9, 3), (12, 2), (28, 4), (6, 6), (8, 1)], ids=str)
def test_the_rule_is_verls(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.models.transformers.monkey_patch import apply_monkey_patch

    name = "_flash_attention_forward"  # which verl replaces
    monkeypatch.setattr(flash_attention, name, getattr(flash_attention, name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llama(*heads))
    for size in range(1, 33):
        try:
            apply_monkey_patch(model, ulysses_sp_size=size)
        except AssertionError:
            assert not shares_heads(*heads, size)
        else:
            assert shares_heads(*heads, size)


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        (
            llama(9, 3),
            {SERVERS: 2},
            r"size=2: so many cannot share the model's 9 heads of attention, with 3 .*: write 1$",
        ),
        (llama(12, 2), {SERVERS: 8}, r"tensor_model_parallel_size=8: so many .*: write 1 or 2 or 4$"),
        (llama(12, 2), {ROWS: 8}, r"ulysses_sequence_parallel_size=8: so many .*: write 1 or 2 or 4$"),
        (llama(12, 3), {f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 4}, r"size=4: .* write 1$"),
        (GPT2Config(n_head=4, n_embd=8), {}, r"has no num_key_value_heads .*: write \+\+.*num_key_value_heads=4$"),
        (FalconConfig(), {}, r"has no num_key_value_heads in its config\.json, .*num_key_value_heads=1$"),
        (
            MambaConfig(),
            {},
            r"has no num_attention_heads in its config\.json, .*: give a transformer$",
        ),
    ],
    ids=_id,
)
def test_heads_that_cannot_be_shared(changed: Changed, model: Any, values: dict[str, Any], sentence: str) -> None:
    of_vllm = {f"{ROLLOUT}.name": "vllm", "trainer.n_gpus_per_node": 8}
    with pytest.raises(CtwaError, match=sentence):
        check_heads(changed(of_vllm | values), model)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (llama(12, 2), {SERVERS: 4, ROWS: 2, f"{ROLLOUT}.name": "vllm"}),
        (llama(9, 3), {SERVERS: 2}),  # the servers of transformers split no model
        (GPT2Config(n_head=4, n_embd=8), {OWN: 4}),
        (None, {SERVERS: 7, f"{ROLLOUT}.name": "vllm"}),
    ],
    ids=_id,
)
def test_heads_that_can(changed: Changed, model: Any, values: dict[str, Any]) -> None:
    check_heads(changed({"trainer.n_gpus_per_node": 8} | values), model)


@pytest.mark.parametrize(
    ("name", "loader"),
    [("gpt2", AutoModelForCausalLM), ("gpt_neox", AutoModelForCausalLM), ("blip-2", AutoModelForImageTextToText)],
)
def test_with_what_is_to_be_written_verl_loads_the_model(name: str, loader: Any, changed: Changed) -> None:
    from verl.models.transformers.monkey_patch import apply_monkey_patch
    from verl.utils.model import update_model_config

    model = AutoConfig.for_model(name)
    with pytest.raises(CtwaError, match=r": write \+\+") as refused:
        check_heads(changed({}), model)
    key, _, number = str(refused.value).partition("write ++")[2].partition("=")
    written = changed({key: int(number)})
    check_heads(written, model)

    update_model_config(model, OmegaConf.to_container(written.actor_rollout_ref.model.override_config))
    with torch.device("meta"):
        apply_monkey_patch(loader.from_config(model), use_remove_padding=False)
