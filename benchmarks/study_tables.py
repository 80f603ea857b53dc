"""The tables of a study, from its records.

Every difference is paired: of two methods on the same base model, seed and held-out problems. Its standard error is the
larger of that over seeds and problems on these bases (ctwa.statistics.paired_difference) and that over bases.
"Better" is said, for these bases, of pairs of methods whose difference remains after Holm's correction for all pairs of
the table that have runs enough.

    python benchmarks/study_tables.py [--records docs/results/data/study] [--testbeds A D] [--pairs]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from study_methods import CONTROLS
from study_records import Floats, RunRecord, read_records

from ctwa.report.markdown import table
from ctwa.report.verdict import ObjectiveSummary
from ctwa.statistics import Difference, clustered_error, holm, paired_difference

LEVEL = 0.05
LEAST_DEGREES = 3
"""Of freedom between the runs of a pair of which it may be said who is better: two runs are too often alike to the last
completion, and what is left is the error over problems."""
BASELINE = "linear"
RECORDS = Path(__file__).parents[1] / "docs/results/data/study"
Runs = dict[tuple[int, int], RunRecord]
"""One method's on one testbed, by base and seed."""
Measure = Callable[[RunRecord], Floats]
"""A number a problem, whose mean is the run's; one number of what no problem has by itself."""


# -- what is measured of a run ----------------------------------------------------------------------------------------


def mean_reward(run: RunRecord) -> Floats:
    """The mean over objectives at the end."""
    return run.last_MP.mean(0)


def hypervolume(run: RunRecord) -> Floats:
    """The product of the objectives' means at the end: the volume that they dominate over 0.

    A product is no mean over problems. Its first-order terms are: what a problem moves the objectives' means by, times
    the product's derivative (the delta method).
    """
    means_M = run.last_MP.mean(1)
    slopes_M = np.array([math.prod(np.delete(means_M, place)) for place in range(len(means_M))])
    return math.prod(means_M) + slopes_M @ (run.last_MP - means_M[:, None])


def least_change(run: RunRecord) -> Floats:
    """The least of what the objectives have gained, from before the first step to the end."""
    change_MP = run.last_MP - run.first_MP
    return change_MP[change_MP.mean(1).argmin()]


def worst_drawdown(run: RunRecord) -> Floats:
    """The furthest that any objective was below its best so far."""
    steps = [int(step) for step in run.held_out["step"]]
    curves = [[*zip(steps, run.held_out[name], strict=True)] for name in run.objectives]
    return np.array([max(ObjectiveSummary.of(curve).drawdown for curve in curves)])


MEASURES: dict[str, Measure] = {
    "hypervolume": hypervolume,
    "least change": least_change,
    "mean": mean_reward,
    "worst drawdown": worst_drawdown,
}
TESTED = ("hypervolume", "least change")
"""Of which it is said who is better."""


# -- methods beside each other ----------------------------------------------------------------------------------------


def by_method(records: Sequence[RunRecord]) -> dict[str, Runs]:
    """The runs of one testbed, by method; the baseline first."""
    methods: dict[str, Runs] = {}
    for each in sorted(records, key=lambda each: each.place.method != BASELINE):
        methods.setdefault(each.place.method, {})[each.place.base, each.place.seed] = each
    return methods


def searched(methods: dict[str, Runs]) -> Runs:
    """What a search for a static weight would have ended with, on each base and seed that has a run of every candidate.

    Equal weights and the controls are tried up to the first validation after the start. The one with the largest
    hypervolume then makes a whole run. With five validations a run, five candidates cost the search one run more.
    """
    candidates = [methods.get(name, {}) for name in (BASELINE, *CONTROLS)]
    places = set.intersection(*(set(runs) for runs in candidates))
    return {
        place: max(
            (runs[place] for runs in candidates), key=lambda run: math.prod(run.held_out_at(run.held_out["step"][1]))
        )
        for place in sorted(places)
    }


def difference(one: Runs, other: Runs, measure: Measure) -> Difference | None:
    """Of two methods on the bases and seeds that both have; None where there is none."""
    shared = sorted(one.keys() & other.keys())
    if not shared:
        return None
    return over_bases(np.array([measure(one[key]) - measure(other[key]) for key in shared]), [at for at, _ in shared])


def over_bases(differences_RP: Floats, bases_R: Sequence[int]) -> Difference:
    """A paired difference, whose error is no smaller than what the bases vary by.

    The p-value is of these bases as they are. Of bases with one run each and one with several the error within them is
    that of the one.
    """
    found = paired_difference(differences_RP, bases_R)
    error = clustered_error(differences_RP.mean(1), np.array(bases_R))
    known = [each for each in (found.standard_error, error) if each is not None and not math.isnan(each)]
    return found._replace(standard_error=max(known, default=None))


def better(methods: dict[str, Runs], measure: Measure) -> dict[str, list[str]]:
    """For each method those that it is better than, by Holm's correction for all pairs."""
    pairs, found = [], []
    for one, other in combinations(methods, 2):
        each = difference(methods[one], methods[other], measure)
        if each is not None and each.p_value is not None and each.degrees >= LEAST_DEGREES:
            pairs.append((one, other) if each.mean > 0 else (other, one))
            found.append(each.p_value)
    wins: dict[str, list[str]] = {method: [] for method in methods}
    for (winner, loser), adjusted in zip(pairs, holm(found), strict=True):
        if adjusted < LEVEL:
            wins[winner].append(loser)
    return wins


def report(records: Sequence[RunRecord]) -> str:
    """All tables of all testbeds, as Markdown."""
    parts = []
    for testbed in sorted({each.place.testbed for each in records}):
        methods = by_method([each for each in records if each.place.testbed == testbed])
        found = searched(methods)
        with_search = methods | ({"static-search": found} if found else {})
        tables = [told(with_search) for told in (held_by, ends, leasts, against)]
        parts += [f"### Testbed {testbed}", *tables, equal_time(methods)]
    return "\n\n".join(parts)


def held_by(methods: dict[str, Runs]) -> str:
    """Over which bases and seeds the tables hold."""
    runs = [run for each in methods.values() for run in each.values()]
    bases = {run.place.base: run for run in sorted(runs, key=lambda run: -run.place.seed)}  # each by its first seed
    starts = [
        f"base {base} (seed {run.model['sft_seed']}, {run.model['num_sft_steps']} steps, SHA-256 "
        f"{run.model['sha256'][:12]}): "
        + ", ".join(f"{name} {value:.3f}" for name, value in zip(run.objectives, run.first_MP.mean(1), strict=True))
        for base, run in sorted(bases.items())
    ]
    seeds = ", ".join(map(str, sorted({run.place.seed for run in runs})))
    steps = " or ".join(map(str, sorted({run.steps for run in runs})))
    processors = "; ".join(sorted({run.made_with["processor"] for run in runs}))
    loose = sum(not run.is_of_a_commit for run in runs)
    commits = f" {loose} of the {len(runs)} runs are of code that was not committed." if loose else ""
    return (
        f"{steps} steps; {runs[0].last_MP.shape[1]} held-out problems, {runs[0].completions} completions each; seeds "
        f"{seeds} on {'; '.join(starts)}. Processor: {processors}.{commits}"
    )


def ends(methods: dict[str, Runs]) -> str:
    """A line a method: where its runs ended."""
    names = next(iter(next(iter(methods.values())).values())).objectives
    wins = {name: better(methods, MEASURES[name]) for name in TESTED}
    header = ["method", "runs", *names, *MEASURES, *(f"better in {name} than" for name in TESTED)]
    rows = []
    for method, runs in methods.items():
        means_RM = np.array([run.last_MP.mean(1) for run in runs.values()])
        measured = [
            f"{np.mean([measure(run).mean() for run in runs.values()]):{'+' if name == 'least change' else ''}.3f}"
            for name, measure in MEASURES.items()
        ]
        said = [_listed(wins[name][method], len(methods)) for name in TESTED]
        rows.append([method, str(len(runs)), *(f"{each:.3f}" for each in means_RM.mean(0)), *measured, *said])
    return table(header, rows)


def leasts(methods: dict[str, Runs]) -> str:
    """A line a method: which objective gained least or lost most in each run, with its standard error over problems."""
    places = sorted({place for runs in methods.values() for place in runs})
    rows = [[method, *(_least(runs.get(place)) for place in places)] for method, runs in methods.items()]
    return table(["gained least", *(f"base {base}, seed {seed}" for base, seed in places)], rows)


def _least(run: RunRecord | None) -> str:
    if run is None:
        return "-"
    change_MP = run.last_MP - run.first_MP
    least = int(change_MP.mean(1).argmin())
    error = change_MP[least].std(ddof=1) / math.sqrt(change_MP.shape[1])
    return f"{run.objectives[least]} {change_MP[least].mean():+.3f} ± {error:.3f}"


def against(methods: dict[str, Runs], baselines: Sequence[str] = (BASELINE, "static-375")) -> str:
    """A line a method: its differences from the baselines, each with its standard error."""
    there = [name for name in baselines if name in methods]
    header = ["method", *(f"{name} above {other}" for other in there for name in MEASURES)]
    rows = [
        [
            method,
            *(
                "" if method == other else shown(difference(runs, methods[other], measure))
                for other in there
                for measure in MEASURES.values()
            ),
        ]
        for method, runs in methods.items()
    ]
    return table(header, rows)


def pairs(methods: dict[str, Runs], measure: Measure) -> str:
    """Every method above every other."""
    rows = [
        [one, *("" if one == other else shown(difference(methods[one], methods[other], measure)) for other in methods)]
        for one in methods
    ]
    return table(["above", *methods], rows)


def equal_time(methods: dict[str, Runs]) -> str:
    """The same at equal time: that of the baseline's whole run.

    A method's time is the processor's, in its runs over the baseline's on the same bases, seeds and kind of processor:
    the clock on the wall would measure what else the machine did. What a method had at that time is between two
    measurements; one that takes less than the baseline has made all of its steps.
    """
    if BASELINE not in methods:
        return ""
    costs = {method: cost(runs, methods[BASELINE]) for method, runs in methods.items()}
    known = {method: each for method, each in costs.items() if each is not None}
    names = next(iter(methods[BASELINE].values())).objectives
    rows = []
    for method, own in known.items():
        share = min(1.0, 1 / own)
        at = {key: run.held_out_at(share * run.steps) for key, run in methods[method].items()}
        means_RM = np.array([*at.values()])
        base = {key: run.held_out_at(run.steps) for key, run in methods[BASELINE].items()}
        shared = sorted(at.keys() & base.keys())
        gained = over_bases(
            np.array([[np.prod(at[key]) - np.prod(base[key])] for key in shared]), [each for each, _ in shared]
        )
        volume = f"{np.mean([np.prod(each) for each in means_RM]):.3f}"
        above = "" if method == BASELINE else shown(gained)
        means = [f"{each:.3f}" for each in means_RM.mean(0)]
        rows.append([method, f"{own:.2f}", f"{share:.0%}", *means, volume, above])
    header = ["method", "time over linear's", "of its steps at equal time", *names, "hypervolume", "above linear"]
    return table(header, rows)


def cost(runs: Runs, baseline: Runs) -> float | None:
    """The processor's time of a method's runs over the baseline's; None without a run on the same kind in common."""
    shared = [
        key
        for key in sorted(runs.keys() & baseline.keys())
        if runs[key].made_with["processor"] == baseline[key].made_with["processor"]
    ]
    if not shared:
        return None
    return float(np.mean([runs[key].seconds["cpu"] / baseline[key].seconds["cpu"] for key in shared]))


# -- text -------------------------------------------------------------------------------------------------------------


def shown(each: Difference | None) -> str:
    """+0.021 ± 0.008."""
    if each is None:
        return "-"
    return f"{each.mean:+.3f}" + ("" if each.standard_error is None else f" ± {each.standard_error:.3f}")


def _listed(names: Sequence[str], num_methods: int) -> str:
    return "all others" if names and len(names) == num_methods - 1 else ", ".join(names) or "-"


def _sections(records: Sequence[RunRecord]) -> Iterator[str]:
    for testbed in sorted({each.place.testbed for each in records}):
        methods = by_method([each for each in records if each.place.testbed == testbed])
        for name in TESTED:
            yield f"### Testbed {testbed}: {name}\n\n{pairs(methods, MEASURES[name])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--testbeds", nargs="+", default=["A", "C", "D", "F", "G"])
    parser.add_argument("--pairs", action="store_true", help="every method above every other, too")
    arguments = parser.parse_args()
    records = read_records(arguments.records, arguments.testbeds)
    print("\n\n".join([report(records), *(_sections(records) if arguments.pairs else ())]))


if __name__ == "__main__":
    main()
