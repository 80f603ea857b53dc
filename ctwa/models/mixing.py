"""Several models that decode as one: MOD, multi-objective decoding (Shi et al. 2024, arXiv 2406.18853).

Of policies p_m, each trained on its own reward with a KL penalty towards one reference, the policy for the rewards'
weighted sum is ``prod_m p_m^w_m``, scaled to a distribution over sequences. MOD takes that product token by token: the
next token is drawn from the weighted sum of the log-probabilities. It is their case of the reverse KL divergence.

Letters: L rows that are decoded, T tokens, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import DynamicCache


class Mixture(torch.nn.Module):
    """Models of one vocabulary, whose log-probabilities are summed with weights.

    Args:
        models: causal language models of transformers, on one device.
        weights: one a model, which add up to 1.
    """

    def __init__(self, models: Sequence[Any], weights: Sequence[float]) -> None:
        super().__init__()
        self.models = torch.nn.ModuleList(models)
        self.config, self.generation_config = models[0].config, models[0].generation_config
        self._weights = tuple(weights)

    def new_cache(self) -> MixtureCache:
        """A cache of each model."""
        return MixtureCache([new_cache(model) for model in self.models])

    def forward(self, *, past_key_values: MixtureCache, **inputs: Any) -> SimpleNamespace:
        """What the models make of the same tokens, as ``logits`` (L, T, V): unnormalised log-probabilities."""
        mixed: Any = 0.0
        for model, cache, weight in zip(self.models, past_key_values.caches, self._weights, strict=True):
            logits_LTV = model(past_key_values=cache, **inputs).logits
            mixed = mixed + weight * logits_LTV.float().log_softmax(dim=-1)
        return SimpleNamespace(logits=mixed)


class MixtureCache:
    """The caches of the models of a mixture."""

    def __init__(self, caches: Sequence[Any]) -> None:
        self.caches = list(caches)

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """Keep some rows of all of them."""
        for cache in self.caches:
            cache.batch_select_indices(rows)


def new_cache(model: Any) -> Any:
    """An empty cache of keys and values for a causal language model, or for a mixture of some."""
    return model.new_cache() if isinstance(model, Mixture) else DynamicCache(config=model.config)
