"""Rewards by where the rows are from: curves of their own for the tasks of a run that has several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import RewardMatrix
from ctwa.engine.data import VALIDATION_SET, RunData
from ctwa.objectives.completion import Completion
from ctwa.objectives.curriculum import source_named

MOST_SOURCES = 32
"""With more of them a data source tells rows apart, and not tasks: there are no curves by source then."""


def has_several_sources(data: RunData) -> bool:
    """Whether the rows that were looked at are from several sources, but not each from its own."""
    sources = {source_of(Completion.unwritten(each.row.values)) for each in data.sample}
    return 1 < len(sources) <= MOST_SOURCES


def source_of(completion: Completion) -> str:
    """The validation file that the user named, where it is of one; else the row's data source."""
    return str(completion.row.get(VALIDATION_SET) or source_named(completion.data_source))


def training_by_source(completions: Sequence[Completion], rewards: RewardMatrix) -> dict[str, float]:
    """``objective_source/<objective>/<source>``: the mean reward over the scored completions of each source."""
    return {key_of.objective_of_source(*of): float(values.mean()) for of, values in _parts(completions, rewards)}


def validation_by_source(completions: Sequence[Completion], rewards: RewardMatrix) -> dict[str, float]:
    """``val_source/<objective>/<source>`` and, from two completions on, its standard error."""
    found = {}
    for of, values in _parts(completions, rewards):
        found[key_of.validation_of_source(*of)] = float(values.mean())
        if len(values) > 1:
            found[key_of.validation_error_of_source(*of)] = float(values.std() / len(values) ** 0.5)
    return found


def _parts(completions: Sequence[Completion], rewards: RewardMatrix) -> Iterable[tuple[tuple[str, str], Tensor]]:
    """By objective and source what was scored, where that is something."""
    sources = [source_of(completion) for completion in completions]
    for name in rewards.names:
        rewards_N, scored_N = rewards.column(name)
        for source in sorted(set(sources)):
            own_N = scored_N & torch.tensor([each == source for each in sources])
            if own_N.any():
                yield (name, source), rewards_N[own_N]
