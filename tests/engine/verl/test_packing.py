"""Packed rows: what the model says of them, and their gradients, are those of each row by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from transformers import (
    DogeConfig,
    DogeForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)
from verl.utils import tensordict_utils as tu

from ctwa.engine.verl import PACKED_ATTENTION
from ctwa.engine.verl.logits import log_probs_of_labels
from ctwa.engine.verl.packing import (
    PackedRows,
    begin_pass,
    can_pack,
    micro_batches,
    response_lengths,
)
from ctwa.errors import CtwaError
from tests.models.models import build

PROMPTS = [[2, 5, 7], [2, 9, 4, 4, 6], [2]]
ROWS = [
    (PROMPTS[0], [3, 8, 11, 1]),
    (PROMPTS[1], [9, 9, 14, 3, 5, 7, 1]),
    (PROMPTS[0], [4]),
    (PROMPTS[2], [6, 7]),
    (PROMPTS[0], [3, 8, 12, 6, 6]),
    (PROMPTS[1], [9, 2]),
]


def nested(rows: list[list[int]]) -> Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def packed(rows: list[tuple[list[int], list[int]]] = ROWS) -> PackedRows:
    whole = [prompt + response for prompt, response in rows]
    positions = [list(range(len(row))) for row in whole]
    return PackedRows.of(nested(whole), nested(positions), [len(response) for _, response in rows])


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 23}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def made(model: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(config).eval()


def with_a_window() -> Any:
    return made(
        MistralForCausalLM, MistralConfig(**SIZES, **HEADS, head_dim=16, sliding_window=4, initializer_range=0.3)
    )


def with_a_window_in_its_mask_alone() -> Any:
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    layers = {"sliding_window": 4, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}
    shared = {"shared_expert_intermediate_size": 16, "initializer_range": 0.3}
    return made(Qwen2MoeForCausalLM, Qwen2MoeConfig(**SIZES, **HEADS, **experts, **layers, **shared))


def one_by_one(model: Any) -> Tensor:
    """(S,): the log-probabilities of the responses' tokens, row after row, each in a pass of its own."""
    begin_pass(None)
    found = []
    for prompt, response in ROWS:
        logits_TV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        found.append(logits_TV.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(found)


def at_once(model: Any, rows: PackedRows) -> Tensor:
    """The same in one pass."""
    begin_pass(rows)
    logits_SV = model(
        rows.tokens_T[None], position_ids=rows.positions_T[None], use_cache=False, logits_to_keep=rows.predictors_S
    ).logits[0]
    num_values = sum(len(prompt) + len(response) for prompt, response in ROWS)
    log_probs = log_probs_of_labels(logits_SV, rows.labels_S).new_zeros(num_values)
    log_probs = log_probs.index_copy(0, rows.places_S, log_probs_of_labels(logits_SV, rows.labels_S))
    ends = torch.tensor([len(prompt) + len(response) for prompt, response in ROWS]).cumsum(0).tolist()
    return torch.cat([log_probs[end - len(row[1]) - 1 : end - 1] for end, row in zip(ends, ROWS, strict=True)])


@pytest.mark.parametrize("make", [build, with_a_window, with_a_window_in_its_mask_alone])
def test_log_probs_and_gradients_are_those_of_each_row_by_itself(make: Any) -> None:
    model, weights_S = make(), torch.linspace(-1, 1, sum(len(response) for _, response in ROWS))
    found = []
    for pass_, attention in ((one_by_one, "sdpa"), (lambda model: at_once(model, packed()), PACKED_ATTENTION)):
        model.set_attn_implementation(attention)
        log_probs_S = pass_(model)
        gradients = torch.autograd.grad((log_probs_S * weights_S).sum(), list(model.parameters()))
        found.append((log_probs_S.detach(), torch.cat([each.flatten() for each in gradients])))

    (expected_S, expected_D), (log_probs_S, gradient_D) = found
    torch.testing.assert_close(log_probs_S, expected_S, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_D, expected_D, atol=1e-5, rtol=1e-4)


def test_a_shared_prompt_stands_once_and_last_tokens_are_left_out() -> None:
    rows = packed()

    assert rows.groups == [[3, 3, 0, 4], [5, 6, 1], [1, 1]]
    assert len(rows.tokens_T) == sum(map(len, PROMPTS)) + sum(len(response) - 1 for _, response in ROWS)
    assert rows.rows_S.tolist() == [row for row in (0, 2, 4, 1, 5, 3) for _ in ROWS[row][1]]


def test_what_has_states_or_attention_of_its_own_is_not_packed() -> None:
    model = build()
    assert can_pack(model)
    for name, value in (("_is_stateful", True), ("_supports_attention_backend", False)):
        other = type("Other", (Qwen2ForCausalLM,), {name: value})(model.config)
        assert not can_pack(other)
    convolutions = Lfm2Config(**SIZES, **HEADS, layer_types=["conv", "full_attention"])
    assert not can_pack(made(Lfm2ForCausalLM, convolutions))


def test_a_mask_of_the_model_is_refused() -> None:
    model = made(DogeForCausalLM, DogeConfig(**SIZES, **HEADS))
    model.set_attn_implementation(PACKED_ATTENTION)
    with pytest.raises(CtwaError, match="DogeAttention has a mask of its own"):
        at_once(model, packed())


def data_of(rows: list[tuple[list[int], list[int]]], limit: int, together: int = 1) -> TensorDict:
    columns = {"input_ids": nested([p + r for p, r in rows]), "responses": nested([response for _, response in rows])}
    options = {"use_dynamic_bsz": True, "max_token_len_per_gpu": limit, "force_group_size": together}
    return tu.get_tensordict(columns, options)


OF_A_STEP = [(PROMPTS[1], [3, 4, 5]), (PROMPTS[1], [6, 7]), (PROMPTS[1], [8]), (PROMPTS[0], [9, 9]), (PROMPTS[2], [4])]


class TestMicroBatches:
    @pytest.mark.parametrize(
        ("limit", "together", "places"),
        [
            (100, 1, [[0, 1, 2, 3, 4]]),
            # The prompt of 5 counts once: 5 + 3 + 2 + 1.
            (11, 1, [[0, 1, 2], [3, 4]]),
            (10, 1, [[0, 1], [2], [3, 4]]),
            # A row that is longer than the limit.
            (6, 1, [[0], [1], [2], [3], [4]]),
        ],
    )
    def test_they_are_cut_in_order(self, limit: int, together: int, places: list[list[int]]) -> None:
        data = data_of(OF_A_STEP, limit, together)
        found, where = micro_batches(data)

        assert where == places
        assert [response_lengths(each) for each in found] == [[len(OF_A_STEP[i][1]) for i in rows] for rows in places]

    def test_a_pair_stays_together(self) -> None:
        _, where = micro_batches(data_of(OF_A_STEP[:4], 11, together=2))

        assert where == [[0, 1], [2, 3]]
