"""The tables and figures of docs/results/interference.md, from the records of its runs.

    python benchmarks/interference_tables.py [--records docs/results/data/interference] [--figures docs/results]

Steps of one run are no independent observations. An interval is that of 2,000 draws of as many runs as there are, with
replacement.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from interference_records import Floats, LawRecord, read_records
from matplotlib.figure import Figure

from ctwa.report.markdown import table

ROOT = Path(__file__).parents[1]
PREDICTORS = {
    "covariance": "c",
    "own": "change on the step's own completions",
    "plain": "plain gradients",
    "cross-fitted": "cross-fitted gradients",
}
CLEAR = 2.0
"""A gain is clear that is so many of its standard errors from 0."""
CLEAR_CHANGE = 0.03
"""A change on held-out problems likewise: two standard errors of 400 problems with four completions each."""
DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=ROOT / "docs/results/data/interference")
    parser.add_argument("--figures", type=Path, help="draw the figures into this folder, as PNG")
    arguments = parser.parse_args()
    runs = read_records(arguments.records)
    validated, stepwise = longest(runs), [run for run in runs if "gain" in run.steps]
    print(f"### Windows between validations\n\n{windows(validated)}\n\n### Methods\n\n{by_method(validated)}")
    if stepwise:
        by_estimator = [
            f"#### {estimator}\n\n{steps([run for run in stepwise if run.estimator == estimator])}"
            for estimator in sorted({run.estimator for run in stepwise})
        ]
        print("\n\n".join(["\n### Steps", *by_estimator, *by_run(stepwise)]))
    if arguments.figures is not None:
        draw(runs, arguments.figures)


def longest(runs: Sequence[LawRecord]) -> list[LawRecord]:
    """The validated runs; of several of one method, base and seed the longest: they are alike as far as they go."""
    found: dict[tuple[object, ...], LawRecord] = {}
    for run in runs:
        place = (run.testbed, run.base, run.estimator, run.method, run.seed)
        if run.held_out and (place not in found or found[place].held_out["step"][-1] < run.held_out["step"][-1]):
            found[place] = run
    return list(found.values())


# -- predictions ------------------------------------------------------------------------------------------------------

Pairs = Sequence[tuple[Floats, Floats]]
"""Of each run, what was predicted and what came."""
Measure = Callable[[Floats, Floats], float]


def correlation(predicted: Floats, came: Floats) -> float:
    """Of all pairs."""
    return float(np.corrcoef(predicted, came)[0, 1])


def ranked(predicted: Floats, came: Floats) -> float:
    """How often a rise has a larger prediction than a fall (the area under the ROC curve); .5 is chance."""
    rises, falls = predicted[came > 0], predicted[came < 0]
    if not len(rises) or not len(falls):
        return math.nan
    above = np.sign(rises[:, None] - falls)
    return float((above + 1).mean() / 2)


def over_runs(pairs: Pairs, measure: Measure) -> str:
    """A measure of all pairs together, with a 95 % interval over runs."""
    if not sum(len(came) for _, came in pairs):
        return "-"

    def of(chosen: Pairs) -> float:
        return measure(*(np.concatenate(each) for each in zip(*chosen, strict=True)))

    value = of(pairs)
    if math.isnan(value):
        return "-"
    rng = np.random.default_rng(0)
    drawn = [of([pairs[place] for place in rng.integers(len(pairs), size=len(pairs))]) for _ in range(DRAWS)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def windows(runs: Sequence[LawRecord]) -> str:
    """The change of held-out rewards between two validations, by the mean covariance of the steps between them."""
    rows = []
    for estimator, testbed in sorted({(run.estimator, run.testbed) for run in runs}):
        chosen = [run for run in runs if (run.estimator, run.testbed) == (estimator, testbed)]
        for name in chosen[0].names:
            pairs = [window_pairs(run, name) for run in chosen]
            rows.append([estimator, testbed, name, *line(pairs)])
    header = [
        "estimator",
        "testbed",
        "objective",
        "windows",
        "falls: c < 0 in",
        "rises: c > 0 in",
        "c is larger for a rise",
        "correlation",
    ]
    return table(header, rows)


def window_pairs(run: LawRecord, name: str) -> tuple[Floats, Floats]:
    """The mean covariance, and the change of the held-out reward, of each window."""
    c_S, ends = run.of("covariance", [name])[:, 0], [int(step) for step in run.held_out["step"]]
    means = [np.nanmean(c_S[first:last]) for first, last in pairwise(ends)]
    return np.array(means), np.diff(run.held_out[name])


def line(pairs: Pairs) -> list[str]:
    """Clear falls and rises, and how many of them were predicted; the correlation over all windows."""
    clear = [(c[np.abs(came) > CLEAR_CHANGE], came[np.abs(came) > CLEAR_CHANGE]) for c, came in pairs]
    total = sum(len(came) for _, came in pairs)
    falls, rises = (f"{sum(seen)} of {len(seen)}" for seen in (signs(clear, -1), signs(clear, 1)))
    return [str(total), falls, rises, over_runs(clear, ranked), over_runs(pairs, correlation)]


def signs(pairs: Pairs, sign: int) -> list[bool]:
    """Of what came with a sign, whether it was predicted."""
    return [bool(sign * c > 0) for predicted, came in pairs for c in predicted[sign * came > 0]]


def by_method(runs: Sequence[LawRecord]) -> str:
    """Accuracy of each run: what it did on held-out problems, and c."""
    rows = []
    for run in runs:
        accuracy = run.held_out["accuracy"]
        c, _ = window_pairs(run, "accuracy")
        place = f"{run.testbed}, base {run.base}, {run.estimator}"
        rows.append([place, run.method, *(f"{each:.2f}" for each in accuracy), *(f"{each:+.2f}" for each in c)])
    num = max(len(row) for row in rows)
    rows = [row for row in rows if len(row) == num]
    count = (num - 2) // 2
    header = [
        "testbed",
        "method",
        *(f"v{each}" for each in range(count + 1)),
        *(f"c{each + 1}" for each in range(count)),
    ]
    return table(header, rows)


def steps(runs: Sequence[LawRecord]) -> str:
    """A line a predictor: how many clear falls and rises of each objective it predicted; the correlation over all."""
    names = runs[0].names
    rows = []
    for kind, title in PREDICTORS.items():
        row = [title]
        for name in names:
            clear = [step_pairs(run, kind, name, only_clear=True) for run in runs]
            row += [f"{sum(seen)} of {len(seen)}" for seen in (signs(clear, -1), signs(clear, 1))]
        pairs = [step_pairs(run, kind, name, only_clear=False) for name in names for run in runs]
        rows.append([*row, f"{correlation(*(np.concatenate(each) for each in zip(*pairs, strict=True))):.2f}"])
    header = ["predicted by", *(f"{name}: {kind}" for name in names for kind in ("falls", "rises")), "correlation"]
    num = sum(int(np.isfinite(run.of("gain")).all(axis=1).sum()) for run in runs)
    return f"{len(runs)} runs, {num} steps.\n\n{table(header, rows)}"


def step_pairs(run: LawRecord, kind: str, name: str, *, only_clear: bool) -> tuple[Floats, Floats]:
    """What was predicted of an objective's steps, and the gain that the probe measured."""
    predicted_S, gain_S, error_S = (run.of(each, [name])[:, 0] for each in (kind, "gain", "gain error"))
    known_S = np.isfinite(predicted_S) & np.isfinite(gain_S)
    if only_clear:
        known_S &= np.abs(gain_S) > CLEAR * error_S
    return predicted_S[known_S], gain_S[known_S]


def by_run(runs: Sequence[LawRecord]) -> list[str]:
    """A table a run: the means over its steps."""
    parts = []
    for run in runs:
        gain_SM = run.of("gain")
        known_S = np.isfinite(gain_SM).all(axis=1)
        gain_SM = gain_SM[known_S]
        errors_M = gain_SM.std(axis=0, ddof=1) / len(gain_SM) ** 0.5
        means = {kind: run.of(kind)[known_S].mean(axis=0) for kind in ("own", "covariance", "plain", "cross-fitted")}
        for kind in ("plain", "cross-fitted"):  # in units of the gain: the factor that fits all objectives best
            each_M = means[kind]
            means[kind] = each_M * (each_M @ gain_SM.mean(axis=0)) / (each_M @ each_M)
        rows = [
            [
                name,
                f"{gain_SM[:, place].mean():+.4f} ± {errors_M[place]:.4f}",
                *(f"{each_M[place]:+.4f}" for each_M in means.values()),
            ]
            for place, name in enumerate(run.names)
        ]
        header = ["objective", "gain of a step", "on its own completions", "c", "plain, scaled", "cross-fitted, scaled"]
        parts.append(f"### {run.name} ({len(gain_SM)} steps)\n\n{table(header, rows)}")
    return parts


# -- figures ----------------------------------------------------------------------------------------------------------


def draw(runs: Sequence[LawRecord], folder: Path) -> None:
    """The paper's figures, of base 0 and seed 0."""
    runs = [run for run in runs if (run.base, run.seed) == (0, 0)]
    for estimator, number in (("reinforce", 1), ("grpo", 5)):
        chosen = [run for run in longest(runs) if run.estimator == estimator]
        if chosen:
            save(rewards(chosen), folder / f"interference-{number}.png")
    ctwa = [run for run in runs if run.method == "ctwa"]
    if ctwa:
        save(
            side_by_side(ctwa, {"log-weight": log_weights, "covariance": covariances}), folder / "interference-2-3.png"
        )
    measured = [run for run in runs if run.source == "engine" and run.method == "linear"]
    if measured:
        kinds = {kind: partial(cosines, kind) for kind in ("plain cosine", "cross-fitted cosine")}
        save(side_by_side(measured, kinds), folder / "interference-4.png")


Curves = dict[str, Floats]


def log_weights(run: LawRecord) -> Curves:
    """Of the paper's Figure 2."""
    return {name: np.log(run.of("weight", [name])[:, 0]) for name in run.names}


def covariances(run: LawRecord) -> Curves:
    """Of the paper's Figure 3."""
    return {name: smooth(run.of("covariance", [name])[:, 0]) for name in run.names}


def cosines(kind: str, run: LawRecord) -> Curves:
    """Of the paper's Figure 4."""
    return {pair.replace(":", " and "): smooth(run.of(kind, [pair])[:, 0]) for pair in run.steps.get(kind, ())}


def rewards(runs: Sequence[LawRecord]) -> Figure:
    """Of the paper's Figures 1 and 5: on held-out problems."""
    testbeds = sorted({run.testbed for run in runs})
    figure, names = Figure(figsize=(9, 2.6 * len(testbeds)), layout="constrained"), runs[0].names
    grid = figure.subplots(len(testbeds), len(names), squeeze=False)
    for row, testbed in enumerate(testbeds):
        for column, name in enumerate(names):
            grid[row, column].set_title(f"{testbed}: {name}", fontsize=9)
            for run in runs:
                if run.testbed == testbed:
                    width = 2 if run.method == "ctwa" else 1
                    grid[row, column].plot(run.held_out["step"], run.held_out[name], label=run.method, lw=width)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
    return figure


def side_by_side(runs: Sequence[LawRecord], kinds: Mapping[str, Callable[[LawRecord], Curves]]) -> Figure:
    """A row a run, a column a kind of number."""
    figure = Figure(figsize=(9, 2.2 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), len(kinds), squeeze=False)
    for row, run in enumerate(runs):
        for axes, (kind, curves) in zip(grid[row], kinds.items(), strict=True):
            axes.set_title(f"{run.testbed}, {run.estimator}, {run.method}: {kind}", fontsize=9)
            drawn = curves(run)
            axes.set_visible(bool(drawn))
            for name, values_S in drawn.items():
                axes.plot(range(1, len(values_S) + 1), values_S, label=name)
            if "log" not in kind:
                axes.axhline(0, color="gray", lw=0.6)
        grid[row, 0].legend(fontsize=6)
    return figure


def smooth(values_S: Floats, size: int = 5) -> Floats:
    """The mean of each value and those before it, up to so many."""
    return np.array([values_S[max(0, step + 1 - size) : step + 1].mean() for step in range(len(values_S))])


def save(figure: Figure, path: Path) -> None:
    """Write it, and say so."""
    figure.savefig(path, dpi=72)
    print(f"\n{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
