"""Generation with plain transformers: small to install, quick to start, and reproducible to the bit on one replica.

A synchronous trainer sends all requests of a step at once (a wave). The server waits for the whole wave, puts it into
an order that depends on the seeds alone, and generates it in one batch, each completion from its own seed. The order of
arrival cannot matter. This module imports neither verl nor ray: a server starts as quickly as torch and transformers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

QUIET_SECONDS = 0.5
"""A wave that stays incomplete (a request failed before it was sent) is served after this long without another one."""


@dataclass
class Generated:
    """One completion, in the fields that verl's client reads of a server's answer."""

    token_ids: list[int]
    log_probs: list[float] | None
    stop_reason: str
    extra_fields: dict[str, Any] = field(default_factory=dict)
    num_preempted: int | None = None
    routed_experts: None = None


@dataclass(frozen=True)
class Sampling:
    """How a request's tokens are drawn; requests that share it can be generated in one batch."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


@dataclass
class _Request:
    prompt_ids: list[int]
    sampling: Sampling
    seed: int
    future: asyncio.Future


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


def generate_wave(
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
            return Generated(tokens[: position + 1], log_probs[: position + 1], stop_reason="completed")
    return Generated(tokens, log_probs, stop_reason="length")


class TransformersServer:
    """The Ray actor behind one replica: gathers waves of requests and generates them."""

    def __init__(
        self, model_path: str, dtype: str, response_length: int, max_length: int, trust_remote_code: bool
    ) -> None:
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        ).eval()
        self._parameters = dict(self._model.named_parameters(remove_duplicate=False))
        generation = self._model.generation_config
        eos = generation.eos_token_id if generation.eos_token_id is not None else self._model.config.eos_token_id
        self._eos_ids = set(eos if isinstance(eos, list) else [eos])
        self._pad_id = generation.pad_token_id if generation.pad_token_id is not None else min(self._eos_ids)
        self._response_length = response_length
        self._max_length = max_length
        self._version = 0
        self._waiting: list[_Request] = []
        self._arrival = asyncio.Event()
        self._loop_task: asyncio.Task | None = None
        self._wave_size = 0

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> Generated:
        """Complete one prompt; returns when its wave has been generated.

        Raises:
            ValueError: the prompt fills the context.
        """
        del request_id  # verl's name for the request; the seed is what tells requests apart here
        room = min(self._response_length, self._max_length - len(prompt_ids))
        if room < 1:
            raise ValueError(f"a prompt of {len(prompt_ids)} tokens leaves no room in a context of {self._max_length}")
        if self._loop_task is None:
            self._loop_task = asyncio.get_running_loop().create_task(self._serve())
        sampling = Sampling(
            temperature=float(sampling_params.get("temperature", 1.0)),
            top_p=float(sampling_params.get("top_p", 1.0)),
            top_k=int(sampling_params.get("top_k", -1)),
            max_tokens=min(room, int(sampling_params.get("max_tokens", room))),
        )
        request = _Request(
            list(prompt_ids), sampling, int(sampling_params["seed"]), asyncio.get_running_loop().create_future()
        )
        self._wave_size = int(sampling_params.get("wave_size", 1))
        self._waiting.append(request)
        self._arrival.set()
        return await request.future

    async def _serve(self) -> None:
        while True:
            while not self._waiting or len(self._waiting) < self._wave_size:
                self._arrival.clear()
                timeout = QUIET_SECONDS if self._waiting else None
                try:
                    await asyncio.wait_for(self._arrival.wait(), timeout)
                except TimeoutError:
                    break
            wave, self._waiting = self._waiting, []
            groups: dict[Sampling, list[_Request]] = {}
            for request in sorted(wave, key=lambda request: (len(request.prompt_ids), request.seed)):
                groups.setdefault(request.sampling, []).append(request)
            for sampling, requests in groups.items():
                await self._generate(sampling, requests)

    async def _generate(self, sampling: Sampling, requests: list[_Request]) -> None:
        try:
            completions = await asyncio.to_thread(
                generate_wave,
                self._model,
                [request.prompt_ids for request in requests],
                sampling,
                [request.seed for request in requests],
                self._eos_ids,
                self._pad_id,
            )
        except Exception as error:  # noqa: BLE001 - the request's caller is the one to hear of it
            for request in requests:
                request.future.set_exception(error)
            return
        for request, completion in zip(requests, completions, strict=True):
            completion.extra_fields["global_steps"] = self._version
            request.future.set_result(completion)

    async def load_weights(self, weights: dict[str, torch.Tensor], global_steps: int) -> None:
        """Replace the model's weights in place.

        Raises:
            KeyError: a name the model does not have, or one of its own that is missing.
        """
        missing = self._parameters.keys() - weights.keys()
        tied = {id(self._parameters[name]) for name in weights}
        missing = {name for name in missing if id(self._parameters[name]) not in tied}
        if missing:
            raise KeyError(f"the trainer sent no weights for {sorted(missing)}")
        with torch.no_grad():
            for name, tensor in weights.items():
                self._parameters[name].copy_(tensor)
        self._version = global_steps

    async def wake_up(self) -> None:
        """Weights and caches stay in main memory: nothing to restore."""

    async def sleep(self) -> None:
        """Nothing to release."""

    async def clear_kv_cache(self) -> None:
        """The cache lives as long as one wave."""

    async def release_kv_cache(self) -> None:
        """See :meth:`clear_kv_cache`."""

    async def resume_kv_cache(self) -> None:
        """See :meth:`clear_kv_cache`."""

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Answer the requests that wait with nothing generated."""
        del reject_request  # a request that arrives later is served like any other
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.future.set_result(
                Generated([], [], stop_reason="aborted", extra_fields={"global_steps": self._version})
            )

    async def resume_generation(self) -> None:
        """New requests are always taken."""

    async def start_profile(self, **_: Any) -> None:
        """Not profiled."""

    async def stop_profile(self) -> None:
        """Not profiled."""
