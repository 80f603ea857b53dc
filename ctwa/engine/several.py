"""Several methods by one command: a run for each, one after another on one engine, which starts once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.text import Text

from ctwa.engine.compose import compose_config, compose_written
from ctwa.engine.job import print_plan, report, set_environment
from ctwa.engine.keeper import tell
from ctwa.engine.recorder import Stop
from ctwa.engine.restarts import how_to_go_on, last_step
from ctwa.engine.series import Series, SeriesJob
from ctwa.engine.signals import Interruption, end_request
from ctwa.engine.written import Written
from ctwa.errors import CtwaError
from ctwa.report.summary import write_summary
from ctwa.run.folder import RunFolder
from ctwa.run.log import quiet
from ctwa.run.trace import iterate_trace

_SEVERAL = re.compile(r"method=(\w+(?:,\w+)+)")


def methods_of(arguments: Sequence[str]) -> list[str]:
    """The methods, where the last ``method=`` of a command names several: ``method=linear,guard``; else none.

    Raises:
        CtwaError: one is named twice, or there is a comma too many.
    """
    chosen = [each for each in arguments if each.startswith("method=")]
    if chosen and re.fullmatch(r"method=(,[\w,]*|[\w,]*,|\w[\w,]*,,[\w,]*)", chosen[-1]):
        raise CtwaError(f"{chosen[-1]} has a comma too many: write method=NAME,NAME")
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
) -> Stop | None:
    """Train with each method, in a folder of its name in ``ctwa.run``; all is checked before the first one starts.

    An alarm ends its run, and the next one begins; a signal ends all. With ``ctwa.resume=true`` runs that are complete
    are left as they are.

    Args:
        methods: their names.
        arguments: of `ctwa train`; ``method=`` among them is what `methods_of` has read.
        stop_on: alarms that end a run.
        dry_run: print the resolved configs and the plans, and start nothing.

    Returns:
        What ended the last run that was ended early.

    Raises:
        CtwaError: a mistake that was found before anything started.
        RunFailed: a run ended by an error, which the user has been told of.
    """
    series, jobs = Series(), list[tuple[Written, SeriesJob]]()
    others = _others(arguments)
    with _of_method(methods[0]):
        # Once: it may be named after the time.
        folder = Path(compose_config([*others, f"method={methods[0]}"]).ctwa.run)
    for name in methods:
        written = Written.read([*others, f"method={name}"], "train")
        with _of_method(name):
            config = compose_written(written, stop_on=stop_on, command="train", run=folder / name)
            set_environment(config)
            with written.naming():
                jobs.append((written, SeriesJob(config, series)))
    if RunFolder(folder).holds_run():
        raise CtwaError(f"{folder} holds a run, and is to hold a folder for each method: give another ctwa.run")
    for _, job in jobs:
        RunFolder(job.config.ctwa.run).refuse_if_taken(resume=job.settings.resume, how_to_resume="ctwa.resume=true")
    series.refuse_unlike([job.config for _, job in jobs])
    if dry_run:
        for written, job in jobs:
            print_plan(written, job)
        return None
    return _train(folder, [job for _, job in jobs], series)


def _others(arguments: Sequence[str]) -> list[str]:
    """The arguments that are not a method's.

    Raises:
        CtwaError: the folder is named after the method, whose runs have one of that name each.
    """
    others = [each for each in arguments if not each.startswith("method=")]
    if named := next((each for each in others if each.startswith("ctwa.run=") and "ctwa.method" in each), None):
        raise CtwaError(f"{named}: each method has a folder of its name in ctwa.run; leave it out of that")
    return others


@contextmanager
def _of_method(name: str) -> Iterator[None]:
    """A sentence about a method's options says which one, and where they can be given."""
    try:
        yield
    except CtwaError as error:
        if "ctwa.method" not in str(error):
            raise
        raise CtwaError(f"method={name}: {error}. Options of one method are for a command of its own") from error


def _train(folder: Path, jobs: Sequence[SeriesJob], series: Series) -> Stop | None:
    ended: Stop | None = None
    run = RunFolder(folder)
    with quiet(run.engine_log, how_to_go_on=lambda: how_to_go_on(run)) as terminal, series:
        say = partial(terminal.print, soft_wrap=True, highlight=False)
        try:
            for job in jobs:
                end_request.run_begins()
                run = RunFolder(job.config.ctwa.run)
                if job.settings.resume and _is_complete(run, job.num_steps):
                    say(Text(f"{run.path} is complete", "dim"))
                    continue
                set_environment(job.config)
                run = job.make_folder()
                tell(folder=str(run.path), resume=str(folder))
                ended = report(job, run, terminal) or ended
                if end_request.by is not None:  # perhaps too late for the run to say so
                    return Interruption(end_request.by, last_step(run))
        except KeyboardInterrupt as error:  # between two runs
            if end_request.fault is not None:
                raise CtwaError(end_request.fault) from error
            if run.path == folder or end_request.by is None:
                raise
            return Interruption(end_request.by, last_step(run))
        say(Text(f"all of them: ctwa compare {shlex.join(job.config.ctwa.run for job in jobs)}", "dim"))
    return ended


def _is_complete(run: RunFolder, num_steps: int) -> bool:
    """Whether the last step is in the trace, not only in a checkpoint, from which the record would be written yet."""
    if not run.metrics.is_file():
        return False
    if max((record["step"] for record in iterate_trace(run.metrics)), default=0) < num_steps:
        return False
    if not run.summary.exists():
        write_summary(run)
    return True
