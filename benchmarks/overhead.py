"""What the methods cost: step time of CTWA against linear weights, on one engine, in one run.

The variants take turns, step by step, so that whatever else the machine does falls on all of them alike:

    linear          no statistic at all
    linear-traced   the covariance trace from the update's own log-probs (the default of every method)
    in_update       CTWA from the update's own log-probs
    post_update     CTWA with the paper's forward pass after the update
    12-objectives   CTWA in_update with twelve objectives instead of three

    python benchmarks/overhead.py --testbed runs/testbed-D [--rounds 12] [--run runs/overhead]

Prints, for each variant, the median step and its ratio to linear-traced (median over rounds of the ratio within a
round, with the quartiles), and the share of each phase of a step.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ctwa.engine.launch import compose_config, prepare_run, run_training, set_environment
from ctwa.monitor.logs import quiet
from ctwa.monitor.trace import read_trace

Source = Literal["post_update", "in_update"]
REFERENCE = "linear-traced"
NUM_OBJECTIVES = 12
WARM_UP_ROUNDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="a folder made by `ctwa testbed make`")
    parser.add_argument("--run", type=Path, default=Path("runs/overhead"), help="the run folder to write")
    parser.add_argument("--rounds", type=int, default=12, help="how often each variant takes its turn")
    parser.add_argument("overrides", nargs="*", help="further settings, as for `ctwa train`")
    arguments = parser.parse_args()

    steps = 5 * (arguments.rounds + WARM_UP_ROUNDS)
    config = compose_config(
        [
            f"ctwa.run={arguments.run}",
            f"ctwa.task_dir={arguments.testbed}",
            "method=linear",
            f"trainer.total_training_steps={steps}",
            "trainer.test_freq=-1",
            "trainer.save_freq=-1",
            "trainer.val_before_train=false",
            *arguments.overrides,
        ]
    )
    set_environment(config)
    settings, run = prepare_run(config)
    with quiet(run.engine_log) as console:
        console.print(f"{steps} steps; the engine's log is {run.engine_log}", highlight=False)
        run_training(config, settings, run, make_trainer=_alternating)
        report(run.metrics, console)


def _alternating(config: Any, **parts: Any) -> Any:
    """A trainer that changes its method with every step."""
    from ctwa.engine.trainer import MultiObjectiveTrainer
    from ctwa.objectives.config import ObjectiveConfig
    from ctwa.objectives.evaluation import RewardEvaluator
    from ctwa.scalarizers.base import Scalarizer
    from ctwa.scalarizers.ctwa import CTWA, CtwaConfig
    from ctwa.scalarizers.linear import Linear, LinearConfig

    settings = parts["settings"]
    three = dict(settings.objectives)
    twelve = {
        f"{name}-{copy}": ObjectiveConfig(reward_fn=objective.reward_fn, weight=objective.weight)
        for copy in range(NUM_OBJECTIVES // len(three))
        for name, objective in three.items()
    }

    def ctwa(objectives: dict[str, ObjectiveConfig], statistic: Source) -> CTWA:
        targets = dict.fromkeys(objectives, 0.1)
        method = CtwaConfig(targets=targets, statistic=statistic, eta=0.0)
        return CTWA(method, {name: o.weight for name, o in objectives.items()}, scale_invariant=True)

    def linear() -> Linear:
        return Linear(LinearConfig(), {name: o.weight for name, o in three.items()}, scale_invariant=True)

    evaluator = parts["evaluator"]
    wide = RewardEvaluator(twelve, num_workers=settings.rewards.num_workers)
    # name -> method, evaluator, what the covariance trace takes
    variants: dict[str, tuple[Scalarizer, RewardEvaluator, Literal["none", "in_update"]]] = {
        "linear": (linear(), evaluator, "none"),
        REFERENCE: (linear(), evaluator, "in_update"),
        "in_update": (ctwa(three, "in_update"), evaluator, "none"),
        "post_update": (ctwa(three, "post_update"), evaluator, "none"),
        "12-objectives": (ctwa(twelve, "in_update"), wide, "none"),
    }

    class Alternating(MultiObjectiveTrainer):
        def on_step_begin(self) -> None:
            super().on_step_begin()
            name = VARIANTS[(self.global_steps - 1) % len(VARIANTS)]
            self.scalarizer, self.evaluator, covariance = variants[name]
            self.settings.diagnostics.covariance = covariance

        def _compute_metrics(self, batch: Any, metrics: dict, *args: Any, **kwargs: Any) -> None:
            metrics["benchmark/variant"] = (self.global_steps - 1) % len(VARIANTS)
            super()._compute_metrics(batch, metrics, *args, **kwargs)

    return Alternating(config, **parts)


VARIANTS = ("linear", REFERENCE, "in_update", "post_update", "12-objectives")


def report(metrics: Path, console: Console) -> None:
    """The table of ratios and the table of phases."""
    rounds: list[dict[str, dict[str, float]]] = []
    for record in read_trace(metrics):
        numbers = {key: value for key, value in record["metrics"].items() if value is not None}
        name = VARIANTS[int(numbers["benchmark/variant"])]
        if name == VARIANTS[0]:
            rounds.append({})
        rounds[-1][name] = {key[5:]: value for key, value in numbers.items() if key.startswith("time/")}
    rounds = [r for r in rounds[WARM_UP_ROUNDS:] if len(r) == len(VARIANTS)]

    table = Table(title=f"step time, {len(rounds)} rounds")
    for column in ("variant", "median s", f"ratio to {REFERENCE}", "quartiles"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name in VARIANTS:
        ratios = [r[name]["step"] / r[REFERENCE]["step"] for r in rounds]
        low, _, high = quantiles(ratios, n=4)
        seconds = median(r[name]["step"] for r in rounds)
        table.add_row(name, f"{seconds:.3f}", f"{median(ratios):.3f}", f"{low:.3f} to {high:.3f}")
    console.print(table)

    shares: dict[str, list[float]] = defaultdict(list)
    for r in rounds:
        for phase, seconds in r[REFERENCE].items():
            if phase != "step":
                shares[phase].append(seconds / r[REFERENCE]["step"])
    table = Table(title=f"share of each phase of a step ({REFERENCE})")
    table.add_column("phase")
    table.add_column("median share", justify="right")
    for phase, values in sorted(shares.items(), key=lambda item: -median(item[1])):
        table.add_row(phase, f"{median(values):.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
