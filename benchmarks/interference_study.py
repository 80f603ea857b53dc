"""What the runs of a study say of the covariance law: a JSON file of a few KB of each, from its folder.

    python benchmarks/interference_study.py --runs runs/study [--study docs/results/data/study]
        [--records docs/results/data/interference]

For runs that benchmarks/study.py has made and recorded, and whose folders are still there: the paper's covariance, the
weight and the mean reward of every step, and the rewards on held-out problems.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from interference_records import LawRecord, from_trace
from study import ROOT
from study_records import RunRecord

from ctwa.report.trace import read_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the study's runs")
    parser.add_argument("--study", type=Path, default=ROOT / "docs/results/data/study", help="its records")
    parser.add_argument("--records", type=Path, default=ROOT / "docs/results/data/interference")
    arguments = parser.parse_args()
    for path in sorted(arguments.study.glob("*.json")):
        run = RunRecord.read(path)
        if not (arguments.runs / path.stem).is_dir():
            continue
        [trace] = read_runs([arguments.runs / path.stem])
        steps, held_out = from_trace(trace)
        if "covariance" in steps:  # which is not known of every policy loss
            at = run.place
            place = ("study", at.testbed, at.base, "grpo", at.method, at.seed)
            LawRecord(*place, run.settings, steps, held_out, run.made_with).write(arguments.records)


if __name__ == "__main__":
    main()
