"""``ctwa train`` twice on one engine: a run whose folder is named, and a step on rows that ask for an agent loop.

The second lies beside the first, FOLDER-parted, and has the rows of another file: ``calculator_run.py ROWS
ctwa.run=FOLDER ...``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ctwa.cli import run
from ctwa.engine import series as engines
from ctwa.engine.job import train
from ctwa.run.log import quiet


def main(rows: str, overrides: list[str]) -> None:
    folder = next(Path(each.partition("=")[2]) for each in overrides if each.startswith("ctwa.run="))
    # Which rows there are is no matter of an agent loop's process, which is told of its own, nor how many steps.
    engines._OF_A_RUN += ("data.train_files", "trainer.total_training_steps")
    parted = [f"data.train_files={rows}", f"ctwa.run={folder}-parted", "trainer.total_training_steps=1"]
    with quiet(folder.with_suffix(".log")), engines.Series() as series:
        for own in ([], parted):
            job = engines.SeriesJob.of([*overrides, *own], series)
            train(job, job.make_folder())


if __name__ == "__main__":
    run(lambda: main(sys.argv[1], sys.argv[2:]))
