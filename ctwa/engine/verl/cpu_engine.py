"""verl's FSDP engine where main memory is the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn
from torch.optim import Adam, Optimizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from verl.utils import tensordict_utils as tu
from verl.utils.ulysses import (
    all_gather_tensor,
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_group,
)
from verl.workers.engine.fsdp import transformer_impl

from ctwa.engine.replaced import replaced
from ctwa.engine.verl import PACKED_ATTENTION
from ctwa.engine.verl.logits import entropies, log_probs_of_labels
from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine
from ctwa.engine.verl.packing import (
    PackedRows,
    begin_pass,
    can_pack,
    micro_batches,
    response_lengths,
)
from ctwa.models.onednn import prefers_onednn, use_onednn


def sequence_parallel_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over packed rows of which each rank of a group holds a part: all of the rows, for a part of the heads.

    What verl does to flash-attention (DeepSpeed-Ulysses, arXiv 2309.14509), for torch's: without it a rank would look
    at its own part of the rows alone.

    Args:
        module: the attention layer.
        query: (1, heads, tokens of this rank, width).
        key: (1, key heads, tokens of this rank, width).
        value: as ``key``.
        attention_mask: transformers', of this rank's part; it is made anew for the whole.
        position_ids: (1, tokens of this rank), 0 where a row begins.
        scaling: of the scores.
        options: what else transformers knows of the layer.

    Returns:
        (1, tokens of this rank, heads, width).
    """
    del attention_mask
    if get_ulysses_sequence_parallel_group() is None:
        raise RuntimeError("attention over a part of the rows, outside of a pass of the engine")
    if options.get("sliding_window") or (options.get("dropout") and module.training):
        raise NotImplementedError(
            "sequence parallelism on a CPU knows neither sliding windows nor dropout in attention"
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    query, key, value = (gather_seq_scatter_heads(each, seq_dim=2, head_dim=1) for each in (query, key, value))
    row_T = (all_gather_tensor(position_ids.contiguous()).flatten() == 0).cumsum(0)
    mask_TT = (row_T[:, None] == row_T).tril()
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_TT, scale=scaling)
    return gather_heads_scatter_seq(mixed.transpose(1, 2).contiguous(), head_dim=2, seq_dim=1), None


class CpuEngine(MultiObjectiveEngine):
    """verl's FSDP engine, with a reference policy that is sharded as the policy is.

    With the attention ``ctwa_packed`` it goes over packed rows, in which a prompt of several rows stands once, and
    makes logits of response tokens alone: see :mod:`ctwa.engine.verl.packing`. A model that cannot is padded.
    """

    _packs = False

    def _build_module(self) -> nn.Module:
        if self.use_ulysses_sp:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = sequence_parallel_attention
        config = self.model_config.hf_config
        if config._attn_implementation != PACKED_ATTENTION:
            return super()._build_module()
        # Every model that can be packed has this one, and others too.
        with replaced(config, "_attn_implementation", "sdpa"):
            module = super()._build_module()
        self._packs = can_pack(module)
        if self._packs:
            module.set_attn_implementation(PACKED_ATTENTION)
            if prefers_onednn():  # as the rollout's server does
                use_onednn(module)
        return module

    def _build_optimizer(self, module: nn.Module) -> Optimizer:
        optimizer = super()._build_optimizer(module)
        if self._packs and isinstance(optimizer, Adam):  # AdamW is one
            for group in optimizer.param_groups:
                group["fused"] = True  # a quarter of the time: each number is read and written once
        return optimizer

    def _build_fsdp_module(self, module: nn.Module) -> nn.Module:
        # verl offloads whatever is never trained to pinned main memory. Here it is in main memory already, and torch
        # can pin memory for an accelerator only.
        with replaced(self.engine_config, "forward_only", False):
            return super()._build_fsdp_module(module)

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable, forward_only: bool = False
    ) -> list[TensorDict]:
        """Go over the micro-batches of a mini-batch as verl does; packed, the rows of a prompt stay together."""
        # verl would balance rows over the micro-batches.
        by_prompt = replaced(transformer_impl, "prepare_micro_batches", micro_batches)
        with by_prompt if self._packs else nullcontext():
            return super().forward_backward_batch(data, loss_function, forward_only)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the model is called with; packed, that is made here."""
        is_text = micro_batch["position_ids"].dim() == 2  # with images a token has several positions
        wants_more = tu.get_non_tensor_data(data=micro_batch, key="calculate_sum_pi_squared", default=False)
        if not self._packs or not is_text or wants_more:
            begin_pass(None)
            inputs: tuple[dict[str, Any], dict[str, Any]] = super().prepare_model_inputs(micro_batch)
            return inputs
        rows = PackedRows.of(micro_batch["input_ids"], micro_batch["position_ids"], response_lengths(micro_batch))
        begin_pass(rows)
        return {
            "input_ids": rows.tokens_T[None],
            "attention_mask": None,
            "position_ids": rows.positions_T[None],
            "logits_to_keep": rows.predictors_S,
        }, {"packed": rows}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Any]:
        """Make of the logits what verl does; packed, the values at a prompt's tokens are 0, for nothing reads them."""
        rows: PackedRows | None = output_args.get("packed")
        if rows is None:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        logits_SV = output.logits.squeeze(0)
        temperature = micro_batch["temperature"]
        if isinstance(temperature, torch.Tensor):
            logits_SV = logits_SV / temperature.float()[rows.rows_S, None]
        elif temperature != 1:
            logits_SV = logits_SV.float() / temperature
        values_S = {"log_probs": log_probs_of_labels(logits_SV, rows.labels_S)}
        if tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False):
            values_S["entropy"] = entropies(logits_SV)
        input_ids = micro_batch["input_ids"]
        return {
            name: torch.nested.nested_tensor_from_jagged(
                each_S.new_zeros(input_ids.values().shape).index_copy(0, rows.places_S, each_S), input_ids.offsets()
            )
            for name, each_S in values_S.items()
        }
