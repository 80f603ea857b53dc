"""``ctwa train`` twice on one engine: a run that leaves much behind, and then the one of the command line."""

from __future__ import annotations

import sys
from pathlib import Path

from ctwa.cli import run
from ctwa.engine.job import train
from ctwa.engine.series import Series, SeriesJob
from ctwa.run.log import quiet


def main(overrides: list[str]) -> None:
    folder = next(Path(each.partition("=")[2]) for each in overrides if each.startswith("ctwa.run="))
    first = ["method=mgda", f"ctwa.run={folder}-before", "ctwa.diagnostics.probe=backward"]
    with quiet(folder.with_suffix(".log")), Series() as series:
        for own in (first, []):
            job = SeriesJob.of([*overrides, *own], series)
            train(job, job.make_folder())


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
