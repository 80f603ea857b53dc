"""What the two rollouts of the CPU cost: start-up, step and generation time of transformers and of vLLM.

Whole runs take turns on the same testbed, so that whatever else the machine does falls on both alike. Needs vLLM
(scripts/install_vllm_cpu.sh).

    python benchmarks/rollouts.py --testbed runs/testbed-D [--rounds 2] [--steps 8] [--runs runs/rollouts]
                                  [trainer.n_gpus_per_node=1 ...]

Prints, for each rollout, the median over its runs or steps in seconds: start-up (from the command to the first step),
the first step, the other steps, generation and the transfer of the weights within them; then the ratio of the two.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from ctwa.run.jsonl import read_jsonl

ROLLOUTS = ("transformers", "vllm_cpu")
PHASES = {"step": "step", "gen": "generation", "update_weights": "weights"}


@dataclass
class Seconds:
    """What the runs of one rollout took."""

    start_up: list[float] = field(default_factory=list)
    first_step: list[float] = field(default_factory=list)
    later_steps: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="a folder made by `ctwa testbed make`")
    parser.add_argument("--runs", type=Path, default=Path("runs/rollouts"), help="where the run folders go")
    parser.add_argument("--rounds", type=int, default=2, help="how often each rollout takes its turn")
    parser.add_argument("--steps", type=int, default=8, help="of each run")
    parser.add_argument("overrides", nargs="*", help="further settings, as for `ctwa train`")
    arguments = parser.parse_args()

    console = Console()
    seconds = {rollout: Seconds() for rollout in ROLLOUTS}
    for turn in range(arguments.rounds):
        for rollout in ROLLOUTS:
            measure(
                seconds[rollout],
                arguments.runs / f"{turn}-{rollout}",
                f"generation={rollout}",
                f"ctwa.task_dir={arguments.testbed}",
                f"trainer.total_training_steps={arguments.steps}",
                "trainer.test_freq=-1",
                "trainer.save_freq=-1",
                "trainer.val_before_train=false",
                *arguments.overrides,
            )
            console.print(f"{rollout}: run {turn + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}")
    console.print(table(seconds))


def measure(seconds: Seconds, folder: Path, *overrides: str) -> None:
    began = time.time()
    subprocess.run(
        [sys.executable, "-m", "ctwa.cli", "train", f"ctwa.run={folder}", *overrides],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    first, *later = read_jsonl(folder / "metrics.jsonl")
    seconds.first_step.append(first["metrics"]["time/step"])
    seconds.start_up.append(first["time"] - began - first["metrics"]["time/step"])
    for phase, values in seconds.later_steps.items():
        values += [record["metrics"][f"time/{phase}"] for record in later]


def table(seconds: dict[str, Seconds]) -> Table:
    rows = {
        rollout: [median(s.start_up), median(s.first_step), *map(median, s.later_steps.values())]
        for rollout, s in seconds.items()
    }
    num_steps = len(seconds[ROLLOUTS[0]].later_steps["step"])
    title = f"seconds, medians of {len(seconds[ROLLOUTS[0]].start_up)} runs and {num_steps} steps"
    result = Table("rollout", "start-up", "first step", *PHASES.values(), title=title)
    for rollout, values in rows.items():
        result.add_row(rollout, *(f"{value:.2f}" for value in values))
    ratios = [ours / theirs for theirs, ours in zip(*rows.values(), strict=True)]
    result.add_row("ratio", *(f"{ratio:.2f}" for ratio in ratios))
    return result


if __name__ == "__main__":
    main()
