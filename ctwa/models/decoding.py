"""Sampling from a causal language model of transformers, reproducible to the bit.

Every completion is drawn from a seed of its own, so what a row becomes depends on its batch only through the last bit
of a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ctwa.models.mixing import new_cache


@dataclass(frozen=True)
class Generated:
    """One completion: its tokens, the end-of-sequence token included, and their log-probs."""

    token_ids: list[int]
    log_probs: list[float]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 is greedy, top_k below 1 is off; ``max_tokens`` bounds a completion."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


class SeededSampler:
    """Draws each row's next token by the inverse of its distribution function at a number of the row's own generator.

    No row's draw depends on its neighbours. A temperature of 0 is greedy.

    Args:
        seeds: one a row.
        sampling: how tokens are drawn.
        device: where the logits will be.
    """

    def __init__(self, seeds: list[int], sampling: Sampling, device: torch.device | str = "cpu") -> None:
        self._greedy = sampling.temperature == 0
        self._warpers = LogitsProcessorList()
        if not self._greedy and sampling.temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if not self._greedy and sampling.top_k > 0:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if not self._greedy and sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        # Drawn on the CPU, so that a seed means the same on every device.
        self._uniforms_NT = torch.stack(
            [
                torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                for seed in seeds
            ]
        ).to(device)

    def draw(self, logits_LV: torch.Tensor, rows_L: torch.Tensor, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens (L,) at a position of the completions of some rows, and their log-probs (L,)."""
        log_probs_LV = torch.log_softmax(self._warpers(None, logits_LV.float()), dim=-1)
        if self._greedy:
            tokens_L1 = log_probs_LV.argmax(dim=-1, keepdim=True)
        else:
            cumulative_LV = log_probs_LV.double().exp().cumsum(dim=-1)
            thresholds_L1 = self._uniforms_NT[rows_L, position, None] * cumulative_LV[:, -1:]
            # right=True: a token of probability 0 cannot be drawn, even at a threshold of exactly 0.
            tokens_L1 = torch.searchsorted(cumulative_LV, thresholds_L1, right=True).clamp_(max=logits_LV.shape[1] - 1)
        return tokens_L1.squeeze(1), log_probs_LV.gather(1, tokens_L1).squeeze(1)


def generate_batch(
    model: torch.nn.Module,
    prompts: list[list[int]],
    sampling: Sampling,
    seeds: list[int],
    eos_ids: set[int],
    pad_id: int,
) -> list[Generated]:
    """Complete every prompt, one seed each; the completions in the order of ``prompts``: see :func:`generate_each`."""
    completions: dict[int, Generated] = {}
    for ended in generate_each(model, prompts, sampling, seeds, eos_ids, pad_id):
        completions |= ended
    return [completions[row] for row in range(len(prompts))]


@torch.inference_mode()
def generate_each(
    model: torch.nn.Module,
    prompts: list[list[int]],
    sampling: Sampling,
    seeds: list[int],
    eos_ids: set[int],
    pad_id: int,
) -> Iterator[dict[int, Generated]]:
    """Complete every prompt, one seed each, and give each completion as soon as it has ended.

    A loop of its own over transformers' model and cache, because ``generate`` carries rows that have ended along to the
    end of the longest. Here they leave the batch as soon as half of it has ended. A prompt that is there several times
    is read once.

    Args:
        model: a causal language model of transformers, or a mixture of some.
        prompts: token ids of each prompt (no padding).
        sampling: how tokens are drawn.
        seeds: one a prompt.
        eos_ids: tokens that end a completion, or none; the token itself is part of the completion.
        pad_id: fills prompts up to one length.

    Yields:
        The completions that ended at a token, by their place in ``prompts``; log-probs are of the distribution that was
        sampled from.
    """
    device = next(model.parameters()).device
    place_of = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    prompts_N = torch.tensor([place_of[tuple(prompt)] for prompt in prompts], device=device)
    width = max(map(len, prompts))
    ids_LP = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in place_of], device=device)
    mask_LP = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in place_of], device=device)
    positions_LP = (mask_LP.cumsum(dim=1) - 1).clamp_(min=0)
    ends_E = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
    num_rows = len(prompts)
    tokens_NT = torch.full((num_rows, sampling.max_tokens), pad_id, device=device)
    log_probs_NT = torch.zeros(num_rows, sampling.max_tokens, device=device)

    def ended(rows_R: torch.Tensor, length: int) -> dict[int, Generated]:
        tokens, log_probs = tokens_NT[rows_R, :length].tolist(), log_probs_NT[rows_R, :length].tolist()
        return dict(zip(rows_R.tolist(), map(Generated, tokens, log_probs), strict=True))

    sampler, cache = SeededSampler(seeds, sampling, device), new_cache(model)
    rows_L = torch.arange(num_rows, device=device)
    alive_L, num_alive = torch.ones(num_rows, dtype=torch.bool, device=device), num_rows
    for position in range(sampling.max_tokens):
        logits_LV = model(
            input_ids=ids_LP,
            attention_mask=mask_LP,
            position_ids=positions_LP,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if position == 0 and len(place_of) < num_rows:  # from here on every completion is a row
            cache.batch_select_indices(prompts_N)
            logits_LV, positions_LP, mask_LP = (x[prompts_N] for x in (logits_LV, positions_LP, mask_LP))
        tokens_L, log_probs_L = sampler.draw(logits_LV, rows_L, position)
        tokens_NT[rows_L, position], log_probs_NT[rows_L, position] = tokens_L, log_probs_L
        ended_L = alive_L & torch.isin(tokens_L, ends_E)
        if num_ended := int(ended_L.sum()):
            yield ended(rows_L[ended_L], position + 1)
            alive_L &= ~ended_L
            num_alive -= num_ended
            if num_alive == 0:
                return
        ids_LP, positions_LP = tokens_L[:, None], positions_LP[:, -1:] + 1
        mask_LP = torch.cat([mask_LP, mask_LP.new_ones(len(rows_L), 1)], dim=1)
        if num_alive <= len(rows_L) // 2:
            cache.batch_select_indices(alive_L.nonzero().squeeze(1))
            ids_LP, positions_LP, mask_LP, rows_L = (x[alive_L] for x in (ids_LP, positions_LP, mask_LP, rows_L))
            alive_L = alive_L[alive_L]
    yield ended(rows_L[alive_L], sampling.max_tokens)


def end_tokens(model: Any, tokenizer: Any = None) -> tuple[set[int], int]:
    """What ends a completion of this model of transformers, and what fills a batch: token ids.

    The first that names any counts: the generation config, the model's config, the tokenizer. Where none does, nothing
    ends a completion but the limit of its length.

    Args:
        model: with `generation_config` and `config`.
        tokenizer: of the model, where there is one.
    """
    config = model.config.get_text_config()
    sources = [source for source in (model.generation_config, config, tokenizer) if source is not None]
    eos = next((eos for source in sources if (eos := getattr(source, "eos_token_id", None)) is not None), ())
    eos_ids = {eos} if isinstance(eos, int) else set(eos)
    # A padding token that the model has no embedding for (-1, or one added to the tokenizer alone) cannot fill a batch.
    pads = [getattr(source, "pad_token_id", None) for source in sources]
    usable = [pad for pad in (*pads, *sorted(eos_ids)) if pad is not None and 0 <= pad < config.vocab_size]
    return eos_ids, usable[0] if usable else 0
