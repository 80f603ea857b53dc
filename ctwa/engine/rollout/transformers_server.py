"""Generation with plain transformers: small to install, quick to start, and reproducible to the bit.

Every completion is drawn from a seed of its own, so what a row becomes depends on its batch only through the last bit
of a matrix product. This module imports neither verl nor ray: a server starts as quickly as torch and transformers do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Generated:
    """One completion: its tokens, the end-of-sequence token included, and their log-probs."""

    token_ids: list[int]
    log_probs: list[float]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, as verl's rollout config says it; ``max_tokens`` bounds a completion."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


class SeededSampler(LogitsProcessor):
    """Draws each row's next token by the inverse of its distribution function at a number from the row's own generator.

    ``generate`` then takes the only token left possible, so decoding stays transformers' own, and no row's draw depends
    on its neighbours. A temperature of 0 is greedy.
    """

    def __init__(self, seeds: list[int], max_tokens: int, greedy: bool) -> None:
        self._greedy = greedy
        self._uniforms_NT = torch.stack(
            [
                torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                for seed in seeds
            ]
        )
        self.log_probs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Leave one token of each row possible: the one that was drawn."""
        log_probs_NV = torch.log_softmax(scores.float(), dim=-1)
        if self._greedy:
            tokens_N1 = log_probs_NV.argmax(dim=-1, keepdim=True)
        else:
            cumulative_NV = log_probs_NV.double().exp().cumsum(dim=-1)
            step = len(self.log_probs)
            thresholds_N1 = self._uniforms_NT[:, step : step + 1] * cumulative_NV[:, -1:]
            # right=True: a token of probability 0 cannot be drawn, even at a threshold of exactly 0.
            tokens_N1 = torch.searchsorted(cumulative_NV, thresholds_N1, right=True).clamp_(max=scores.shape[1] - 1)
        self.log_probs.append(log_probs_NV.gather(1, tokens_N1))
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens_N1, 0.0)


def generate_batch(
    model: torch.nn.Module,
    prompts: list[list[int]],
    sampling: Sampling,
    seeds: list[int],
    eos_ids: set[int],
    pad_id: int,
) -> list[Generated]:
    """Complete every prompt, one seed each.

    Args:
        model: a causal language model of transformers.
        prompts: token ids of each prompt (no padding).
        sampling: how tokens are drawn.
        seeds: one a prompt.
        eos_ids: tokens that end a completion; the token itself is part of the completion.
        pad_id: fills prompts up to one length.

    Returns:
        Completions in the order of ``prompts``; log-probs are of the distribution that was sampled from.
    """
    width = max(map(len, prompts))
    input_ids_NP = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask_NP = torch.zeros_like(input_ids_NP)
    for row, prompt in enumerate(prompts):
        input_ids_NP[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_NP[row, width - len(prompt) :] = 1
    greedy = sampling.temperature == 0
    processors = LogitsProcessorList()
    if not greedy and sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if not greedy and sampling.top_k > 0:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if not greedy and sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    sampler = SeededSampler(seeds, sampling.max_tokens, greedy)
    processors.append(sampler)
    with torch.inference_mode():
        output_NT = model.generate(  # type: ignore[operator]
            input_ids_NP,
            attention_mask=mask_NP,
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            logits_processor=processors,
            eos_token_id=sorted(eos_ids),
            pad_token_id=pad_id,
        )
    log_probs_NT = torch.cat(sampler.log_probs, dim=1).tolist()
    return [
        _cut(tokens, log_probs, eos_ids)
        for tokens, log_probs in zip(output_NT[:, width:].tolist(), log_probs_NT, strict=True)
    ]


def _cut(tokens: list[int], log_probs: list[float], eos_ids: set[int]) -> Generated:
    for position, token in enumerate(tokens):
        if token in eos_ids:
            return Generated(tokens[: position + 1], log_probs[: position + 1])
    return Generated(tokens, log_probs)


class TransformersServer:
    """The Ray actor behind one replica: a copy of the policy that generates batches.

    Args:
        model_path: a folder or name that transformers loads.
        dtype: of the weights, e.g. ``float32``.
        max_length: longest sequence, prompt included, in tokens.
        max_rows: completions generated at once; a longer batch is cut into pieces of this size.
        trust_remote_code: as transformers has it.
    """

    def __init__(self, model_path: str, dtype: str, max_length: int, max_rows: int, trust_remote_code: bool) -> None:
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        ).eval()
        self._parameters = dict(self._model.named_parameters(remove_duplicate=False))
        generation = self._model.generation_config
        eos = generation.eos_token_id if generation.eos_token_id is not None else self._model.config.eos_token_id
        self._eos_ids = set(eos if isinstance(eos, list) else [eos])
        self._pad_id = generation.pad_token_id if generation.pad_token_id is not None else min(self._eos_ids)
        # A model's own habits (a repetition penalty, a temperature) would bend the distribution that is trained on.
        self._model.generation_config = GenerationConfig(eos_token_id=sorted(self._eos_ids), pad_token_id=self._pad_id)
        self._max_length = max_length
        self._max_rows = max_rows

    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> list[Generated]:
        """Complete every prompt, one seed each, in the order given.

        Raises:
            ValueError: a prompt fills the context.
        """
        longest = max(map(len, prompts))
        room = min(sampling.max_tokens, self._max_length - longest)
        if room < 1:
            raise ValueError(f"a prompt of {longest} tokens leaves no room in a context of {self._max_length}")
        completions = []
        for start in range(0, len(prompts), self._max_rows):
            rows = slice(start, start + self._max_rows)
            completions += generate_batch(
                self._model,
                prompts[rows],
                replace(sampling, max_tokens=room),
                seeds[rows],
                self._eos_ids,
                self._pad_id,
            )
        return completions

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Replace the model's weights in place.

        Raises:
            KeyError: a name the model does not have, or one of its own that is missing.
        """
        sent = {id(self._parameters[name]) for name in weights}
        missing = sorted(name for name, parameter in self._parameters.items() if id(parameter) not in sent)
        if missing:
            raise KeyError(f"the trainer sent no weights for {missing}")
        with torch.no_grad():
            for name, tensor in weights.items():
                self._parameters[name].copy_(tensor)

    def wake_up(self) -> None:
        """Weights and caches stay in main memory: nothing to restore."""

    def sleep(self) -> None:
        """Nothing to release."""
