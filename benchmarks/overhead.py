"""What the methods cost: their step time side by side, on one engine, in one run.

The variants take turns, step by step, so that whatever else the machine does falls on all of them alike. Of CTWA's
statistic (--variants statistic):

    linear          no statistic at all
    linear-traced   the covariance trace from the update's own log-probs (the default of every method)
    in_update       CTWA from the update's own log-probs
    post_update     CTWA with the paper's forward pass after the update
    12-objectives   CTWA in_update with twelve objectives instead of three

or of every method at its defaults (--variants methods), with the static control, which is linear, to show the noise.

    python benchmarks/overhead.py --testbed runs/testbed-D [--variants statistic] [--rounds 12] [--run runs/overhead]

Prints, for each variant, the median step and its ratio to the reference (median over rounds of the ratio within a
round, with the quartiles), and the share of each phase of the reference's step.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from study_methods import CONTROLS, OBJECTIVES, settings_of

from ctwa.engine.compose import compose_config
from ctwa.engine.job import Job, set_environment, train
from ctwa.engine.settings import Settings, read_settings
from ctwa.engine.train_job import TrainJob
from ctwa.run.log import quiet
from ctwa.run.trace import read_trace
from ctwa.scalarizers import METHODS

if TYPE_CHECKING:
    from ctwa.engine.probe import ProbeMeter
    from ctwa.engine.recorder import Recorder
    from ctwa.engine.sampling import Sampler
    from ctwa.objectives.evaluator import RewardEvaluator
    from ctwa.scalarizers.base import Scalarizer

WARM_UP_ROUNDS = 2
TWELVE = [
    *(f"~ctwa.objectives.{name}" for name in OBJECTIVES),
    *(
        f"+ctwa.objectives.{name}-{copy}={{reward_fn: ctwa.testbed.rewards:{name}, weight: 1}}"
        for name in OBJECTIVES
        for copy in range(4)
    ),
]
UNTRACED = "ctwa.diagnostics.covariance=none"


@dataclass(frozen=True)
class Comparison:
    """What is compared: the settings of each variant, and the one that all are divided by."""

    variants: dict[str, list[str]]
    reference: str


def ctwa(statistic: str, objectives: list[str]) -> list[str]:
    """CTWA with its weights held, so that every variant steps alike."""
    return [
        *("method=ctwa", f"ctwa.method.statistic={statistic}", "ctwa.method.eta=0", UNTRACED),
        *(f"++ctwa.objectives.{name}.target=0.1" for name in objectives),
    ]


COMPARISONS = {
    "statistic": Comparison(
        {
            "linear": ["method=linear", UNTRACED],
            "linear-traced": ["method=linear"],
            "in_update": ctwa("in_update", [*OBJECTIVES]),
            "post_update": ctwa("post_update", [*OBJECTIVES]),
            "12-objectives": [
                *TWELVE,
                *ctwa("in_update", [f"{name}-{copy}" for name in OBJECTIVES for copy in range(4)]),
            ],
        },
        reference="linear-traced",
    ),
    "methods": Comparison(
        {method: settings_of(method, steps=1000) for method in (*METHODS, next(iter(CONTROLS)))}, reference="linear"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="a folder made by `ctwa testbed make`")
    parser.add_argument("--variants", choices=COMPARISONS, default="statistic", help="what to compare")
    parser.add_argument("--run", type=Path, default=Path("runs/overhead"), help="the run folder to write")
    parser.add_argument("--rounds", type=int, default=12, help="how often each variant takes its turn")
    parser.add_argument("overrides", nargs="*", help="further settings, as for `ctwa train`")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be 2 or more: quartiles need two values")
    comparison = COMPARISONS[arguments.variants]

    steps = len(comparison.variants) * (arguments.rounds + WARM_UP_ROUNDS)
    common = [
        f"ctwa.run={arguments.run}",
        f"ctwa.task_dir={arguments.testbed}",
        f"trainer.total_training_steps={steps}",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.val_before_train=false",
        *arguments.overrides,
    ]
    variants: list[Settings] = [read_settings(compose_config([*common, *own])) for own in comparison.variants.values()]
    config = compose_config([*common, "method=linear"])
    set_environment(config)
    job = alternating_job(variants, config)
    run = job.make_folder()
    with quiet(run.engine_log) as console:
        console.print(f"{steps} steps; the engine's log is {run.engine_log}", highlight=False)
        train(job, run)
        report(run.metrics, comparison, console)


def alternating_job(variants: list[Settings], config: DictConfig) -> Job:
    """A job whose trainer changes its method with every step."""
    from ctwa.engine.probe import build_probe
    from ctwa.engine.train import MultiObjectiveTrainer
    from ctwa.objectives.evaluator import RewardEvaluator
    from ctwa.run.cores import reward_workers

    class Alternating(MultiObjectiveTrainer):
        variants: list[tuple[Settings, Scalarizer, ProbeMeter, RewardEvaluator]]

        def step(self, number: int) -> dict[str, Any]:
            turn = (number - 1) % len(self.variants)
            self.settings, self.scalarizer, self.probe, self.sampler.evaluator = self.variants[turn]
            return super().step(number) | {"benchmark/variant": turn}

    class AlternatingJob(TrainJob):
        def run(self, recorder: Recorder) -> None:
            self.stack = ExitStack()
            with self.stack:
                super().run(recorder)

        def trainer(self, sampler: Sampler, recorder: Recorder) -> Alternating:
            trainer = Alternating(self.config, self.settings, self.settings.build_scalarizer(), sampler, recorder)
            evaluators = {tuple(self.settings.objectives): sampler.evaluator}
            trainer.variants = []
            for settings in variants:
                names = tuple(settings.objectives)
                if names not in evaluators:
                    num_workers = reward_workers(settings.rewards.num_workers)
                    evaluator = RewardEvaluator(settings.objectives, num_workers=num_workers)
                    evaluators[names] = self.stack.enter_context(evaluator)
                scalarizer = settings.build_scalarizer()
                probe = build_probe(self.config, settings, scalarizer)
                trainer.variants.append((settings, scalarizer, probe, evaluators[names]))
            return trainer

    return AlternatingJob(config)


def report(metrics: Path, comparison: Comparison, console: Console) -> None:
    """The table of ratios and the table of phases."""
    names, reference = [*comparison.variants], comparison.reference
    rounds: list[dict[str, dict[str, float]]] = []
    for record in read_trace(metrics):
        numbers = {key: value for key, value in record["metrics"].items() if value is not None}
        name = names[int(numbers["benchmark/variant"])]
        if name == names[0]:
            rounds.append({})
        rounds[-1][name] = {key[5:]: value for key, value in numbers.items() if key.startswith("time/")}
    rounds = [r for r in rounds[WARM_UP_ROUNDS:] if len(r) == len(names)]

    table = Table(title=f"step time, {len(rounds)} rounds")
    for column in ("variant", "median s", f"ratio to {reference}", "quartiles"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name in names:
        ratios = [r[name]["step"] / r[reference]["step"] for r in rounds]
        low, _, high = quantiles(ratios, n=4)
        seconds = median(r[name]["step"] for r in rounds)
        table.add_row(name, f"{seconds:.3f}", f"{median(ratios):.3f}", f"{low:.3f} to {high:.3f}")
    console.print(table)

    shares: dict[str, list[float]] = defaultdict(list)
    for r in rounds:
        for phase, seconds in r[reference].items():
            if phase != "step":
                shares[phase].append(seconds / r[reference]["step"])
    table = Table(title=f"share of each phase of a step ({reference})")
    table.add_column("phase")
    table.add_column("median share", justify="right")
    for phase, values in sorted(shares.items(), key=lambda item: -median(item[1])):
        table.add_row(phase, f"{median(values):.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
