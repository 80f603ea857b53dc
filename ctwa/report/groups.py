"""Runs that differ in their seed alone belong together: one method, several seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix

import yaml

from ctwa.report.curves import Curve, averaged, over_seeds
from ctwa.report.trace import RunTrace
from ctwa.run.documents import check_size
from ctwa.run.dotted import dotted

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Of a resolved configuration what may differ between the seeds of one experiment: seeds, where the run writes, what it
# tells and keeps there, when it stops, and where ctwa and its environment are.
_OF_THE_RUN = re.compile(
    r"\w*seed\w*|run|resume|experiment_name|project_name|default_local_dir|logger|save_freq|print_every"
    r"|max_\w+_ckpt_to_keep|alarms|stop_on|stop_within|watchdog|trust_network|trust_checkpoint|runtime_env|router_config_path"
    r"|agent_loop_config_path",
    re.IGNORECASE,
)
# What only one of two configurations has is of another version of ctwa here, and its default. Elsewhere it was added.
_GROWN = re.compile(r"ctwa\.(?!objectives\.)(?!method\.)")


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
    found: list[tuple[_Experiment | None, list[RunTrace]]] = []
    for run in runs:
        experiment = _experiment(run)
        members = next((each for other, each in found if experiment and other and experiment.is_like(other)), None)
        if members is None:
            found.append((experiment, [run]))
        else:
            members.append(run)
    parts: list[tuple[RunTrace, ...]] = []
    for _, members in found:
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


@dataclass(frozen=True)
class _Experiment:
    """What two runs must share to be of one experiment."""

    described: str  # by run.json
    settings: dict[str, object]  # of config.yaml, by their dotted keys

    def is_like(self, other: _Experiment) -> bool:
        """Whether the two are one experiment, as far as both versions of ctwa wrote it down."""
        mine, theirs = self.settings, other.settings
        differing = {key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]}
        grown = all(_GROWN.match(key) for key in mine.keys() ^ theirs.keys())
        return self.described == other.described and not differing and grown


def _experiment(run: RunTrace) -> _Experiment | None:
    """The experiment of a run; None where it does not tell its seed."""
    if run.info is None or run.info.seed is None:
        return None
    described = run.info.model_dump_json(include={"method", "objectives", "model"})  # config.yaml has the engine
    config = run.folder.config.read_bytes() if run.folder.config.is_file() else b"{}"
    try:
        settings = yaml.load(config, _Loader)
        check_size(settings)
        return _Experiment(described, dotted(settings, without=_OF_THE_RUN.fullmatch))
    except (yaml.YAMLError, ValueError, RecursionError):  # what cannot be read is like nothing else
        return None
