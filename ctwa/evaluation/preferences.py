"""Losses and implicit rewards of models on preference pairs, objective by objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctwa.errors import CtwaError
from ctwa.evaluation.config import PreferencesConfig
from ctwa.evaluation.intervals import Floats, Ratio
from ctwa.evaluation.models import Model
from ctwa.preference.data import hold_out, load_preferences
from ctwa.preference.log_probs import response_log_probs
from ctwa.preference.losses import PairLogProbs, PreferenceLoss, objective_losses, ranked_right
from ctwa.preference.reference import ReferenceLogProbs, cached_reference, fingerprint
from ctwa.preference.tokenization import PairTokens, TokenSet, label_matrices, prompt_indices, tokenize_pairs
from ctwa.run.cache import digest

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Pairs:
    """The pairs that every model can read, as each model's tokenizer writes them.

    Attributes:
        tokens: by model, one set for each data set: the same pairs in the same order.
        num_skipped: unusable pairs of each data set, by reason.
    """

    tokens: Mapping[str, tuple[TokenSet, ...]]
    num_skipped: tuple[Mapping[str, int], ...]

    @property
    def sources(self) -> tuple[TokenSet, ...]:
        """The data sets, as one of the models reads them."""
        return next(iter(self.tokens.values()))


def read_pairs(config: PreferencesConfig, models: Sequence[Model], reference: Model | None) -> Pairs:
    """Read and tokenise the pairs.

    Raises:
        CtwaError: a file or row is unusable, or a model and the reference write a pair in different tokens.
    """
    pair_sets = load_preferences(config.objectives)
    if share := config.validation_share:
        pair_sets = tuple(hold_out(pair_set, share)[1] for pair_set in pair_sets)
    if config.limit is not None:
        pair_sets = tuple(replace(pair_set, pairs=pair_set.pairs[: config.limit]) for pair_set in pair_sets)
    everyone = {model.name: model for model in models} | ({} if reference is None else {reference.name: reference})
    tokens = {
        name: tuple(
            tokenize_pairs(
                pair_set, model.tokenizer, max_length=config.max_length, template_kwargs=config.template_kwargs
            )
            for pair_set in pair_sets
        )
        for name, model in everyone.items()
    }
    shared = []
    for sets in zip(*tokens.values(), strict=True):
        rows = set.intersection(*({pair.row for pair in token_set.pairs} for token_set in sets))
        if not rows:
            raise CtwaError(f"{sets[0].source} has no pair that every model can read; raise preferences.max_length")
        shared.append(rows)
    kept = {
        name: tuple(
            replace(token_set, pairs=tuple(pair for pair in token_set.pairs if pair.row in rows))
            for token_set, rows in zip(sets, shared, strict=True)
        )
        for name, sets in tokens.items()
    }
    if reference is not None:
        for model in models:
            if _ids(kept[model.name]) != _ids(kept[reference.name]):
                raise CtwaError(
                    f"model '{model.name}' and the reference {reference.source} write the pairs in different tokens; "
                    "give a reference of the same tokenizer, or a loss without one (simpo)"
                )
    return Pairs(kept, tuple(token_set.skipped for token_set in tokens[models[0].name]))


def log_probs(
    model: Model, token_set: TokenSet, config: PreferencesConfig, cache: Path, progress: Progress
) -> ReferenceLogProbs:
    """A model's log-probabilities of the responses, from the cache where they are there."""
    wanted = fingerprint(
        token_set,
        model=model.fingerprint,
        tokenizer=model.tokenizer,
        max_length=config.max_length,
        dtype=model.dtype,
        device=model.device,
    )
    return cached_reference(
        cache / f"log-probs-{digest(wanted)}.npz",
        wanted,
        len(token_set.pairs),
        lambda: response_log_probs(model.weights, token_set, max_batch_tokens=config.batch_tokens, progress=progress),
    )


def ratios(
    loss: PreferenceLoss, token_set: TokenSet, policy: ReferenceLogProbs, reference: ReferenceLogProbs | None
) -> dict[str, dict[str, Ratio]]:
    """By objective and metric, summed over the pairs of each prompt.

    The metrics are those of training (docs/preference.md): `loss` and `tie_frac` over labelled pairs; `accuracy`,
    `margin`, `reward_preferred` and `reward_dispreferred` over those that are no ties.
    """
    pairs = token_set.pairs
    pair_log_probs = PairLogProbs(
        policy.chosen_P,
        policy.rejected_P,
        torch.tensor([len(pair.chosen) for pair in pairs]),
        torch.tensor([len(pair.rejected) for pair in pairs]),
        *((reference.chosen_P, reference.rejected_P) if reference is not None else ()),
    )
    labels_PM, _ = label_matrices(pairs, token_set.objectives)
    losses_PM = objective_losses(loss, pair_log_probs, labels_PM)
    chosen_P, rejected_P = loss.rewards(pair_log_probs)
    prompt_P = prompt_indices(pairs)

    found = {}
    for m, name in enumerate(token_set.objectives):
        labels_P = labels_PM[:, m]
        decided_P = labels_P != 0
        preferred_P = torch.where(labels_P > 0, chosen_P, rejected_P)
        other_P = torch.where(labels_P > 0, rejected_P, chosen_P)
        margin_P = preferred_P - other_P
        right_P = ranked_right(loss, pair_log_probs, labels_P)
        everything_P = torch.ones_like(decided_P)
        metrics = {
            "loss": (losses_PM[:, m], everything_P),
            "accuracy": (right_P, ~right_P.isnan()),
            "margin": (margin_P, decided_P),
            "reward_preferred": (preferred_P, decided_P),
            "reward_dispreferred": (other_P, decided_P),
            "tie_frac": ((~decided_P).double(), everything_P),
        }
        found[name] = {
            metric: Ratio(
                _by_prompt(torch.where(counts_P, values_P, 0), prompt_P), _by_prompt(counts_P.double(), prompt_P)
            )
            for metric, (values_P, counts_P) in metrics.items()
        }
    return found


def _by_prompt(values_P: Tensor, prompt_P: Tensor) -> Floats:
    sums_B = torch.zeros(int(prompt_P.max()) + 1, dtype=torch.float64)
    return np.asarray(sums_B.index_add_(0, prompt_P, values_P.double()).numpy())


def _ids(token_sets: Sequence[TokenSet]) -> list[list[tuple[tuple[int, ...], ...]]]:
    def of(pair: PairTokens) -> tuple[tuple[int, ...], ...]:
        return pair.prompt, pair.chosen, pair.rejected

    return [[of(pair) for pair in token_set.pairs] for token_set in token_sets]
