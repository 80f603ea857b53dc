"""Attention of a new token to those before it, without a copy of keys and values for each query head.

Where query heads share a key head, torch's attention on a CPU wants the keys once for each of them, and transformers
copies the whole cache for that at every token. For one token the query heads of a key head can stand where the tokens
of a query stand: they look at the same keys under the same mask.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SHARED_KEYS = "ctwa_shared_keys"
"""The name by which transformers knows it."""


def use_shared_keys(model: nn.Module) -> None:
    """Let a model of transformers that has torch's attention decode by this one."""
    config: Any = model.config
    if config._attn_implementation == "sdpa" and getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation(SHARED_KEYS)  # type: ignore[operator]


def shared_keys_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Torch's attention as transformers calls it; of one token a row the query heads of a key head are its tokens.

    Args:
        module: the attention layer.
        query: (rows, heads, tokens, width).
        key: (rows, key heads, tokens so far, width).
        value: as ``key``.
        attention_mask: (rows, 1, tokens, tokens so far) or None.
        dropout: of the weights.
        scaling: of the scores.
        options: what else transformers knows of the layer.

    Returns:
        (rows, tokens, heads, width).
    """
    rows, heads, tokens, width = query.shape
    is_one_mask = attention_mask is None or attention_mask.shape[1] == 1
    if tokens > 1 or not is_one_mask or heads == key.shape[1]:
        mixed, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
        return mixed, None
    together = query.reshape(rows, key.shape[1], -1, width)
    mixed = scaled_dot_product_attention(
        together, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


ALL_ATTENTION_FUNCTIONS.register(SHARED_KEYS, shared_keys_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(SHARED_KEYS, sdpa_mask)
