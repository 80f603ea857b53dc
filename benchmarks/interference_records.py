"""What is kept of a run in which the covariance law was checked: a JSON file of some ten KB."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctwa import metrics as key_of
from ctwa.report.trace import RunTrace
from ctwa.run.jsonl import write_atomically

Floats = NDArray[np.float64]

MEASURED: dict[str, Callable[[str], str]] = {
    "covariance": key_of.covariance,
    "plain": key_of.gradient_progress,
    "cross-fitted": key_of.conflict_progress,
    "own": "interference/own/{}".format,
    "gain": key_of.probe_gain,
    "gain error": key_of.probe_error,
    "weight": key_of.weight,
    "reward": key_of.objective_mean,
}
"""What is kept of each objective and step, and its metric in a run of the engine.

`own` is what the step did to completions that it was made of, `gain` what it did to those of unseen prompts.
"""


@dataclass(frozen=True)
class LawRecord:
    """One run.

    Attributes:
        source: what made it: ``study``, ``engine`` (benchmarks/interference.py) or ``torch`` (interference_offline.py).
        testbed: the preset's letter.
        base: which of the testbed's base models; 0 is the one that comes with ctwa.
        estimator: of advantages.
        settings: beside those of every run.
        steps: by kind (`MEASURED`, cosines) and objective, or pair of them, a number a step, from step 1 on. Kinds that
            were not measured are missing.
        held_out: the mean reward of each objective on held-out problems, and the ``step`` of each; empty for none.
        made_with: versions, commit, processor.
    """

    source: str
    testbed: str
    base: int
    estimator: str
    method: str
    seed: int
    settings: Sequence[str]
    steps: Mapping[str, Mapping[str, Sequence[float | None]]]
    held_out: Mapping[str, Sequence[float]]
    made_with: Mapping[str, str]

    @property
    def name(self) -> str:
        """Of its file."""
        return name_of(self.source, self.testbed, self.base, self.estimator, self.method, self.seed)

    def write(self, folder: Path) -> None:
        """Write it into the records' folder, a line for each kind of number."""
        parts = asdict(self)
        steps = ",\n".join(f"  {json.dumps(kind)}: {json.dumps(each)}" for kind, each in parts.pop("steps").items())
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in parts.items()]
        lines.append(f' "steps": {{\n{steps}\n }}')
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.name}.json", ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    @property
    def names(self) -> list[str]:
        """The objectives, in alphabetical order."""
        return sorted(self.steps["covariance"])

    def of(self, kind: str, names: Sequence[str] | None = None) -> Floats:
        """(S, M) the numbers of a kind, by step and objective (or pair); NaN where there is none."""
        columns = [self.steps[kind][name] for name in names or self.names]
        return np.array(columns, dtype=np.float64).T


def name_of(source: str, testbed: str, base: int, estimator: str, method: str, seed: int) -> str:
    """Of a run's record and folder."""
    return f"{source}-{testbed}-b{base}-{estimator}-{re.sub(r'[@=,]', '_', method)}-s{seed}"


def from_trace(trace: RunTrace) -> tuple[dict[str, dict[str, Sequence[float | None]]], dict[str, list[float]]]:
    """``steps`` and ``held_out`` of a run of the engine."""
    names = sorted(trace.objectives)
    pairs = [f"{one}:{other}" for number, one in enumerate(names) for other in names[number + 1 :]]
    steps: dict[str, dict[str, Sequence[float | None]]] = {
        kind: {name: _at_steps(trace, key(name)) for name in names} for kind, key in MEASURED.items()
    }
    for kind in ("gain", "gain error"):  # which the probe measures in the next step
        steps[kind] = {name: [*each[1:], None] for name, each in steps[kind].items()}
    for kind, prefix in (("plain cosine", key_of.GRADIENT_COSINE), ("cross-fitted cosine", key_of.CONFLICT_COSINE)):
        steps[kind] = {pair: _at_steps(trace, f"{prefix}{pair}") for pair in pairs}
    measured = {kind: each for kind, each in steps.items() if any(v is not None for row in each.values() for v in row)}
    held_out: dict[str, list[float]] = {"step": [step for step, _ in trace.results(names[0])]}
    held_out |= {name: [round(value, 4) for _, value in trace.results(name)] for name in names}
    return measured, held_out


def _at_steps(trace: RunTrace, key: str) -> list[float | None]:
    """A metric at every step from 1 on, to three digits; None where it was not measured."""
    found = dict(trace.series(key))
    values = (found.get(step) for step in range(1, trace.last_step + 1))
    return [None if value is None or not math.isfinite(value) else float(f"{value:.3g}") for value in values]


def read_records(folder: Path) -> list[LawRecord]:
    """All of a folder, in the order of their names."""
    return [LawRecord(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
