"""The pairs of a run: read, split, tokenised, with what the reference says of them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.errors import CtwaError
from ctwa.preference.data import PairSet, hold_out, load_preferences
from ctwa.preference.log_probs import response_log_probs
from ctwa.preference.modpo import Modpo
from ctwa.preference.reference import cached_reference, fingerprint, model_fingerprint
from ctwa.preference.tokenization import PairTokens, TokenSet, tokenize_pairs

LogProbs = Callable[[Sequence[PairTokens]], tuple[Tensor, Tensor]]


@dataclass
class Part:
    """Pairs of one data set: those to train on, or those of the validation.

    Attributes:
        tokens: the pairs.
        name: of the part, for its file.
        reference_P2: the log-probabilities that the loss compares with, float64: the reference's, or what MODPO makes
            of them; None until they are known, or not needed.
    """

    tokens: TokenSet
    name: str
    reference_P2: Tensor | None = None

    @property
    def pairs(self) -> tuple[PairTokens, ...]:
        """The pairs."""
        return self.tokens.pairs

    def reference(self, indices: Sequence[int]) -> Tensor | None:
        """(P, 2) of some pairs."""
        return None if self.reference_P2 is None else self.reference_P2[torch.tensor(indices)]


@dataclass(frozen=True)
class PreferenceData:
    """Of every data set the pairs to train on, and those of the validation."""

    train: tuple[Part, ...]
    validation: tuple[Part, ...]

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Rows that were left out: by data set and reason."""
        return {part.tokens.source: dict(part.tokens.skipped) for part in self.train if part.tokens.skipped}

    def add_reference(self, settings: PreferenceSettings, model: str, tokenizer: Any, compute: LogProbs) -> None:
        """Take the reference's log-probabilities from their files, or compute and keep them.

        Raises:
            CtwaError: a file is of another model or of other pairs.
        """
        for part in (*self.train, *self.validation):
            part.reference_P2 = _cached(settings, part, part.name, model, tokenizer, partial(compute, part.pairs))

    def add_margins(self, settings: PreferenceSettings, tokenizer: Any) -> None:
        """Make the reference of the pairs that MODPO trains on the one under which DPO's loss is MODPO's.

        ``z = (1 / w) (beta h - sum_k w_k (m_k(chosen) - m_k(rejected)))`` with ``m_k = beta log(pi_k / reference)`` is
        the margin of DPO with ``beta / w`` over the reference ``log reference + sum_k w_k log(pi_k / reference)``.

        Raises:
            CtwaError: a file is of another model or of other pairs.
        """
        assert settings.modpo is not None
        plain = [part.reference_P2 for part in self.train]
        for name, share in Modpo(settings.modpo, settings.weights).others.items():
            if share == 0:
                continue
            path = settings.modpo.policies[name]
            policy = load_policy(path)
            for part, plain_P2 in zip(self.train, plain, strict=True):
                compute = partial(response_log_probs, policy, part.tokens)
                policy_P2 = _cached(settings, part, f"{part.name}-{name}", path, tokenizer, compute)
                part.reference_P2 = part.reference_P2 + share * (policy_P2 - plain_P2)  # type: ignore[operator]


def load_policy(model: str) -> Any:
    """A policy of ``transformers`` to be asked for log-probabilities, on a GPU that has room for it, else on the CPU.

    The ranks have the same GPUs, and most of their memory: which device it is to be is said in the engine's log.
    """
    policy = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    device = choose_device(policy.get_memory_footprint(), _free_memory())
    logging.getLogger(__name__).warning("the policy %s is asked for log-probabilities on %s", model, device)
    return policy.to(device)


def _free_memory() -> list[int]:
    """Bytes that are free on each GPU, asked in another process: who asks holds half a gigabyte of each."""
    if not torch.cuda.is_available():
        return []
    query = "import torch; print(*(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"
    done = subprocess.run([sys.executable, "-c", query], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def choose_device(num_bytes: int, free: Sequence[int]) -> str:
    """The GPU with the most free memory, if a model fits into half of it (the rest is for its logits); else the CPU.

    Args:
        num_bytes: of the model.
        free: bytes that are free on each GPU.
    """
    best = max(range(len(free)), key=free.__getitem__, default=0)
    return f"cuda:{best}" if free and 2 * num_bytes <= free[best] else "cpu"


def _cached(
    settings: PreferenceSettings,
    part: Part,
    name: str,
    model: str,
    tokenizer: Any,
    compute: Callable[[], tuple[Tensor, Tensor]],
) -> Tensor:
    wanted = fingerprint(part.tokens, model=_model_digest(model), tokenizer=tokenizer, max_length=settings.max_length)
    found = cached_reference(settings.cache / f"{name}.npz", wanted, len(part.pairs), compute)
    return torch.stack([found.chosen_P, found.rejected_P], 1)


def read_data(
    settings: PreferenceSettings, tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None
) -> PreferenceData:
    """Read every objective's pairs.

    Args:
        settings: where they are.
        tokenizer: the model's.
        template_kwargs: variables of its chat template.

    Raises:
        CtwaError: a file, a row or a split that cannot be used, or a data set of which only some objectives name a
            validation.
    """
    train: list[Part] = []
    validation: list[Part] = []
    sets = load_preferences({name: objective.source() for name, objective in settings.objectives.items()})
    for index, pair_set in enumerate(sets):
        held_out = _validation_set(settings, pair_set)
        if held_out is None:
            pair_set, held_out = hold_out(pair_set, settings.validation_share)
        for name, pairs, into in (("train", pair_set, train), ("validation", held_out, validation)):
            tokens = tokenize_pairs(pairs, tokenizer, max_length=settings.max_length, template_kwargs=template_kwargs)
            into.append(Part(tokens, f"{name}-{index}"))
    return PreferenceData(tuple(train), tuple(validation))


def _validation_set(settings: PreferenceSettings, pair_set: PairSet) -> PairSet | None:
    of_set = {name: settings.objectives[name] for name in pair_set.objectives}
    named = [name for name, objective in of_set.items() if objective.validation is not None]
    if not named:
        return None
    found = (
        load_preferences({name: objective.source(validation=True) for name, objective in of_set.items()})
        if len(named) == len(of_set)
        else ()
    )
    if len(found) != 1:
        raise CtwaError(
            f"the objectives {list(of_set)} share the pairs of {pair_set.source}, so they share those of the "
            "validation too: write the same 'validation' for each of them, or for none"
        )
    return found[0]


def _model_digest(model: str) -> str:
    folder = Path(model)
    if folder.is_dir():
        return model_fingerprint(folder)
    return f"{model}@{AutoConfig.from_pretrained(model)._commit_hash}"
