"""Runs that differ in their seed alone belong together: one method, several seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from os.path import commonprefix

from ctwa.report.curves import Curve, averaged, over_seeds
from ctwa.report.trace import RunTrace

# Of a resolved configuration what may differ between the seeds of one experiment, each with the list below it: seeds,
# where the run writes, and what it tells and keeps there.
_OF_THE_RUN = re.compile(
    rb"^\s*(?:\w*seed\w*|run|resume|experiment_name|project_name|default_local_dir|TENSORBOARD_DIR|logger|save_freq"
    rb"|print_every|max_\w+_ckpt_to_keep):.*$(?:\s*^\s*- .*$)*",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Group:
    """Runs of one method with one configuration, each with a seed of its own; or one run."""

    label: str
    runs: tuple[RunTrace, ...]

    @property
    def objectives(self) -> list[str]:
        """The names of the objectives of any of its runs."""
        return objectives_of(self.runs)

    @property
    def seeds(self) -> list[int | None]:
        """The seeds of its runs, None where no run.json tells it."""
        return [None if run.info is None else run.info.seed for run in self.runs]

    def curve(self, key: str, window: int = 1) -> Curve:
        """One metric: averaged over `window` steps, then over the seeds."""
        return over_seeds([averaged(run.curve(key), window) for run in self.runs])


def objectives_of(runs: Sequence[RunTrace]) -> list[str]:
    """The names of the objectives of any of the runs, in the order they come."""
    return list(dict.fromkeys(name for run in runs for name in run.objectives))


def group_runs(runs: Sequence[RunTrace]) -> list[Group]:
    """Puts runs together that differ in their seed alone, in the order of the first of each.

    A group is labelled by its method; where two groups have the same method, by what the labels of its runs begin with.
    Runs without a seed, and runs that repeat a seed of one configuration, stand alone.
    """
    found: dict[object, list[RunTrace]] = {}
    for run in runs:
        found.setdefault(_experiment(run) or run.label, []).append(run)
    parts: list[tuple[RunTrace, ...]] = []
    for members in found.values():
        seeds = [run.info.seed for run in members if run.info]
        alone = len(set(seeds)) < len(members)
        parts += [(run,) for run in members] if alone else [tuple(members)]
    parts.sort(key=lambda part: runs.index(part[0]))
    for candidates in ([part[0].method for part in parts], [_beginning(part) for part in parts]):
        if all(candidates) and len(set(candidates)) == len(parts):
            return [Group(label, part) for label, part in zip(candidates, parts, strict=True)]
    return [Group(part[0].label + (f" and {len(part) - 1} more" if part[1:] else ""), part) for part in parts]


def _beginning(part: Sequence[RunTrace]) -> str:
    """ctwa-s0, ctwa-s1 -> ctwa; one run alone keeps its whole label."""
    if len(part) == 1:
        return part[0].label
    shared = commonprefix([run.label for run in part])  # noqa: RUF071 (characters are meant)
    return re.sub(r"[-_./ ]*(?:s|seed)?[-_./= ]*$", "", shared)


def _experiment(run: RunTrace) -> tuple[str, str, bytes] | None:
    """What two runs must share to be of one experiment; None where the run does not tell its seed."""
    if run.info is None or run.info.seed is None:
        return None
    described = run.info.model_dump_json(include={"method", "objectives", "model", "engine"})
    config = run.folder.config.read_bytes() if run.folder.config.is_file() else b""
    return run.info.method, described, sha256(_OF_THE_RUN.sub(b"", config)).digest()
