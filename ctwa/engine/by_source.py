"""Rewards by where the rows are from: curves of their own for the tasks of a run that has several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import RewardMatrix
from ctwa.engine.data import VALIDATION_SET, RunData
from ctwa.objectives.completion import Completion
from ctwa.objectives.curriculum import MOST_SOURCES, source_named
from ctwa.statistics import clustered_error


def has_several_sources(data: RunData) -> bool:
    """Whether the rows that were looked at are from several sources, but not each from its own."""
    sources = {source_of(Completion.unwritten(each.row.values)) for each in data.sample}
    return 1 < len(sources) <= MOST_SOURCES


def source_of(completion: Completion) -> str:
    """The validation file that the user named, where it is of one; else the row's data source."""
    return str(completion.row.get(VALIDATION_SET) or source_named(completion.data_source))


def training_by_source(completions: Sequence[Completion], rewards: RewardMatrix) -> dict[str, float]:
    """``objective_source/<objective>/<source>``: the mean reward over the scored completions of each source."""
    return {
        key_of.objective_of_source(*of): float(rewards.column(of[0])[0][own_N].mean())
        for of, own_N in _parts(completions, rewards)
    }


def validation_by_source(completions: Sequence[Completion], rewards: RewardMatrix, group_N: Tensor) -> dict[str, float]:
    """``val_source/<objective>/<source>`` and, from two prompts on, its standard error over them."""
    found = {}
    for of, own_N in _parts(completions, rewards):
        values = rewards.column(of[0])[0][own_N]
        found[key_of.validation_of_source(*of)] = float(values.mean())
        error = clustered_error(values.numpy(), group_N[own_N].numpy())
        if math.isfinite(error):
            found[key_of.validation_error_of_source(*of)] = error
    return found


def _parts(completions: Sequence[Completion], rewards: RewardMatrix) -> Iterable[tuple[tuple[str, str], Tensor]]:
    """By objective and source which completions were scored, where there are any."""
    sources = [source_of(completion) for completion in completions]
    for name in rewards.names:
        _, scored_N = rewards.column(name)
        for source in sorted(set(sources)):
            own_N = scored_N & torch.tensor([each == source for each in sources])
            if own_N.any():
                yield (name, source), own_N
