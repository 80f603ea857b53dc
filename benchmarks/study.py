"""A study: methods on testbeds, over base models and seeds, as one command that goes on where it stopped; its tables.

    python benchmarks/study.py [--testbeds A D] [--bases 0] [--seeds 0] [--methods linear ctwa ...] [--jobs 1]
        [--within SECONDS] [--out runs/study] [--records docs/results/data/study] [-- KEY=VALUE ...]

The runs of a testbed, a base and a seed take turns on one engine (ctwa/engine/series.py), in a process of its own;
--jobs of them run beside each other. A run is kept as a JSON file among the --records, and never made again while that
is there; --within lets no further run begin after so many seconds. What comes after -- are settings of every run.
At the end, and with --only-tables at once, the tables are printed (study_tables.py).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml
from study_methods import CONTROLS, OTHERS, settings_of
from study_records import Place, RunRecord, as_digits, check_committed, read_records
from study_tables import report

from ctwa import metrics as key_of
from ctwa.cli import run
from ctwa.cli.command import INTERRUPTED
from ctwa.engine.job import train
from ctwa.engine.series import Series, SeriesJob
from ctwa.models.locate import newest_complete
from ctwa.report.summary import write_summary
from ctwa.report.trace import read_runs
from ctwa.run.jsonl import write_atomically
from ctwa.run.log import RunFailed, quiet
from ctwa.scalarizers import METHODS

if TYPE_CHECKING:
    from ctwa.engine.recorder import Recorder, Stop
    from ctwa.engine.sampling import Sampler, Scored
    from ctwa.engine.train import MultiObjectiveTrainer

ROOT = Path(__file__).parents[1]
STEPS = {"A": 50, "C": 150, "D": 50, "F": 80, "G": 100}
NUM_VALIDATIONS = 5  # and one before the first step
COMPLETIONS = 4
NEXT_BASE = 10  # the seeds of a testbed's base models are so far apart
EVERYTHING = [*METHODS, *CONTROLS, *OTHERS]


def main() -> None:
    arguments = _parser().parse_args()
    if not arguments.only_tables:
        check_committed(made_with()["commit"], arguments.records)
    if arguments.group is not None:
        testbed, base, seed = arguments.group
        try:
            run(lambda: run_group(arguments, testbed, int(base), int(seed)))
        except RunFailed:  # which has been told
            sys.exit(1)
    elif not arguments.only_tables:
        start_groups(arguments)
    if arguments.group is None:
        print(report(read_records(arguments.records, arguments.testbeds)))


def start_groups(arguments: argparse.Namespace) -> None:
    """Make what is missing, a process for each testbed, base and seed; Ctrl-C and SIGTERM end it with checkpoints."""
    began, processes = time.monotonic(), list[subprocess.Popen[bytes]]()
    seeds, bases, testbeds = arguments.seeds, arguments.bases, arguments.testbeds
    groups = [(testbed, base, seed) for seed in seeds for base in bases for testbed in testbeds]
    given = sys.argv[1 : len(sys.argv) - len(arguments.overrides)]
    options = [word for word in given if word != "--"]

    def start(group: tuple[str, int, int]) -> None:
        left = arguments.within - (time.monotonic() - began)
        if left > 0 and missing(arguments, *group):
            own = ["--within", str(left), "--group", *map(str, group)]
            processes.append(subprocess.Popen([sys.executable, __file__, *options, *own, "--", *arguments.overrides]))
            if processes[-1].wait() not in (0, INTERRUPTED):
                arguments.within = 0.0

    def end(number: int, _: object) -> None:
        arguments.within = 0.0
        if number == signal.SIGTERM:  # Ctrl-C comes to all of the terminal's processes
            for process in processes:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(start, groups))
    if any(process.returncode not in (0, INTERRUPTED) for process in processes):
        raise SystemExit("a run failed: its log is in the folder of the runs")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbeds", nargs="+", default=["A", "D"], choices=sorted(STEPS), metavar="LETTER")
    parser.add_argument(
        "--bases",
        type=int,
        nargs="+",
        default=[0],
        help="their numbers; 0, 1 and 2 of C, F and G, 3 of A and D and 4 of D come with ctwa",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the runs")
    parser.add_argument(
        "--methods", nargs="+", default=EVERYTHING, type=named_method, help="NAME, or NAME@OPTION=VALUE"
    )
    parser.add_argument("--steps", type=int, help="of a run, in place of the testbed's")
    parser.add_argument("--jobs", type=int, default=1, help="engines beside each other")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds after which no run begins")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="the folder of testbeds and runs")
    parser.add_argument("--records", type=Path, default=ROOT / "docs/results/data/study", help="the folder of the JSON")
    parser.add_argument("--only-tables", action="store_true", help="run nothing")
    parser.add_argument("--group", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    return parser


def named_method(text: str) -> str:
    """A method or a control, with options of its own after a @: ``product@power=0.5,offset=0.01``.

    Raises:
        ArgumentTypeError: no method has the name.
    """
    if text.partition("@")[0] not in EVERYTHING:
        raise argparse.ArgumentTypeError(f"{text}: no such method; NAME or NAME@OPTION=VALUE")
    return text


def missing(arguments: argparse.Namespace, testbed: str, base: int, seed: int) -> list[Place]:
    """The runs of a group that have no record."""
    places = [Place(testbed, base, method, seed) for method in arguments.methods]
    return [place for place in places if not (arguments.records / f"{place.name}.json").exists()]


# -- the runs of an engine --------------------------------------------------------------------------------------------


def run_group(arguments: argparse.Namespace, testbed: str, base: int, seed: int) -> Stop | None:
    """Make the runs of one testbed, base and seed, one after another on one engine; returns what ended one early."""
    began = time.monotonic()
    task_dir = make_testbed(arguments.out, testbed, base)
    steps = arguments.steps or STEPS[testbed]
    log = arguments.out / f"{testbed}-b{base}-s{seed}.log"
    with quiet(log) as console, Series() as series:
        for place in missing(arguments, testbed, base, seed):
            if time.monotonic() - began > arguments.within:
                break
            folder = arguments.out / place.name
            # It was told to end.
            goes_on = newest_complete(folder / "checkpoints") is not None and (folder / KEPT).exists()
            if not goes_on:
                shutil.rmtree(folder, ignore_errors=True)
            own = [*settings_of(place.method, steps), *arguments.overrides]
            run_settings = [*common(task_dir, folder, seed, steps), f"ctwa.resume={str(goes_on).lower()}"]
            job = MeasuredJob.of([*run_settings, *own], series)
            made = job.make_folder()
            if (stopped_by := train(job, made)) is not None:
                return stopped_by
            summary = write_summary(made)
            record(place, folder, task_dir, own).write(arguments.records)
            ends = ", ".join(f"{name} {each.end:.3f}" for name, each in summary.objectives.items())
            console.print(f"{place.name}: {ends}", highlight=False)
    return None


def make_testbed(out: Path, testbed: str, base: int) -> Path:
    """The folder of a testbed with one of its base models: some come with ctwa, the others are trained, once."""
    from ctwa.testbed.prepare import prepare
    from ctwa.testbed.presets import get_preset

    preset = get_preset(testbed)
    seed = preset.sft_seed + NEXT_BASE * base
    return prepare(preset, out / f"testbed-{testbed}-b{base}", seed=seed, num_threads=1).root


def common(task_dir: Path, folder: Path, seed: int, steps: int) -> list[str]:
    """The settings of every run."""
    return [
        *("task=testbed", "engine=cpu", "trainer.n_gpus_per_node=1", f"ctwa.task_dir={task_dir}", f"ctwa.run={folder}"),
        *(f"ctwa.seed={seed}", f"trainer.total_training_steps={steps}", "trainer.save_freq=-1"),
        f"trainer.test_freq={steps // NUM_VALIDATIONS}",
        f"actor_rollout_ref.rollout.val_kwargs.n={COMPLETIONS}",
    ]


KEPT = "study.json"
"""In a run's folder, what a study adds: of each validation's step the ``outcomes``, and the ``seconds`` so far."""


class MeasuredJob(SeriesJob):
    """A run that keeps what became of each held-out problem, and what it cost, also where it goes on after an end."""

    def trainer(self, sampler: Sampler, recorder: Recorder) -> MultiObjectiveTrainer:
        """A trainer that keeps the outcomes of its validations, and the time up to its last checkpoint or its end."""
        from ctwa.engine.train import MultiObjectiveTrainer

        file = recorder.run.path / KEPT
        kept: dict[str, Any] = {"outcomes": {}, "seconds": {"cpu": 0.0, "wall": 0.0}}
        if file.exists():
            kept = json.loads(file.read_text())
        began = clocks()

        class Measured(MultiObjectiveTrainer):
            def held_out(self) -> tuple[Scored, int]:
                scored, missing = super().held_out()
                matrix, group_N = scored.evaluation.matrix, scored.rollout.group_N.numpy()
                kept["outcomes"][str(self.steps_made)] = {
                    name: as_digits(matrix.column(name)[0].numpy(), group_N, COMPLETIONS) for name in matrix.names
                }
                return scored, missing

            def save(self, metrics: Mapping[str, Any]) -> None:
                super().save(metrics)
                self.keep()

            def end(self) -> None:
                super().end()
                self.keep()

            def keep(self) -> None:
                so_far = {clock: each + clocks()[clock] - began[clock] for clock, each in kept["seconds"].items()}
                write_atomically(file, json.dumps({**kept, "seconds": so_far}).encode())

        return Measured(self.config, self.settings, self.settings.build_scalarizer(), sampler, recorder)


def clocks() -> dict[str, float]:
    """Seconds: ``wall``, and ``cpu`` of this process and all that it started and that still run."""
    return {"cpu": cpu_seconds(), "wall": time.perf_counter()}


def cpu_seconds() -> float:
    """Of this process and its descendants."""
    driver = psutil.Process()
    seconds = 0.0
    for process in (driver, *driver.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def record(place: Place, folder: Path, task_dir: Path, settings: Sequence[str]) -> RunRecord:
    """What is kept of a run."""
    [trace] = read_runs([folder])
    kept = json.loads((folder / KEPT).read_text())
    names = sorted(trace.objectives)
    steps = [step for step, _ in trace.results(names[0])]
    made = json.loads((task_dir / "testbed.json").read_text())
    weights = {name: trace.first_and_last(key_of.weight(name)) for name in names}
    return RunRecord(
        place=place,
        steps=trace.last_step,
        settings=[*settings],
        model={
            "sha256": hashlib.sha256((task_dir / "model/model.safetensors").read_bytes()).hexdigest(),
            "sft_seed": made["settings"]["sft"]["seed"],
            "num_sft_steps": made["num_sft_steps"],
            **made["made_with"],
        },
        completions=COMPLETIONS,
        training={name: [round(value, 4) for _, value in trace.series(key_of.objective_mean(name))] for name in names},
        weights={name: [round(each, 5) for each in pair] for name, pair in weights.items() if pair is not None},
        held_out={"step": steps, **{name: [round(value, 6) for _, value in trace.results(name)] for name in names}},
        first=kept["outcomes"]["0"],
        last=kept["outcomes"][str(trace.last_step)],
        seconds={clock: round(value, 1) for clock, value in kept["seconds"].items()},
        made_with=made_with(),
        options=yaml.safe_load((folder / "config.yaml").read_text())["ctwa"]["method"],
    )


def made_with() -> dict[str, str]:
    """Versions, commit and processor."""
    packages = {package: version(package) for package in ("ctwa", "verl", "torch", "transformers", "ray")}
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    return {**packages, "commit": commit, "processor": processor()}


def processor() -> str:
    """Its model, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return ", ".join(filter(None, (platform.machine(), model)))


if __name__ == "__main__":
    main()
