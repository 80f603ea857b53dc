"""CAID against one-shot dualization on the testbed: does the policy meet its threshold? A table.

    ctwa testbed make --preset D --out runs/testbed-D
    python benchmarks/caid_thresholds.py --testbed runs/testbed-D --out runs/caid [--thresholds 0 0.05 0.1]
        [--seeds 0 1 2] [--jobs 1] [KEY=VALUE]...

The reward is conciseness and clarity, the constraint accuracy, whose mean over the reference's is to rise by the
threshold. A run's first policy is the one-shot one, its last one CAID's, so that both come of the same samples. Runs
that are finished in --out are kept. Further arguments are overrides of `ctwa caid`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ctwa.report.markdown import table

CONSTRAINT = "accuracy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="a folder made by `ctwa testbed make`")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none to print what is there")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    wanted = [(threshold, seed) for seed in arguments.seeds for threshold in arguments.thresholds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda each: run(arguments, *each), wanted))
    print(told(arguments))


def folder_of(out: Path, threshold: float, seed: int) -> Path:
    return out / f"b{threshold:g}-s{seed}"


def run(arguments: argparse.Namespace, threshold: float, seed: int) -> None:
    """One run, unless it is there; one that was broken off goes on."""
    folder = folder_of(arguments.out, threshold, seed)
    if (folder / "summary.json").exists():
        return
    command = [sys.executable, "-m", "ctwa.cli", "caid", f"ctwa.run={folder}", f"ctwa.task_dir={arguments.testbed}"]
    command += [f"ctwa.caid.thresholds={{{CONSTRAINT}:{threshold}}}", f"ctwa.seed={seed}"]
    command += [f"ctwa.resume={str(folder.exists()).lower()}", *arguments.overrides]
    subprocess.run(command, check=True)


HEADER = (
    *("threshold", "seeds", "one-shot slack", "met", "CAID slack", "met", "policies", "multiplier first, last"),
    "reward of the reference, one-shot, CAID",
)


def told(arguments: argparse.Namespace) -> str:
    """A line a threshold: means over seeds, slacks with the mean standard error of one of them."""
    rows = []
    for threshold in arguments.thresholds:
        runs = [
            records_of(path)
            for path in sorted(arguments.out.glob(f"b{threshold:g}-s*"))
            if (path / "summary.json").exists()
        ]
        if runs:
            rows.append(row(threshold, runs))
    return table(HEADER, rows)


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The records of the reference and of every policy."""
    records = [json.loads(text)["metrics"] for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "val/reward" in record]


def row(threshold: float, runs: list[list[dict[str, Any]]]) -> list[str]:
    slack, error, weight = (
        f"caid/slack/{CONSTRAINT}",
        f"caid/slack_standard_error/{CONSTRAINT}",
        f"weight/{CONSTRAINT}",
    )
    cells = [f"{threshold:g}", str(len(runs))]
    for which in (1, -1):
        slacks = [records[which][slack] for records in runs]
        spread = f", between seeds {stdev(slacks):.3f}" if len(slacks) > 1 else ""
        cells.append(f"{mean(slacks):+.3f} (se {mean(records[which][error] for records in runs):.3f}{spread})")
        cells.append(f"{sum(value >= 0 for value in slacks)} of {len(slacks)}")
    cells.append(f"{mean(len(records) - 1 for records in runs):.1f}")
    cells.append(", ".join(f"{mean(records[which][weight] for records in runs):.3f}" for which in (1, -1)))
    cells.append(", ".join(f"{mean(records[which]['val/reward'] for records in runs):.3f}" for which in (0, 1, -1)))
    return cells


if __name__ == "__main__":
    main()
