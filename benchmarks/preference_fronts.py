"""The fronts of the preference methods on the testbed: the same pairs, budget and seeds, five preference vectors.

    ctwa testbed make --preset D --out runs/testbed-D && ctwa testbed pairs --out runs/testbed-D/pairs
    python benchmarks/preference_fronts.py --testbed runs/testbed-D --out runs/fronts [--steps 48] [--seeds 0 1 2]

One engine trains them one after the other, each from the base model. Runs that are finished in --out are kept, so the
study goes on where it stopped; with --steps 0 it prints the tables of what is there. A run's end is measured twice: by
the share of validation pairs ranked as each objective prefers, and by the rewards of answers that are sampled to
held-out problems. The hypervolume of a front is over the origin.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import moocore
import numpy as np
import pyarrow.parquet as pq
from omegaconf import DictConfig

from ctwa.report.markdown import table

METHODS = {
    "raco": ["method=raco"],
    "raco-unclipped": ["method=raco_unclipped"],
    "clamp": ["method=clamp"],
    "dpo-lw": ["method=linear"],
}
PREFERENCES = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Of accuracy; conciseness has the rest."""
NAMES = ("accuracy", "conciseness")
MEASURES = {"pairs": "share of validation pairs ranked right", "answers": "mean reward of sampled answers"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="made by `ctwa testbed make`, with pairs in it")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--steps", type=int, default=48, help="steps of a run; 0 to run nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        (method, preference, seed)
        for seed in arguments.seeds
        for method in arguments.methods
        for preference in PREFERENCES
        if not (folder_of(arguments, method, preference, seed) / "end.json").exists()
    ]
    if arguments.steps and wanted:
        run_all(arguments, wanted)
    print(tables(arguments))


def folder_of(arguments: argparse.Namespace, method: str, preference: float, seed: int) -> Path:
    return Path(arguments.out) / f"{method}-p{round(100 * preference)}-s{seed}"


def compose(arguments: argparse.Namespace, method: str, preference: float, seed: int) -> DictConfig:
    from ctwa.engine.compose import compose_config

    overrides = [
        f"ctwa.run={folder_of(arguments, method, preference, seed)}",
        f"ctwa.task_dir={arguments.testbed}",
        f"ctwa.reference_cache={arguments.out}/reference",
        f"ctwa.seed={seed}",
        f"ctwa.objectives.accuracy.weight={preference}",
        f"ctwa.objectives.conciseness.weight={1 - preference:g}",
        f"trainer.total_training_steps={arguments.steps}",
        f"trainer.n_gpus_per_node={arguments.ranks}",
        "trainer.test_freq=-1",
        *METHODS[method],
    ]
    return compose_config(overrides, command="prefer")


def run_all(arguments: argparse.Namespace, wanted: list[tuple[str, float, int]]) -> None:
    """One engine; every run begins with the base model, a new optimizer and its own settings."""
    from ctwa.engine.job import set_environment
    from ctwa.engine.prefer_job import PreferJob
    from ctwa.engine.ray_session import ray_session
    from ctwa.report.summary import write_summary

    first = compose(arguments, *wanted[0])
    set_environment(first)

    from ctwa.engine.pairs.workers import start_workers
    from ctwa.engine.recorder import Recorder

    PreferJob(first)  # it fits micro-batches to the batch
    with ray_session(first, transfer_queue=False, say=print):
        group = start_workers(first)
        base = str(Path(arguments.out).absolute() / "base")
        group.save_checkpoint(base, None, 0, max_ckpt_to_keep=None)
        for number, (method, preference, seed) in enumerate(wanted, start=1):
            job = PreferJob(compose(arguments, method, preference, seed))
            group.load_checkpoint(base)
            run = job.make_folder()
            with Recorder(run, resume=False, num_samples=0, seed=seed) as recorder:
                job.train(group, recorder)
            write_summary(run)
            (run.path / "end.json").write_text(json.dumps(measure(arguments, run, seed), indent=1))
            print(f"{number}/{len(wanted)} {run.path.name}", flush=True)


def measure(arguments: argparse.Namespace, run: Any, seed: int) -> dict[str, Any]:
    """What came of a run, both ways."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ctwa.testbed.evaluate import sample_scores

    last = json.loads(run.metrics.read_text().splitlines()[-1])["metrics"]
    model = run.checkpoints / f"global_step_{arguments.steps}" / "actor" / "huggingface"
    rows = pq.read_table(Path(arguments.testbed) / "held_out.parquet").to_pylist()
    rewards = sample_scores(
        AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model), rows, seed=seed
    )
    return {
        "pairs": {name: last[f"val/{name}"] for name in NAMES},
        "losses": {name: last[f"val_preference/{name}/loss"] for name in NAMES},
        "answers": {name: rewards[name] for name in NAMES},
        "seconds_a_step": last["time/update_actor"],
    }


def tables(arguments: argparse.Namespace) -> str:
    """Markdown: a table a measure, with the points of every method's front and its hypervolume, spread over seeds."""
    parts = []
    for measured, title in MEASURES.items():
        rows = []
        for method in arguments.methods:
            fronts = [front for seed in arguments.seeds if (front := front_of(arguments, method, seed, measured))]
            if fronts:
                points = np.array(fronts).mean(0)
                volumes = [float(moocore.hypervolume(-np.array(front), ref=[0.0, 0.0])) for front in fronts]
                spread = f" ± {stdev(volumes):.3f}" if len(volumes) > 1 else ""
                cells = [f"{x:.3f} / {y:.3f}" for x, y in points]
                rows.append([method, len(fronts), *cells, f"{mean(volumes):.3f}{spread}"])
        header = ("method", "seeds", *(f"p = {preference:g}" for preference in PREFERENCES), "hypervolume")
        parts += [f"{title}: accuracy / conciseness, means over seeds", "", table(header, rows), ""]
    return "\n".join(parts)


def front_of(arguments: argparse.Namespace, method: str, seed: int, measured: str) -> list[list[float]] | None:
    """The points of a seed's front, a preference each; None where one is missing."""
    files = [folder_of(arguments, method, preference, seed) / "end.json" for preference in PREFERENCES]
    if not all(file.exists() for file in files):
        return None
    ends = [json.loads(file.read_text())[measured] for file in files]
    return [[end[name] for name in NAMES] for end in ends]


if __name__ == "__main__":
    main()
