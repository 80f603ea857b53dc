"""What a study keeps of each run: a JSON file of a few KB, from which every table is made again without the run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctwa.run.jsonl import write_atomically

Floats = NDArray[np.float64]
ROOT = Path(__file__).resolve().parents[1]
SCHEMA = 1
DIRTY = "-dirty"
"""What `git describe` puts behind a commit that is not all of the code."""


@dataclass(frozen=True)
class Place:
    """Which run of a study.

    Attributes:
        testbed: the preset's letter.
        base: which of the testbed's base models; 0 has the preset's seed.
    """

    testbed: str
    base: int
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file and its folder."""
        method = re.sub(r"[@=,]", "_", self.method)
        return f"{self.testbed}-b{self.base}-{method}-s{self.seed}"


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        place: which.
        steps: that it made.
        settings: what the method was given beside its name.
        model: of the base: SHA-256 of its weights, and how it was trained.
        completions: of each held-out problem, at each validation.
        training: the mean reward of each objective at every step.
        weights: of each objective, the first and the last.
        held_out: the mean reward of each objective on held-out problems, and the ``step`` of each.
        first: of each objective and held-out problem, in the file's order, how many of its completions had the reward
            before the first step: a digit each.
        last: likewise after the last step.
        seconds: ``cpu`` of all processes while the run trained and was measured, ``wall`` likewise; neither has the
            start of the engine.
        made_with: versions, commit, processor.
        options: every option of the method, as the run had it; of records from before they were kept, none.
    """

    place: Place
    steps: int
    settings: Sequence[str]
    model: Mapping[str, Any]
    completions: int
    training: Mapping[str, Sequence[float]]
    weights: Mapping[str, Sequence[float]]
    held_out: Mapping[str, Sequence[float]]
    first: Mapping[str, str]
    last: Mapping[str, str]
    seconds: Mapping[str, float]
    made_with: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into the records' folder, a line for each of its parts."""
        parts = {"schema": SCHEMA, **asdict(self.place), **asdict(self)}
        del parts["place"]
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in parts.items()]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.place.name}.json", ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read one back."""
        parts = json.loads(path.read_text())
        if parts.pop("schema") != SCHEMA:
            raise SystemExit(f"{path} is of another version of this benchmark")
        place = Place(**{key: parts.pop(key) for key in ("testbed", "base", "method", "seed")})
        return cls(place=place, **parts)

    @property
    def is_of_a_commit(self) -> bool:
        """Whether the code that made it was committed."""
        return not self.made_with["commit"].endswith(DIRTY)

    @property
    def objectives(self) -> list[str]:
        """Their names, in alphabetical order."""
        return sorted(self.last)

    @cached_property
    def first_MP(self) -> Floats:
        """The mean reward of each objective and problem before the first step."""
        return self._shares(self.first)

    @cached_property
    def last_MP(self) -> Floats:
        """Likewise after the last step."""
        return self._shares(self.last)

    def _shares(self, digits: Mapping[str, str]) -> Floats:
        return np.array([[int(digit) for digit in digits[name]] for name in self.objectives]) / self.completions

    def held_out_at(self, step: float) -> Floats:
        """(M,) mean rewards on held-out problems at a step, between two measurements on the line between them."""
        return np.array([np.interp(step, self.held_out["step"], self.held_out[name]) for name in self.objectives])


def check_committed(commit: str, records: Path) -> None:
    """End where code that is not all committed would leave records among those of the repository, which name it.

    Args:
        commit: as `git describe` tells it.
        records: the folder that they are written into.
    """
    if commit.endswith(DIRTY) and records.resolve().is_relative_to(ROOT):
        raise SystemExit(
            f"the code is not committed, and records in {records} name its commit: commit it, or give another folder "
            "as --records"
        )


def as_digits(rewards_N: Floats, group_N: NDArray[np.int64], completions: int) -> str:
    """How many of each problem's completions had a reward of 1, in the order of the groups.

    Raises:
        ValueError: rewards other than 0 and 1, or a problem without all its completions.
    """
    if not np.isin(rewards_N, (0, 1)).all() or not (np.bincount(group_N) == completions).all() or completions > 9:
        raise ValueError("a digit a problem takes rewards of 0 and 1, and up to nine completions of every problem")
    return "".join(str(int(each)) for each in np.bincount(group_N, weights=rewards_N))


def read_records(folder: Path, testbeds: Iterable[str]) -> list[RunRecord]:
    """Those of some testbeds, in the order of their names."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name.split("-")[0] in set(testbeds)]
    return [RunRecord.read(path) for path in paths]
