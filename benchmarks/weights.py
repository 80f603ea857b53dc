"""One policy for all weights beside one policy for each: fronts on a testbed, as one command that can be gone on with.

    python benchmarks/weights.py [--testbed A] [--steps 50] [--told-steps 150] [--seed 0] [--out runs/weights]
        [--json FILE] [--only-tables]

Made are an expert for each objective, a run with all weight on it, and one conditioned run of as many steps as all of
them together. `ctwa eval` then takes the experts as they are, mixed at decoding (MOD) and merged (soup), and the
conditioned policy, on the same held-out prompts. Ctrl-C ends a run with a checkpoint, from which the same command goes
on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from study import ROOT, made_with, make_testbed

from ctwa.cli import run
from ctwa.engine.compose import compose_config
from ctwa.engine.job import set_environment, train
from ctwa.engine.series import Series, SeriesJob
from ctwa.evaluation import evaluate, results_text
from ctwa.evaluation.runs import Choice, config_of
from ctwa.models.locate import newest_complete, step_folder
from ctwa.models.seal import is_complete
from ctwa.run.jsonl import write_atomically
from ctwa.run.log import quiet

if TYPE_CHECKING:
    from ctwa.engine.recorder import Stop

OBJECTIVES = ("accuracy", "clarity", "conciseness")
EQUAL = dict.fromkeys(OBJECTIVES, 1.0)
ALONE = {name: {other: float(other == name) for other in OBJECTIVES} for name in OBJECTIVES}
MOSTLY = [{other: 3.0 if other == name else 1.0 for other in OBJECTIVES} for name in OBJECTIVES]
EXPERTS = {f"only-{name}": weights for name, weights in ALONE.items()}
CHOICES = [*ALONE.values(), *MOSTLY, EQUAL]
CONDITIONED = "conditioned"
COMPLETIONS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", default="A", metavar="LETTER")
    parser.add_argument("--steps", type=int, default=50, help="of an expert")
    parser.add_argument("--told-steps", type=int, help="of the conditioned run, in place of those of all experts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/weights"), help="the folder of testbed and runs")
    parser.add_argument("--json", type=Path, default=ROOT / "docs/results/data/weights.json", help="the results")
    parser.add_argument("--only-tables", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if not arguments.only_tables:
        run(lambda: make(arguments))  # which ends the process where a run was ended early
    print(json.loads(arguments.json.read_text())["table"])


def make(arguments: argparse.Namespace) -> Stop | None:
    """Make the runs that are missing, and evaluate all; returns what ended a run early."""
    task_dir = make_testbed(arguments.out, arguments.testbed, 0)
    weights = {name: [f"ctwa.objectives.{each}.weight={w}" for each, w in own.items()] for name, own in EXPERTS.items()}
    told = ["ctwa.conditioning.concentration=1", "data.max_prompt_length=24"]
    for runs in (weights, {CONDITIONED: told}):
        if (stopped_by := train_on_one_engine(arguments, task_dir, runs)) is not None:
            return stopped_by
    folders = {name: str(arguments.out / name) for name in (*EXPERTS, CONDITIONED)}
    experts = {name: folders[f"only-{name}"] for name in OBJECTIVES}
    choice = Choice(CHOICES, experts)
    config = config_of([*folders.values()], choice=choice, num_samples=COMPLETIONS)
    results = evaluate(config, arguments.out / "eval")
    [section] = results.sections
    assert section.fronts is not None
    content = {
        "testbed": arguments.testbed,
        "steps": {name: steps_of(arguments, name) for name in folders},
        "seed": arguments.seed,
        "completions": COMPLETIONS,
        "made_with": made_with(),
        "fronts": section.fronts.as_json(),
        "table": results_text(results),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.json, json.dumps(content, indent=1).encode() + b"\n")
    return None


def train_on_one_engine(arguments: argparse.Namespace, task_dir: Path, runs: dict[str, list[str]]) -> Stop | None:
    """Make the runs that are not complete, one after another; returns what ended one early."""
    ends = {name: step_folder(arguments.out / name / "checkpoints", steps_of(arguments, name)) for name in runs}
    with quiet(arguments.out / "engine.log") as console, Series() as series:
        for name, own in runs.items():
            if is_complete(ends[name]):
                continue
            folder = arguments.out / name
            goes_on = newest_complete(folder / "checkpoints") is not None
            steps = steps_of(arguments, name)
            settings = [
                *("task=testbed", "engine=cpu", "trainer.n_gpus_per_node=1", "method=linear"),
                *(f"ctwa.task_dir={task_dir}", f"ctwa.run={folder}", f"ctwa.seed={arguments.seed}"),
                *(f"ctwa.resume={str(goes_on).lower()}", f"trainer.total_training_steps={steps}"),
                *(f"trainer.save_freq={steps}", f"trainer.test_freq={steps}", "trainer.val_before_train=false"),
            ]
            config = compose_config([*settings, *own])
            set_environment(config)
            job = SeriesJob(config, series)
            console.print(f"{name}: {steps} steps", highlight=False)
            if (stopped_by := train(job, job.make_folder())) is not None:
                return stopped_by
    return None


def steps_of(arguments: argparse.Namespace, name: str) -> int:
    """Of a run."""
    steps: int = arguments.steps
    if name == CONDITIONED:
        steps = arguments.told_steps or steps * len(EXPERTS)
    return steps


if __name__ == "__main__":
    main()
