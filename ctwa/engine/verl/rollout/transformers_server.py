"""Generation with plain transformers: small to install, quick to start, and reproducible to the bit.

This module imports neither verl nor ray: a server starts as quickly as torch and transformers do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from ctwa.models.attention import use_shared_keys
from ctwa.models.decoding import Generated, Sampling, end_tokens, generate_each
from ctwa.models.onednn import pack_weights, prefers_onednn
from ctwa.models.size import is_small

MESSAGE_EVERY = 0.1
"""Seconds between two messages of completions that have ended: one a token would cost more than the token."""

WeightBytes = tuple[np.ndarray, torch.dtype]
"""A tensor as its bytes, and their type."""


def weight_bytes(tensor: torch.Tensor) -> WeightBytes:
    """A tensor as Ray hands it on without a copy of its own: arrays lie in shared memory, tensors are pickled."""
    flat = tensor.detach().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy(), flat.dtype


class TransformersServer:
    """The Ray actor behind one replica: a copy of the policy that generates batches.

    Args:
        model_path: a folder or name that transformers loads.
        dtype: of the weights, e.g. ``float32``.
        max_length: longest sequence, prompt included, in tokens.
        max_rows: completions generated at once; a longer batch is cut into pieces of this size.
        trust_remote_code: as transformers has it.
        device: where the copy lies, ``cpu`` or one of torch's GPUs.
    """

    def __init__(
        self,
        model_path: str,
        dtype: str,
        max_length: int,
        max_rows: int,
        trust_remote_code: bool,
        device: str = "cpu",
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
        self._model = model.to(device).eval()
        self._parameters = dict(self._model.named_parameters(remove_duplicate=False))
        self._shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        is_large = device == "cpu" and not is_small(model_path)
        self._packs = is_large and dtype == "float32" and prefers_onednn()
        self._pack()
        if device == "cpu":  # a tensor that is still in the file's memory keeps all of the file there
            for parameter in self._model.parameters():
                parameter.data = parameter.data.clone()
        if is_large:
            use_shared_keys(self._model)
        self._eos_ids, self._pad_id = end_tokens(self._model)
        self._max_length = max_length
        self._max_rows = max_rows

    def generate(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling
    ) -> Iterator[list[tuple[int, Generated]]]:
        """Complete every prompt, one seed each.

        Yields:
            Completions that have ended, each with its place in ``prompts``.

        Raises:
            ValueError: a prompt fills the context.
        """
        longest = max(map(len, prompts))
        room = min(sampling.max_tokens, self._max_length - longest)
        if room < 1:
            raise ValueError(f"a prompt of {longest} tokens leaves no room in a context of {self._max_length}")
        sampling = replace(sampling, max_tokens=room)
        completions: list[tuple[int, Generated]] = []
        told = perf_counter()
        for start in range(0, len(prompts), self._max_rows):
            rows = slice(start, start + self._max_rows)
            for ended in generate_each(self._model, prompts[rows], sampling, seeds[rows], self._eos_ids, self._pad_id):
                completions += [(start + row, completion) for row, completion in ended.items()]
                if perf_counter() - told >= MESSAGE_EVERY:
                    yield completions
                    completions, told = [], perf_counter()
        if completions:
            yield completions

    def load_weights(self, weights: dict[str, WeightBytes]) -> None:
        """Replace the model's weights in place.

        Args:
            weights: by name, as :func:`weight_bytes` makes them.

        Raises:
            KeyError: a name the model does not have, or one of its own that is missing.
        """
        sent = {id(self._parameters[name]) for name in weights}
        missing = sorted(name for name, parameter in self._parameters.items() if id(parameter) not in sent)
        if missing:
            raise KeyError(f"the trainer sent no weights for {missing}")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
            for name, (array, dtype) in weights.items():
                parameter = self._parameters[name]
                values = torch.from_numpy(array).view(dtype).view(self._shapes[name])
                if parameter.numel():
                    parameter.copy_(values)
                else:  # its values are in a packed layer
                    parameter.data = values.to(parameter.dtype)
        self._pack()

    def _pack(self) -> None:
        if self._packs:
            pack_weights(self._model)

    def wake_up(self) -> None:
        """Weights and caches stay in main memory: nothing to restore."""

    def sleep(self) -> None:
        """Nothing to release."""
