"""All methods on one testbed: the same base model, budget and seeds, with static weights as controls; a table.

    python benchmarks/methods.py --testbed runs/testbed-D --out runs/study-D [--steps 60] [--seeds 0 1 2]
        [--methods linear ctwa ...] [-- KEY=VALUE ...]

What comes after -- are settings of every run. Runs that are finished in --out are kept, so the study goes on where it
stopped. At the end, and with --steps 0 at once, it prints a Markdown table of what is there: the mean reward of every
objective on held-out problems at the end (with the standard deviation over seeds), how far each fell from its best on
the way, the hypervolume of the end point over 0, and the seconds of a step; and a second one of each seed's difference
in hypervolume from equal weights and from the controls.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from math import prod
from pathlib import Path
from statistics import mean, median, stdev

from ctwa.report.summary import RunSummary, summarize
from ctwa.scalarizers import METHODS

STEPS = 60
CONTROLS = {"static-375": (0.375, 0.3125, 0.3125), "static-450": (0.45, 0.275, 0.275)}
OBJECTIVES = ("accuracy", "conciseness", "clarity")
REFERENCES = ("linear", *CONTROLS)


def settings_of(method: str, steps: int) -> list[str]:
    """What a method needs beside its name; for the controls, their weights; what is after a @, as options.

    ``product@power=0.5,offset=0.01`` is `method=product` with these two options; an option with a dot in its name is a
    setting of ctwa's, as in ``mgda@gradients.gram=cross_fitted``.
    """
    if "@" in method:
        plain, _, options = method.partition("@")
        places = ["ctwa." if "." in option.partition("=")[0] else "ctwa.method." for option in options.split(",")]
        named = [f"{place}{option}" for place, option in zip(places, options.split(","), strict=True)]
        return [*settings_of(plain, steps), *named]
    if method in CONTROLS:
        weights = zip(OBJECTIVES, CONTROLS[method], strict=True)
        return ["method=linear", *(f"ctwa.objectives.{name}.weight={weight}" for name, weight in weights)]
    own = {
        "cgpo": ["ctwa.method.constraints={accuracy:1}"],
        "lagrangian": ["ctwa.method.objective=accuracy", "ctwa.method.targets={conciseness:0.9,clarity:0.9}"],
        "schedule": [
            "ctwa.method.points=[{step:0,weights:{accuracy:0.5,conciseness:0.25,clarity:0.25}},"
            f"{{step:{steps},weights:{{accuracy:0.333,conciseness:0.333,clarity:0.334}}}}]"
        ],
        "torchjd": ["ctwa.method.weighting=AlignedMTL"],
        "probe-slope": ["method=probe", "ctwa.method.signal=slope"],
    }
    return own["probe-slope"] if method == "probe-slope" else [f"method={method}", *own.get(method, [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="a folder made by `ctwa testbed make`")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a run; 0 to run nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    everything = [*METHODS, *CONTROLS, "probe-slope"]
    parser.add_argument("--methods", nargs="+", default=everything, choices=everything, metavar="METHOD")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    arguments = parser.parse_args()
    for seed in arguments.seeds if arguments.steps else ():
        for method in arguments.methods:
            run(arguments, method, seed)
    runs = finished(arguments.out, arguments.methods, arguments.seeds)
    print(table(runs))
    print()
    print(differences(runs, finished(arguments.out, REFERENCES, arguments.seeds)))


def run(arguments: argparse.Namespace, method: str, seed: int) -> None:
    """One run, unless it is there; one that was broken off goes on from its last checkpoint."""
    folder = arguments.out / f"{method}-s{seed}"
    if (folder / "summary.json").exists():
        return
    command = [sys.executable, "-m", "ctwa.cli", "train", f"ctwa.run={folder}", f"ctwa.task_dir={arguments.testbed}"]
    command += [f"ctwa.seed={seed}", f"trainer.total_training_steps={arguments.steps}", "trainer.save_freq=20"]
    command += [f"ctwa.resume={str(folder.exists()).lower()}", *settings_of(method, arguments.steps)]
    command += arguments.overrides
    subprocess.run(command, check=True)


def finished(folder: Path, methods: Iterable[str], seeds: list[int]) -> dict[str, dict[int, RunSummary]]:
    """The runs of these seeds that are finished, by method and seed."""
    runs: dict[str, dict[int, RunSummary]] = {}
    for method in methods:
        paths = {seed: folder / f"{method}-s{seed}" for seed in seeds}
        there = {seed: summarize(path) for seed, path in paths.items() if (path / "summary.json").exists()}
        if there:
            runs[method] = there
    return runs


def table(runs: dict[str, dict[int, RunSummary]]) -> str:
    """A line a method."""
    lines = [
        "| method | seeds | " + " | ".join(OBJECTIVES) + " | worst drop " + " / ".join(OBJECTIVES) + " | mean of three "
        "| hypervolume | s a step |",
        "|---" * 9 + "|",
    ]
    return "\n".join(lines + [line(method, [*by_seed.values()]) for method, by_seed in runs.items()])


def differences(runs: dict[str, dict[int, RunSummary]], references: dict[str, dict[int, RunSummary]]) -> str:
    """A line a method: its hypervolume above each reference's, at the seeds that both have."""
    lines = ["| hypervolume above | " + " | ".join(references) + " |", "|---" * (len(references) + 1) + "|"]
    for method, by_seed in runs.items():
        cells = [
            ", ".join(
                f"{hypervolume(run) - hypervolume(others[seed]):+.3f}"
                for seed, run in by_seed.items()
                if seed in others
            )
            for others in references.values()
        ]
        lines.append("| " + " | ".join([method, *cells]) + " |")
    return "\n".join(lines)


def ends_of(run: RunSummary) -> list[float]:
    """Every objective at the end."""
    return [run.objectives[name].end for name in OBJECTIVES]


def hypervolume(run: RunSummary) -> float:
    """What the end point dominates over 0."""
    return prod(ends_of(run))


def line(method: str, runs: list[RunSummary]) -> str:
    """One method's line: means over its runs."""
    ends = [ends_of(run) for run in runs]
    drops = [f"{mean(run.objectives[name].drawdown for run in runs):.3f}" for name in OBJECTIVES]
    cells = [
        method,
        str(len(runs)),
        *(spread(column) for column in zip(*ends, strict=True)),
        " / ".join(drops),
        spread([mean(end) for end in ends]),
        spread([hypervolume(run) for run in runs]),
        f"{median(run.step_seconds for run in runs if run.step_seconds is not None):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def spread(values: list[float] | tuple[float, ...]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
