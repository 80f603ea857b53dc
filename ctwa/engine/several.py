"""Several methods by one command: a run for each, one after another on one engine, which starts once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ctwa.engine.compose import compose_written, put_run
from ctwa.engine.job import print_plan, report, set_environment
from ctwa.engine.keeper import tell
from ctwa.engine.recorder import Stop
from ctwa.engine.restarts import how_to_go_on, last_step
from ctwa.engine.series import Series, SeriesJob
from ctwa.engine.signals import Interruption
from ctwa.engine.written import Written
from ctwa.errors import CtwaError
from ctwa.run.folder import RunFolder
from ctwa.run.log import quiet

_SEVERAL = re.compile(r"method=(\w+(?:,\w+)+)")


def methods_of(arguments: Sequence[str]) -> list[str]:
    """The methods, where the last ``method=`` of a command names several: ``method=linear,guard``; else none.

    Raises:
        CtwaError: one is named twice.
    """
    chosen = [each for each in arguments if each.startswith("method=")]
    found = _SEVERAL.fullmatch(chosen[-1]) if chosen else None
    names = found[1].split(",") if found else []
    if twice := [name for name in names if names.count(name) > 1]:
        raise CtwaError(f"{chosen[-1]} names {twice[0]} twice: write each method once")
    return names


def train_each(
    methods: Sequence[str],
    arguments: Sequence[str],
    *,
    stop_on: Sequence[str] = (),
    dry_run: bool = False,
    console: Console | None = None,
) -> Stop | None:
    """Train with each method, in a folder of its name in ``ctwa.run``; all is checked before the first one starts.

    An alarm ends its run, and the next one begins; a signal ends all. With ``ctwa.resume=true`` runs that are complete
    are left as they are.

    Args:
        methods: their names.
        arguments: of `ctwa train`; ``method=`` among them is what `methods_of` has read.
        stop_on: alarms that end a run.
        dry_run: print the resolved configs and the plans, and start nothing.
        console: where to print them.

    Returns:
        What ended the last run that was ended early.

    Raises:
        CtwaError: a mistake that was found before anything started.
        RunFailed: a run ended by an error, which the user has been told of.
    """
    series = Series()
    others = [each for each in arguments if not each.startswith("method=")]
    folder, jobs = Path(), list[tuple[Written, SeriesJob]]()
    for name in methods:
        written = Written.read([*others, f"method={name}"], "train")
        config = compose_written(written, stop_on=stop_on, command="train")
        folder = Path(config.ctwa.run)
        put_run(config, folder / name)
        set_environment(config)
        with written.naming():
            jobs.append((written, SeriesJob(config, series)))
    if RunFolder(folder).info.exists():
        raise CtwaError(f"{folder} holds a run, and is to hold a folder for each method: give another ctwa.run")
    series.refuse_unlike([job.config for _, job in jobs])
    if dry_run:
        for written, job in jobs:
            print_plan(written, job, console)
        return None
    return _train(folder, [job for _, job in jobs], series)


def _train(folder: Path, jobs: Sequence[SeriesJob], series: Series) -> Stop | None:
    ended: Stop | None = None
    run = RunFolder(folder)
    with quiet(run.engine_log, how_to_go_on=lambda: how_to_go_on(run)) as terminal, series:
        say = partial(terminal.print, soft_wrap=True, highlight=False)
        for job in jobs:
            run = RunFolder(job.config.ctwa.run)
            if job.settings.resume and last_step(run) >= job.num_steps:
                say(Text(f"{run.path} is complete", "dim"))
                continue
            set_environment(job.config)
            run = job.make_folder()
            tell(folder=str(run.path))
            ended = report(job, run, terminal) or ended
            if isinstance(ended, Interruption):
                return ended
        say(Text(f"all of them: ctwa compare {' '.join(job.config.ctwa.run for job in jobs)}", "dim"))
    return ended
