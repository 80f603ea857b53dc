"""Prompts that count: those without a signal are left out of a step, or others are completed in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from verl.utils.transferqueue_utils import KVBatchMeta

from ctwa.batch import RewardMatrix, Rollout
from ctwa.engine.settings import DynamicSampling, Settings
from ctwa.engine.verl.transfer import QueuedRows
from ctwa.objectives.signal import Signal


@dataclass(frozen=True)
class Round:
    """Prompts that were completed together, and what their completions were scored.

    Attributes:
        batch: the rows as verl's calls want them.
        rows: the same in their own order: prompt, then completion.
        rollout: rewards, prompts and masks of the rows.
    """

    batch: KVBatchMeta
    rows: QueuedRows
    rollout: Rollout


def known_weights(settings: Settings) -> dict[str, float]:
    """The objectives' weights, by which a prompt counts: 0 of those that are not known when prompts are chosen."""
    late = settings.from_log_probs
    return {name: 0.0 if name in late else each.weight for name, each in settings.objectives.items()}


def refill(
    first: Round,
    complete: Callable[[], Round],
    settings: DynamicSampling,
    weights: Mapping[str, float],
    *,
    num_prompts: int,
) -> tuple[Round, int]:
    """The prompts of a step, of which as many count as could be found.

    Rounds of new prompts follow until enough count, or ``max_rounds`` are over. The step takes the first of those that
    count, in the order of the data; where they are too few, the first of the others fill it up. What it does not take
    leaves the queue.

    Args:
        first: the step's prompts.
        complete: completes and scores further ones.
        settings: which prompts count.
        weights: of the objectives.
        num_prompts: of a step.

    Returns:
        The step's prompts, and how many rounds followed the first.
    """
    rounds, counts = [first], [_counts(first.rollout, settings, weights)]
    while sum(int(each_G.sum()) for each_G in counts) < num_prompts and len(rounds) <= settings.max_rounds:
        rounds.append(complete())
        counts.append(_counts(rounds[-1].rollout, settings, weights))
    if len(rounds) == 1:
        return first, 0
    return _joined_rounds(rounds, taken(torch.cat(counts), num_prompts)), len(rounds) - 1


def taken(counts_G: Tensor, num_prompts: int) -> Tensor:
    """Bool (G,): the first prompts that count and, where they are too few, the first of the others beside them."""
    by_rank = torch.argsort(counts_G.int(), descending=True, stable=True)
    taken_G = torch.zeros_like(counts_G)
    taken_G[by_rank[:num_prompts]] = True
    return taken_G


def left_out(rollout: Rollout, settings: DynamicSampling, weights: Mapping[str, float]) -> Tensor | None:
    """Bool (N,), the completions of prompts that do not count; None where every prompt does."""
    if settings.keep == "every":
        return None
    _, prompt_N = torch.unique(rollout.group_N, return_inverse=True)
    return ~_counts(rollout, settings, weights)[prompt_N]


def _counts(rollout: Rollout, settings: DynamicSampling, weights: Mapping[str, float]) -> Tensor:
    assert settings.keep != "every"
    signal = Signal.of(rollout.rewards, rollout.group_N)
    asked: dict[str, float | Tensor] = dict(weights)
    for name, told_N in (rollout.weights or {}).items():
        told_G = told_N.new_zeros(len(signal.varies_GM))
        told_G[signal.prompt_N] = told_N  # one for all completions of a prompt
        asked[name] = told_G * (weights[name] > 0)
    return signal.counts_G(settings.keep, asked)


def _joined_rounds(rounds: Sequence[Round], taken_G: Tensor) -> Round:
    """The rounds as one, of some prompts: their rows, in the order in which they came."""
    prompts, seen = [], 0
    for each in rounds:
        _, prompt_N = torch.unique(each.rollout.group_N, return_inverse=True)
        prompts.append(prompt_N + seen)
        seen += int(prompt_N.max()) + 1
    prompt_N = torch.cat(prompts)
    taken_N = taken_G[prompt_N]
    of_all = QueuedRows([key for each in rounds for key in each.rows.keys], rounds[0].rows.partition)
    tags = {key: tag for each in rounds for key, tag in zip(each.batch.keys, each.batch.tags, strict=True)}
    rows = of_all.some(taken_N)
    of_all.some(~taken_N).clear()
    first = rounds[0].batch
    batch = KVBatchMeta(
        keys=list(rows.keys),
        tags=[tags[key] for key in rows.keys],
        partition_id=first.partition_id,
        fields=first.fields,
        extra_info=first.extra_info,
    )
    _, group_N = torch.unique(prompt_N[taken_N], return_inverse=True)
    rewards = _joined([each.rollout.rewards for each in rounds], taken_N)
    told = [each.rollout.weights or {} for each in rounds]
    weights = {name: torch.cat([each[name] for each in told])[taken_N] for name in told[0]} or None
    return Round(batch, rows, Rollout(rewards, group_N, rows.mask_NT, weights=weights))


def _joined(rewards: Sequence[RewardMatrix], taken_N: Tensor) -> RewardMatrix:
    return RewardMatrix(
        rewards[0].names,
        *(
            torch.cat([getattr(each, name) for each in rewards])[taken_N]
            for name in ("rewards_NM", "scored_NM", "applicable_NM")
        ),
    )
