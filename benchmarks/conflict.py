"""Whether what a step is expected to do to each objective is what it does: by plain and by cross-fitted gradients.

    ctwa train ctwa.run=runs/D method=linear ctwa.gradients.gram=cross_fitted ctwa.diagnostics.gradients_every=1
        ctwa.diagnostics.probe=backward ...
    python benchmarks/conflict.py runs/D [...]

Of each run it prints a Markdown table: for each objective the mean gain of a step that the probe measured on the next
step's prompts, with its standard error, and the mean progress that either Gram matrix predicted, at the scale that fits
all objectives best (one number for the run, the slope through 0); then, over all steps and objectives, the slope, the
correlation, and the share of pairs whose signs agree. The last three are also given for means of ten steps in a row, in
which the probe's own error is smaller.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctwa.report.markdown import table
from ctwa.run import read_trace

Floats = NDArray[np.float64]

PREDICTIONS = {"plain": "gradient/progress/", "cross-fitted": "conflict/progress/"}
WINDOW = 10


@dataclass(frozen=True)
class Measured:
    """The steps of a run that have all of it: S steps, M objectives.

    Attributes:
        names: of the objectives.
        gains_SM: what the probe measured of each step.
        predicted: by prediction, what was expected, (S, M).
    """

    names: list[str]
    gains_SM: Floats
    predicted: dict[str, Floats]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs with both statistics and a probe")
    for folder in parser.parse_args().runs:
        measured = read(folder)
        print(f"\n{folder.name}: {len(measured.gains_SM)} steps\n")
        print(means(measured))
        print(agreement(measured))


def read(folder: Path) -> Measured:
    """The predictions of each step, and the gain that the probe `backward` measured of it in the next one."""
    records = {record["step"]: record["metrics"] for record in read_trace(folder / "metrics.jsonl")}
    prefix = "probe/gain/"
    names = sorted({key.removeprefix(prefix) for each in records.values() for key in each if key.startswith(prefix)})
    steps: list[list[list[float]]] = []
    for step, metrics in sorted(records.items()):
        after = records.get(step + 1, {})
        found = [[_number(metrics, key + name) for name in names] for key in PREDICTIONS.values()]
        steps.append([[_number(after, prefix + name) for name in names], *found])
    steps_SXM = np.array([each for each in steps if np.isfinite(each).all()])
    if not len(steps_SXM):
        raise SystemExit(f"{folder} has no step with a probe and both predictions: see the top of this script")
    return Measured(names, steps_SXM[:, 0], {kind: steps_SXM[:, 1 + x] for x, kind in enumerate(PREDICTIONS)})


def _number(metrics: Mapping[str, float | None], key: str) -> float:
    value = metrics.get(key)
    return math.nan if value is None else value


def slope(predicted: Floats, gains: Floats) -> float:
    """The factor of the prediction that is nearest to what was measured."""
    return float((predicted * gains).sum() / np.square(predicted).sum())


def means(measured: Measured) -> str:
    """Over the run, objective by objective."""
    rows = []
    errors_M = measured.gains_SM.std(axis=0, ddof=1) / len(measured.gains_SM) ** 0.5
    scaled = {
        kind: slope(each.mean(axis=0), measured.gains_SM.mean(axis=0)) * each.mean(axis=0)
        for kind, each in measured.predicted.items()
    }
    for column, name in enumerate(measured.names):
        cells = [f"{each[column]:+.4f}" for each in scaled.values()]
        rows.append([name, f"{measured.gains_SM[:, column].mean():+.4f} ± {errors_M[column]:.4f}", *cells])
    return table(("objective", "measured gain of a step", *measured.predicted), rows)


def agreement(measured: Measured) -> str:
    """Slope, correlation and agreement of signs, of steps and of means over some."""
    rows = []
    for size in (1, WINDOW):
        num = len(measured.gains_SM) // size
        if num < 2:
            continue
        gains = _means(measured.gains_SM, num, size)
        for kind, each in measured.predicted.items():
            predicted = _means(each, num, size)
            correlation = np.corrcoef(predicted.ravel(), gains.ravel())[0, 1]
            same = float((np.sign(predicted) == np.sign(gains)).mean())
            rows.append([size, kind, f"{slope(predicted, gains):.3g}", f"{correlation:.2f}", f"{same:.2f}"])
    return "\n" + table(("steps", "prediction", "slope", "correlation", "same sign"), rows)


def _means(values_SM: Floats, num: int, size: int) -> Floats:
    means: Floats = values_SM[: num * size].reshape(num, size, -1).mean(axis=1)
    return means


if __name__ == "__main__":
    main()
