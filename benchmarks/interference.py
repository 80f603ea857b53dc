"""Runs in which the covariance law can be checked step by step, and the JSON that is kept of each.

    python benchmarks/interference.py --testbed D --estimator grpo [--methods linear ctwa] [--seed 0] [--steps 30]
        [--within SECONDS] [--out runs/interference] [--records docs/results/data/interference] [-- KEY=VALUE ...]

Each run has the paper's covariance of every step (with the log-probs after it), the plain and the cross-fitted Gram
matrix of its gradients, and two measurements of what the step did: on completions of the next step's prompts, which it
had not seen (the probe), and on its own. `grpo` clips, `reinforce` (REINFORCE++) does not, as in the paper.

The runs take turns on one engine. One that has a record is not made again, and one that SIGTERM ended goes on where it
was; --within lets no further run begin after so many seconds. What comes after -- are settings of every run.
benchmarks/interference_tables.py makes the tables and figures.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interference_records import MEASURED, LawRecord, from_trace, name_of
from study import ROOT, common, made_with, make_testbed
from study_methods import settings_of

from ctwa.cli import run
from ctwa.engine.job import train
from ctwa.engine.series import Series, SeriesJob
from ctwa.models.locate import newest_complete
from ctwa.report.trace import read_runs
from ctwa.run.log import quiet
from ctwa.scalarizers import METHODS

if TYPE_CHECKING:
    from ctwa.engine.recorder import Recorder, Stop
    from ctwa.engine.sampling import Sampler
    from ctwa.engine.train import MultiObjectiveTrainer

ESTIMATORS = {"grpo": ["estimator=grpo", "clipping=on"], "reinforce": ["estimator=reinforce", "clipping=off"]}
MEASUREMENTS = (
    "ctwa.diagnostics.covariance=post_update",
    "ctwa.diagnostics.probe=backward",
    "ctwa.diagnostics.gradients_every=1",
    "ctwa.gradients.gram=cross_fitted",
    "actor_rollout_ref.rollout.val_kwargs.n=2",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", required=True, metavar="LETTER")
    parser.add_argument("--estimator", required=True, choices=ESTIMATORS)
    parser.add_argument("--methods", nargs="+", default=["linear", "ctwa"], choices=METHODS, metavar="METHOD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds after which no run begins")
    parser.add_argument("--out", type=Path, default=Path("runs/interference"), help="the folder of testbeds and runs")
    parser.add_argument("--records", type=Path, default=ROOT / "docs/results/data/interference")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    arguments = parser.parse_args()
    run(lambda: make_runs(arguments))


def make_runs(arguments: argparse.Namespace) -> Stop | None:
    """Make those of the methods' runs that have no record on one engine; returns what ended one early."""
    began = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    task_dir = make_testbed(arguments.out, arguments.testbed, 0)
    group = f"{arguments.testbed}-{arguments.estimator}"
    with quiet(arguments.out / f"{group}-s{arguments.seed}.log") as console, Series() as series:
        for method in arguments.methods:
            place = ("engine", arguments.testbed, 0, arguments.estimator, method, arguments.seed)
            name = name_of(*place)
            if (arguments.records / f"{name}.json").exists() or time.monotonic() - began > arguments.within:
                continue
            folder = arguments.out / name
            goes_on = newest_complete(folder / "checkpoints") is not None  # it was told to end
            if not goes_on:
                shutil.rmtree(folder, ignore_errors=True)
            own = [*ESTIMATORS[arguments.estimator], *settings_of(method, arguments.steps), *arguments.overrides]
            settings = [*common(task_dir, folder, arguments.seed, arguments.steps), *MEASUREMENTS, *own]
            job = LawJob.of([*settings, f"ctwa.resume={str(goes_on).lower()}"], series)
            if (stopped_by := train(job, job.make_folder())) is not None:
                return stopped_by
            [trace] = read_runs([folder])
            steps, held_out = from_trace(trace)
            LawRecord(*place, own, steps, held_out, made_with()).write(arguments.records)
            console.print(f"{name}: recorded", highlight=False)
    return None


class LawJob(SeriesJob):
    """A run that also measures what each step did to the expected rewards on its own completions."""

    def trainer(self, sampler: Sampler, recorder: Recorder) -> MultiObjectiveTrainer:
        """A trainer that looks at each update as the probe looks at unseen prompts."""
        from ctwa.covariance.probe import forward_probe
        from ctwa.engine.train import MultiObjectiveTrainer, Step

        class Measured(MultiObjectiveTrainer):
            def observe(self, step: Step) -> None:
                super().observe(step)
                rollout, update = step.rollout, self.seen
                own = forward_probe(
                    rollout.rewards.rewards_NM,
                    rollout.rewards.scored_NM,
                    update.log_probs_new_NT,
                    update.log_probs_old_NT,
                    rollout.mask_NT,
                    rollout.group_N,
                    names=rollout.rewards.names,
                )
                gains = zip(own.names, own.gain_M.tolist(), strict=True)
                step.metrics |= {MEASURED["own"](name): gain for name, gain in gains}

            def _update_of(self, step: Step) -> Any:
                self.seen = super()._update_of(step)
                return self.seen

        return Measured(self.config, self.settings, self.settings.build_scalarizer(), sampler, recorder)


if __name__ == "__main__":
    main()
