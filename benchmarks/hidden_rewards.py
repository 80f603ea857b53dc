"""What a slow reward costs a step that scores completions while others are still written.

A run without the slow reward says how long generation takes. A second one has an objective whose function waits for
each completion, with as many workers as make all its calls together take as long as generation.

    python benchmarks/hidden_rewards.py --testbed runs/testbed-D [--wait 0.2] [--steps 5] [--runs runs/hidden]
                                        [--prompts 64] [--completions 8] [trainer.n_gpus_per_node=2 ...]

Prints seconds, medians over all steps but the first: of generation and of the rewards by themselves, of both in the
second run, and how many times the longer of the two that is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

DEFAULTS = (
    "trainer.n_gpus_per_node=1",
    "method=linear",
    "actor_rollout_ref.rollout.max_num_seqs=32",  # at a time
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "trainer.val_before_train=false",
)


def waits(response: str, seconds: float) -> float:
    """A reward that keeps nothing busy, as one behind an API."""
    time.sleep(seconds)
    return float(len(response) % 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="a folder made by `ctwa testbed make`")
    parser.add_argument("--runs", type=Path, default=Path("runs/hidden"), help="where the run folders go")
    parser.add_argument("--wait", type=float, default=0.2, help="seconds that the reward takes for a completion")
    parser.add_argument("--steps", type=int, default=5, help="of each run")
    parser.add_argument("--prompts", type=int, default=64, help="of a step")
    parser.add_argument("--completions", type=int, default=8, help="of a prompt")
    parser.add_argument("overrides", nargs="*", help="further settings, as for `ctwa train`")
    arguments = parser.parse_args()
    common = [
        f"ctwa.task_dir={arguments.testbed}",
        f"trainer.total_training_steps={arguments.steps}",
        f"data.train_batch_size={arguments.prompts}",
        f"actor_rollout_ref.rollout.n={arguments.completions}",
        *DEFAULTS,
        *arguments.overrides,
    ]

    without = measure(arguments.runs / "without", common)
    generation = without["time/gen"]
    calls = arguments.prompts * arguments.completions * arguments.wait
    num_workers = round(calls / generation)
    function = f"{Path(__file__).resolve()}:waits"
    slow = [
        f"+ctwa.objectives.slow={{reward_fn: '{function}', kwargs: {{seconds: {arguments.wait}}}}}",
        f"ctwa.rewards.num_workers={num_workers}",
    ]
    both = measure(arguments.runs / "with", [*common, *slow])
    together = both["time/gen"] + both["time/reward"]
    longer = max(generation, calls / num_workers)
    print(f"generation {generation:.2f}; rewards {calls / num_workers:.2f} ({num_workers} workers)")
    print(
        f"both {together:.2f}, {together / longer:.2f} times the longer; hidden {both['rewards/hidden_seconds']:.2f}, "
        f"waited {both['rewards/waited_seconds']:.2f}"
    )
    print(f"a step {without['time/step']:.2f} without the reward, {both['time/step']:.2f} with it")


def measure(folder: Path, overrides: list[str]) -> dict[str, float]:
    """Medians of a run's metrics."""
    from ctwa.run.jsonl import read_jsonl

    command = [sys.executable, "-m", "ctwa.cli", "train", f"ctwa.run={folder}", *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    _, *steps = [record["metrics"] for record in read_jsonl(folder / "metrics.jsonl")]
    return {key: median(step[key] for step in steps) for key in steps[0]}


if __name__ == "__main__":
    main()
