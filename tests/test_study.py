"""benchmarks/study.py: what is kept of a run, and what its tables say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # one benchmark imports another, as scripts do

import study_records
import study_tables
from study_records import Place, RunRecord

NAMES = ("accuracy", "clarity", "conciseness")
PROBLEMS, COMPLETIONS = 60, 4


def a_run(method: str, base: int, seed: int, ends: Sequence[float], *, cpu: float = 10.0) -> RunRecord:
    """A run from a half to these means; which problems have the reward is drawn."""
    rng = np.random.default_rng([len(method), base, seed])

    def digits(means: Sequence[float]) -> dict[str, str]:
        return {
            name: "".join(map(str, rng.binomial(COMPLETIONS, mean, size=PROBLEMS)))
            for name, mean in zip(NAMES, means, strict=True)
        }

    return RunRecord(
        place=Place("D", base, method, seed),
        steps=20,
        settings=[],
        model={"sha256": "0" * 64, "sft_seed": base, "num_sft_steps": 365},
        completions=COMPLETIONS,
        training={name: [0.5, 0.6] for name in NAMES},
        weights={name: [0.3, 0.4] for name in NAMES},
        held_out={
            "step": [0, 10, 20],
            **{name: [0.5, 0.3, end] for name, end in zip(NAMES, ends, strict=True)},
        },
        first=digits([0.5] * 3),
        last=digits(ends),
        seconds={"cpu": cpu, "wall": 12.0},
        made_with={"processor": "x86_64", "commit": "abc"},
        options={"type": method},
    )


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = a_run("linear", 0, 1, (0.2, 0.6, 0.9))
    run.write(tmp_path)
    assert study_records.read_records(tmp_path, ["D"]) == [run]
    assert study_records.read_records(tmp_path, ["A"]) == []
    assert (tmp_path / "D-b0-linear-s1.json").stat().st_size < 4000
    assert "not committed" not in study_tables.report([run])
    loose = replace(run, made_with={"processor": "x86_64", "commit": "abc-dirty"})
    assert "1 of the 1 runs are of code that was not committed" in study_tables.report([loose])


def test_records_of_the_repository_name_a_commit_that_is_all_of_the_code(tmp_path: Path) -> None:
    study_records.check_committed("abc", study_tables.RECORDS)
    study_records.check_committed("abc-dirty", tmp_path)
    with pytest.raises(SystemExit, match=r"the code is not committed, and records in .* name its commit"):
        study_records.check_committed("abc-dirty", study_tables.RECORDS)


def test_a_digit_counts_the_completions_of_a_problem_that_had_the_reward() -> None:
    group_N = np.array([0, 0, 1, 1, 2, 2])
    assert study_records.as_digits(np.array([1.0, 0, 0, 0, 1, 1]), group_N, 2) == "102"
    for rewards_N, completions in ((np.array([0.5, 0, 0, 0, 1, 1]), 2), (np.array([1.0, 0, 0, 0, 1, 1]), 3)):
        with pytest.raises(ValueError, match="a digit a problem"):
            study_records.as_digits(rewards_N, group_N, completions)


def test_the_hypervolume_is_the_product_and_its_terms_vary_as_it_does() -> None:
    runs = [a_run("linear", 0, seed, (0.2, 0.6, 0.9)) for seed in range(400)]
    volumes = [study_tables.hypervolume(run) for run in runs]
    assert [each.mean() for each in volumes] == pytest.approx([run.last_MP.mean(1).prod() for run in runs])
    error = np.mean([each.std(ddof=1) / PROBLEMS**0.5 for each in volumes])
    assert error == pytest.approx(np.std([each.mean() for each in volumes]), rel=0.1)


def test_the_least_change_and_the_worst_drawdown_are_the_worst_objectives() -> None:
    run = a_run("linear", 0, 0, (0.2, 0.6, 0.9))
    changes_M = (run.last_MP - run.first_MP).mean(1)
    assert study_tables.least_change(run).mean() == pytest.approx(changes_M[0])
    assert study_tables.worst_drawdown(run) == pytest.approx([0.3])  # of accuracy, from .5 to .2


def test_only_what_is_beyond_chance_is_called_better() -> None:
    places = [(base, seed) for base in range(3) for seed in range(3)]
    ends = {"linear": (0.3, 0.6, 0.9), "same": (0.3, 0.6, 0.9), "better": (0.5, 0.65, 0.9)}
    methods = {method: {at: a_run(method, *at, of) for at in places} for method, of in ends.items()}
    assert study_tables.better(methods, study_tables.hypervolume) == {
        "linear": [],
        "same": [],
        "better": ["linear", "same"],
    }
    one_run = {method: {(0, 0): runs[0, 0]} for method, runs in methods.items()}
    assert not any(study_tables.better(one_run, study_tables.hypervolume).values())


def test_two_runs_that_are_alike_make_nothing_better() -> None:
    """With nothing between the runs the error is that over problems, which is small."""
    methods = {
        method: {(0, seed): replace(a_run(method, 0, 0, of), place=Place("D", 0, method, seed)) for seed in (0, 1)}
        for method, of in {"linear": (0.3, 0.6, 0.9), "guard": (0.6, 0.7, 0.9)}.items()
    }
    found = study_tables.difference(methods["guard"], methods["linear"], study_tables.hypervolume)
    assert found is not None
    assert (found.p_value or 0) < 0.001
    assert not any(study_tables.better(methods, study_tables.hypervolume).values())


def test_the_error_is_no_smaller_than_what_bases_vary_by() -> None:
    """Of three bases one has two runs, which are alike: they alone would give the error."""
    differences_RP = np.array([[0.26, 0.26], [0.26, 0.26], [0.24, 0.24], [0.05, 0.05]])
    found = study_tables.over_bases(differences_RP, [0, 0, 3, 4])
    means_B = np.array([0.26, 0.24, 0.05])
    assert found.mean == pytest.approx(0.2025)
    assert found.standard_error is not None
    assert found.standard_error > 0.85 * means_B.std(ddof=1) / 3**0.5
    assert study_tables.over_bases(differences_RP[:1], [0]).standard_error is None


def test_time_is_compared_on_one_kind_of_processor() -> None:
    mine, theirs = (a_run(method, 0, 0, (0.5, 0.5, 0.5), cpu=cpu) for method, cpu in (("linear", 10.0), ("mgda", 20.0)))
    assert study_tables.cost({(0, 0): theirs}, {(0, 0): mine}) == 2.0
    elsewhere = replace(theirs, made_with={"processor": "another", "commit": "abc"})
    assert study_tables.cost({(0, 0): elsewhere}, {(0, 0): mine}) is None
    quick = replace(theirs, seconds={"cpu": 9.0, "wall": 9.0})
    table = study_tables.equal_time({"linear": {(0, 0): mine}, "mgda": {(0, 0): quick}})
    assert "| mgda | 0.90 | 100% |" in table


def test_at_equal_time_a_method_of_twice_the_cost_has_made_half_of_its_steps() -> None:
    runs = {"linear": (0.3, 0.6, 0.9), "mgda": (0.5, 0.7, 0.9)}
    records = [
        a_run(method, base, 0, of, cpu=10.0 + 10.0 * (method == "mgda"))
        for method, of in runs.items()
        for base in (0, 1)
    ]
    table = study_tables.equal_time(study_tables.by_method(records)).splitlines()
    assert table[2].startswith("| linear | 1.00 | 100% | 0.300 | 0.600 | 0.900 | 0.162 |")
    assert table[3].startswith("| mgda | 2.00 | 50% | 0.300 | 0.300 | 0.300 | 0.027 | -0.135")
    assert "| linear | 2 | 0.3" in study_tables.report(records)


def test_the_search_takes_the_static_weight_that_leads_at_the_first_validation() -> None:
    records = [a_run(method, 0, 0, (0.5, 0.5, 0.5)) for method in ("linear", *study_tables.CONTROLS)]
    early = {"linear": 0.4, "static-450": 0.6}
    for record in records:
        for name in NAMES:
            record.held_out[name][1] = early.get(record.place.method, 0.3)  # type: ignore[index]
    methods = study_tables.by_method(records)
    assert study_tables.searched(methods) == {(0, 0): methods["static-450"][0, 0]}
    assert "| static-search | 1 |" in study_tables.report(records)
    assert "static-search" not in study_tables.report(records[:-1])
    assert study_tables.searched({"linear": methods["linear"]}) == {}
