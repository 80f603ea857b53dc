"""How many completions a second the reward workers grade, and what more of them would.

Each round scores completions whose answers are those of benchmarks/grader_answers.txt, some right and some not, with
the ready-made grader of mathematics. No engine takes part.

    python benchmarks/reward_throughput.py [--completions 4096] [--workers 2] [--rounds 5] [--cores 16]

Prints medians in seconds: of a round, of the workers' CPU time in it, and of the driver's, which does not shrink with
more workers. The round on more cores is reckoned as the driver's time or the workers' share, whichever is longer.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median

from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator

ANSWERS = Path(__file__).with_name("grader_answers.txt").read_text().splitlines()
STEPS = "We write down what is given, and work it out step by step. " * 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=4096, help="of a round")
    parser.add_argument("--workers", type=int, default=2, help="processes that grade")
    parser.add_argument("--rounds", type=int, default=5, help="after a first one that is left out")
    parser.add_argument("--cores", type=int, default=16, help="to reckon with")
    arguments = parser.parse_args()
    completions = [completion(row) for row in range(arguments.completions)]
    group_N = [row // 8 for row in range(arguments.completions)]
    objectives = {"accuracy": ObjectiveConfig(reward_fn="reward_fns/accuracy.py:accuracy")}
    seconds, workers, driver = [], [], []
    with RewardEvaluator(objectives, num_workers=arguments.workers, max_unscored=1.0) as evaluator:
        for _ in range(arguments.rounds + 1):
            began, began_cpu = time.perf_counter(), time.process_time()
            evaluation = evaluator.evaluate(completions, group_N)
            seconds.append(time.perf_counter() - began)
            driver.append(time.process_time() - began_cpu)
            workers.append(evaluation.seconds["accuracy"])
    of_round, of_workers, of_driver = (median(each[1:]) for each in (seconds, workers, driver))
    print(f"{arguments.completions} completions, {arguments.workers} workers on {os.cpu_count()} cores")
    print(f"a round {of_round:.2f} s; workers {of_workers:.2f} s together; driver {of_driver:.2f} s of CPU time")
    print(f"{arguments.cores} cores: {max(of_driver, of_workers / (arguments.cores - 1)):.2f} s, one for the driver")


def completion(row: int) -> Completion:
    """One that ends with an answer; of three, one has that of another problem."""
    truth = ANSWERS[row % len(ANSWERS)]
    answer = ANSWERS[(row + 7) % len(ANSWERS)] if row % 3 == 0 else truth
    response = f"{STEPS}The answer is \\boxed{{{answer}}}."
    return Completion(response, "problem", truth, "math", {}, 200, None, True, {})


if __name__ == "__main__":
    main()
