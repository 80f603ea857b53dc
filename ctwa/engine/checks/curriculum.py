"""The curriculum: whether its sources and objectives are there, and what a plan says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from omegaconf import DictConfig

from ctwa.engine.checks.applies import rows_of
from ctwa.engine.data import TRAIN, RunData
from ctwa.engine.settings import Settings
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.curriculum import source_named

_MOST_NAMED = 8


def check_curriculum(config: DictConfig, settings: Settings, data: RunData) -> None:
    """See that the curriculum is of the run's objectives, and of all sources of its data.

    Raises:
        CtwaError: what is not there, or is missing, and what to write.
    """
    curriculum = settings.curriculum
    if curriculum.difficulty is not None:
        for name in curriculum.difficulty.weights:
            if name not in settings.trained:
                raise CtwaError(
                    f"ctwa.curriculum.difficulty.by: '{name}' is no objective that is scored in training; write some "
                    f"of {', '.join(settings.trained)}{did_you_mean(name, settings.trained)}"
                )
        if not config.data.shuffle:
            raise CtwaError(
                "ctwa.curriculum.difficulty draws prompts at random, and data.shuffle=false wants them in their order: "
                "write data.shuffle=true, or leave one of them out"
            )
    if not curriculum.sources:
        return
    if not data.train.sample:
        raise CtwaError(
            "ctwa.curriculum.sources: data.custom_cls reads the rows, so their sources are not known before the run; "
            "leave one of the two out"
        )
    there = _num_rows(data)
    named = ", ".join([*there][:_MOST_NAMED]) + (", ..." if len(there) > _MOST_NAMED else "")
    for name in curriculum.sources:
        if name not in there:
            raise CtwaError(
                f"ctwa.curriculum.sources: no row of data.{TRAIN} is of '{name}'; there are {named}"
                + did_you_mean(name, there)
            )
    if missing := [name for name in there if name not in curriculum.sources]:
        raise CtwaError(
            f"ctwa.curriculum.sources does not say how many prompts '{missing[0]}' gives ({there[missing[0]]:,} rows "
            f"of data.{TRAIN}): add {missing[0]}: 1, or 0 for none"
        )


def curriculum_lines(settings: Settings, data: RunData) -> Sequence[str]:
    """The words of a plan."""
    return settings.curriculum.described(_num_rows(data) if settings.curriculum.sources else {})


def _num_rows(data: RunData) -> Counter[str]:
    """Of each source of the rows to train on, the largest first."""
    num_rows = Counter(source_named(values.get("data_source")) for values in rows_of(data.train, ["data_source"]))
    return Counter(dict(num_rows.most_common()))
