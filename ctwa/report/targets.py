"""Covariance targets for a run with adaptive weights, from the covariances of one with fixed weights."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.report.groups import Group, group_runs
from ctwa.report.trace import read_runs
from ctwa.report.verdict import verdicts
from ctwa.run.jsonl import SCHEMA
from ctwa.run.text import clean, counted, number, table

FEWEST_STEPS = 10
LOW, HIGH = 0.1, 0.9  # quantiles
FLOOR = 1 / 3  # of the median
RULE = (
    "An objective that gained is not to lose its pull: its target is a third of its median covariance, and no more than"
    " a tenth of the steps fell short of. One that did not gain needs more than it had: its target is what the best"
    " tenth of the steps reached. A target is at least 0."
)


@dataclass(frozen=True)
class Suggestion:
    """An objective's target, and where it comes from.

    Attributes:
        verdict: what became of the objective: gained, kept, lost or unknown.
        low: the 0.1 quantile of its covariances over the steps of all runs.
        median: their median.
        high: their 0.9 quantile.
        target: the covariance that is suggested.
    """

    verdict: str
    low: float
    median: float
    high: float
    target: float


@dataclass(frozen=True)
class Suggestions:
    """The targets of a run's objectives; ``in_python`` as in `RunInfo`."""

    method: str
    num_steps: int
    objectives: dict[str, Suggestion]
    in_python: bool = False

    @property
    def overrides(self) -> list[str]:
        """What `ctwa train` takes, whether a configuration gave targets before or not."""
        named = [f"++ctwa.objectives.{name}.target={each.target:g}" for name, each in self.objectives.items()]
        return ["method=ctwa", *named]

    def as_json(self) -> dict[str, Any]:
        """As plain values, for a JSON file."""
        return {"schema": SCHEMA, **asdict(self), "overrides": self.overrides}


def suggest_targets(paths: Sequence[Path | str]) -> Suggestions:
    """Suggests covariance targets by `RULE`.

    Args:
        paths: a run with fixed weights, or several seeds of it; finished or not.

    Raises:
        CtwaError: the runs are not of one method, have targets already, or have too few covariances.
    """
    groups = group_runs(read_runs(paths))
    if len(groups) > 1:
        labels = ", ".join(group.label for group in groups)
        raise CtwaError(f"the runs are of several methods or settings ({labels}): give one run, or the seeds of one")
    [group] = groups
    judged = verdicts(group)
    suggestions = {
        name: _suggest(group, name, judged[name].word if name in judged else "unknown") for name in group.objectives
    }
    info = group.runs[0].info
    return Suggestions(
        group.runs[0].method,
        max(run.last_step for run in group.runs),
        suggestions,
        in_python=info is not None and info.in_python,
    )


def _suggest(group: Group, name: str, word: str) -> Suggestion:
    where = group.runs[0].folder.path
    if any(run.target(name) is not None for run in group.runs):
        raise CtwaError(
            f"{where} has targets: give a run with fixed weights (method=linear), whose covariances show what they lack"
        )
    covariances = np.concatenate([run.curve(key_of.covariance(name)).values for run in group.runs])
    if len(covariances) < FEWEST_STEPS:
        raise CtwaError(
            f"{where} has {counted(len(covariances), 'step')} with a covariance of {name}, and targets take "
            f"{FEWEST_STEPS}: train longer, by `ctwa train` with a method that measures covariances (method=linear)"
        )
    low, median, high = (float(each) for each in np.quantile(covariances, (LOW, 0.5, HIGH)))
    target = min(low, median * FLOOR) if word == "gained" else high
    return Suggestion(word, low, median, high, float(f"{max(target, 0.0):.3g}"))


def suggestions_text(found: Suggestions) -> str:
    """The suggestions for a terminal, with what to paste."""
    rows = [
        (
            name,
            each.verdict,
            *(number(value, sign=True) for value in (each.low, each.median, each.high)),
            f"{each.target:g}",
        )
        for name, each in found.objectives.items()
    ]
    header = ("objective", "verdict", "lowest tenth", "median", "highest tenth", "target")
    lines = [
        f"covariances of {clean(found.method)} up to step {found.num_steps}",
        *table(header, rows, left=2),
        "",
        RULE,
        *_unjudged(found.objectives),
        "",
    ]
    if found.in_python:
        targets = {name: each.target for name, each in found.objectives.items()}
        return "\n".join(
            [*lines, 'Give the trainer method="ctwa", or a loop the options of it, and these:', f"  {targets=}"]
        )
    if all(re.fullmatch(r"\w[\w-]*", name, re.ASCII) for name in found.objectives):
        return "\n".join([*lines, "Add to the command that trained it:", f"  {shlex.join(found.overrides)}"])
    return "\n".join([*lines, "Add to the run's YAML, and method=ctwa to the command:", *_yaml(found.objectives)])


def _unjudged(objectives: Mapping[str, Suggestion]) -> list[str]:
    """What the targets of objectives without a verdict are worth."""
    names = [name for name, each in objectives.items() if each.verdict == "unknown"]
    if not names:
        return []
    return [
        f"Whether {', '.join(map(clean, names))} gained is not known: validations are too few, or no numbers. The "
        "target is that of one that did not gain, and may be too high."
    ]


def _yaml(objectives: Mapping[str, Suggestion]) -> list[str]:
    import yaml

    written = {"ctwa": {"objectives": {name: {"target": each.target} for name, each in objectives.items()}}}
    return [f"  {line}" for line in yaml.safe_dump(written, sort_keys=False, allow_unicode=True).splitlines()]
