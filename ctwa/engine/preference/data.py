"""The pairs of a run: read, split, tokenised, with what the reference says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from ctwa.engine.preference.settings import PreferenceSettings
from ctwa.errors import CtwaError
from ctwa.preference.data import PairSet, load_preferences, split_pairs
from ctwa.preference.reference import cached_reference, fingerprint, model_fingerprint
from ctwa.preference.tokenization import PairTokens, TokenSet, tokenize_pairs

LogProbs = Callable[[Sequence[PairTokens]], tuple[Tensor, Tensor]]


@dataclass
class Part:
    """Pairs of one data set: those to train on, or those of the validation.

    Attributes:
        tokens: the pairs.
        name: of the part, for its file.
        reference_P2: the reference's log-probabilities, float64; None until they are known, or not needed.
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
        model_digest = _model_digest(model)
        for part in (*self.train, *self.validation):
            wanted = fingerprint(part.tokens, model=model_digest, tokenizer=tokenizer, max_length=settings.max_length)
            found = cached_reference(
                settings.cache / f"{part.name}.npz", wanted, len(part.pairs), partial(compute, part.pairs)
            )
            part.reference_P2 = torch.stack([found.chosen_P, found.rejected_P], 1)


def read_data(settings: PreferenceSettings, tokenizer: Any) -> PreferenceData:
    """Read every objective's pairs.

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
            share = settings.validation_share
            parts = split_pairs(pair_set, {"train": 1 - share, "validation": share})
            pair_set, held_out = parts["train"], parts["validation"]
        for name, pairs, into in (("train", pair_set, train), ("validation", held_out, validation)):
            tokens = tokenize_pairs(pairs, tokenizer, max_length=settings.max_length)
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
