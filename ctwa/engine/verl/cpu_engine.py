"""verl's FSDP engine where main memory is the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from verl.utils import torch_functional
from verl.utils.ulysses import (
    all_gather_tensor,
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_group,
)

from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine

CHUNK_ROWS = 4096


def log_probs_of_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The log-probabilities of the labels, in chunks of rows: ``logits[label] - logsumexp(logits)``.

    Stands in for verl's ``logprobs_from_logits_v2``, which goes row by row to save memory. Without padding a row is a
    token, so that it makes thousands of calls, and as many nodes for the backward pass, for every micro-batch.

    Args:
        logits: (..., vocabulary).
        labels: int64 (...).
    """
    rows_RV, labels_R1 = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1, 1)
    chunks = [
        chosen.gather(1, label).squeeze(1).float() - torch.logsumexp(chosen.float(), dim=1)
        for chosen, label in zip(rows_RV.split(CHUNK_ROWS), labels_R1.split(CHUNK_ROWS), strict=True)
    ]
    return torch.cat(chunks).view(labels.shape)


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
    """verl's FSDP engine, with log-probabilities by chunks and a reference policy that is sharded as the policy is."""

    def initialize(self) -> None:
        """Build the model; see ``log_probs_of_labels``."""
        torch_functional.logprobs_from_logits_v2 = log_probs_of_labels
        super().initialize()

    def _build_module(self) -> nn.Module:
        if self.use_ulysses_sp:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = sequence_parallel_attention
        return super()._build_module()

    def _build_fsdp_module(self, module: nn.Module) -> nn.Module:
        # verl offloads whatever is never trained to pinned main memory. Here it is in main memory already, and torch
        # can pin memory for an accelerator only.
        config = self.engine_config
        forward_only, config.forward_only = config.forward_only, False
        try:
            return super()._build_fsdp_module(module)
        finally:
            config.forward_only = forward_only
