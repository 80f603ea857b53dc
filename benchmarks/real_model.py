"""Methods on a real model and prompts with constraints that code checks, one after another on one engine.

    python benchmarks/real_model.py [--methods linear compromise ...] [--seed 0] [--model models/smollm2-135m]
        [--data runs/instructions] [--out runs/real-model] [-- KEY=VALUE ...]

The model and the prompts are made before (`ctwa model smollm2`, `ctwa instructions make`). What comes after -- are
settings of every run: the engine, the sizes. A run that is complete is kept; `ctwa compare` reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ctwa.cli import run
from ctwa.engine.job import train
from ctwa.engine.series import Series, SeriesJob
from ctwa.report.summary import write_summary
from ctwa.run.log import quiet

if TYPE_CHECKING:
    from ctwa.engine.recorder import Stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["linear", "compromise", "guard", "mgda"], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of data order and sampling")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m"))
    parser.add_argument("--data", type=Path, default=Path("runs/instructions"), help="the folder of the prompts")
    parser.add_argument("--out", type=Path, default=Path("runs/real-model"), help="the folder of the runs")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    arguments = parser.parse_args()
    run(lambda: make(arguments))  # which ends the process where a run was ended early


def make(arguments: argparse.Namespace) -> Stop | None:
    """Make the runs that are not complete; returns what ended one early."""
    log = arguments.out / f"s{arguments.seed}.log"
    with quiet(log) as console, Series() as series:
        for method in arguments.methods:
            folder = arguments.out / f"{method}-s{arguments.seed}"
            if (folder / "summary.json").exists():
                continue
            settings = [
                *("task=instructions", f"ctwa.task_dir={arguments.data}", f"ctwa.run={folder}", f"method={method}"),
                *(f"actor_rollout_ref.model.path={arguments.model}", f"ctwa.seed={arguments.seed}"),
                "trainer.save_freq=-1",
            ]
            job = SeriesJob.of([*settings, *arguments.overrides], series)
            made = job.make_folder()
            if (stopped_by := train(job, made)) is not None:
                return stopped_by
            summary = write_summary(made)
            changes = (f"{name} {each.start:.3f} to {each.end:.3f}" for name, each in summary.objectives.items())
            console.print(f"{folder.name}: {', '.join(changes)}", highlight=False)
    return None


if __name__ == "__main__":
    main()
