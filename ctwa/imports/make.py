"""A run folder out of what another trainer logged, written as a run of ctwa writes its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.imports.completions import Completions, read_completions
from ctwa.imports.forms import PANEL, read_history
from ctwa.imports.history import History, merged
from ctwa.imports.naming import Naming, find_names
from ctwa.report.curves import steps_between
from ctwa.report.summary import RunSummary, summary_text, write_summary
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.text import counted, listed, table
from ctwa.run.trace import EventWriter, SampleWriter, TraceWriter

_SHOWN = (key_of.objective_mean, key_of.validation)


@dataclass(frozen=True)
class Imported:
    """A run that was imported, what it was made of, and what became of its objectives."""

    folder: RunFolder
    history: History
    naming: Naming
    summary: RunSummary


def import_run(
    sources: Sequence[Path],
    out: Path,
    *,
    objectives: Mapping[str, str] | None = None,
    held_out: Mapping[str, str] | None = None,
    run: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    completions: Path | None = None,
) -> Imported:
    """Make a run folder of another trainer's logs. The logs stay as they are.

    Args:
        sources: files or folders, each in one of the forms of `ctwa.imports.forms`; all of one run.
        out: the folder to make.
        objectives: objective -> metric, beside those that are known by name: its mean reward in training.
        held_out: the same on held-out problems.
        run: which run, where a file has several.
        method: what reports call it; default: after the first source.
        seed: of the run; reports average runs of one method with different seeds.
        completions: a folder of what the model wrote; default: that of a TRL run, where there is one.

    Raises:
        CtwaError: a source cannot be read, no reward is found in it, or `out` holds a run.
    """
    folder = RunFolder(out)
    folder.refuse_if_taken(how_to_resume=None)
    histories = [read_history(path, run) for path in sources]
    if run is not None and all(each.source != PANEL for each in histories):
        raise CtwaError(f"--run {run}: {listed([str(path) for path in sources])} has one run alone: leave --run out")
    history = merged(histories)
    naming = find_names(history, objectives or {}, held_out or {})
    records = _timed({step: named for step in sorted(history.steps) if (named := naming.renamed(history.steps[step]))})
    kept = completions or _beside(sources[0])
    samples = list(read_completions(kept, naming.objectives)) if kept is not None else []
    info = RunInfo(
        method=method or _label(sources[0]),
        objectives={name: ObjectiveInfo(weight=None) for name in naming.objectives},
        num_steps=history.num_steps or max(records),
        engine=f"imported from {history.source}",
        seed=seed,
        covariances=any(key_of.parse(key).family == "covariance" for key in naming.origins),
    )
    RunFolder.create(out, {"imported": {name: list(keys) for name, keys in naming.origins.items()}}, info)
    _write(folder, history, records, samples)
    with EventWriter(folder.events) as events:
        made_of = f"made of {history.source}: {', '.join(str(path.absolute()) for path in sources)}"
        for text in (made_of, *history.notes):
            events.write("import", text)
    return Imported(folder, history, naming, write_summary(folder))


def imported_text(made: Imported) -> str:
    """Which metric was taken for what, how much is left out, and the summary of the run."""
    naming, steps = made.naming, made.history.steps
    taken = [
        (name, *(", ".join(naming.origins.get(key(name), ())) or "-" for key in _SHOWN)) for name in naming.objectives
    ]
    used = {key for keys in naming.origins.values() for key in keys}
    left_out = len(made.history.keys) - len(used)
    return "\n".join(
        [
            f"{made.folder.path}: steps {min(steps)} to {max(steps)} of {made.history.source}",
            *table(("objective", "in training", "on held-out problems"), taken, left=3),
            f"{counted(left_out, 'other metric')} left out; weights and covariances only where they were logged",
            *made.history.notes,
            "",
            summary_text(made.summary),
        ]
    )


def _timed(records: Mapping[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """The records, each with the seconds of all the steps that it stands for; others log the mean of one step."""
    steps = [step for step, metrics in records.items() if key_of.STEP_SECONDS in metrics]
    seconds = {
        step: {key_of.STEP_SECONDS: records[step][key_of.STEP_SECONDS] * num_steps}
        for step, num_steps in zip(steps, steps_between(steps), strict=True)
    }
    return {step: metrics | seconds.get(step, {}) for step, metrics in records.items()}


def _write(
    folder: RunFolder, history: History, records: Mapping[int, Mapping[str, float]], samples: Sequence[Completions]
) -> None:
    clock = iter([history.times.get(step, time.time()) for step in records])
    with TraceWriter(folder.metrics, clock=lambda: next(clock)) as trace:
        for step, metrics in records.items():
            trace.write(step, metrics)
    if samples:
        with SampleWriter(folder.samples) as writer:
            for each in samples:
                writer.write(each.step, each.prompts, each.responses, each.rewards, split=each.split)


def _beside(source: Path) -> Path | None:
    """The completions of a TRL run: beside its checkpoints."""
    root = source if source.is_dir() else source.parent
    for folder in (root, root.parent if root.name.startswith("checkpoint-") else root):
        if any((folder / "completions").rglob("completions_*.parquet")):
            return folder / "completions"
    return None


def _label(source: Path) -> str:
    """What the run is called: its folder, where the file has the name of its kind."""
    path = source.absolute()
    generic = path.is_dir() or path.name == "trainer_state.json" or "tfevents" in path.name
    named = path if path.is_dir() else path.parent if generic else path.with_suffix("")
    return (named.parent if named.name.startswith("checkpoint-") else named).name or "imported"
