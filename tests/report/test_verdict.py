import math

import numpy as np
import pytest

from ctwa.report import verdict as verdicts_module
from ctwa.report.groups import Group
from ctwa.report.trace import read_runs
from ctwa.report.verdict import Course, verdicts
from tests.run.runs import info


def points(*values):
    return [(10 * index, value) for index, value in enumerate(values)]


def judge(results, standard_error=None):
    """The verdict on one curve, each of whose results has the same standard error, or none."""
    errors = [] if standard_error is None else [(step, standard_error) for step, _ in results]
    return verdicts_module.judge([Course.of(results, errors)])


# With a standard error of 0.01 a difference counts from 1.96 * sqrt(2) * 0.01 = 0.0277 on.
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.5, 0.6, 0.7), "gained"),
        ((0.5, 0.51, 0.49), "kept"),
        ((0.5, 0.4, 0.3), "lost: below its start since step 10"),
        ((0.5, 0.4, 0.5, 0.4), "lost: below its start since step 30; below its start in step 10"),
        ((0.5, 0.7, 0.4), "lost: below its start since step 20, after a rise to 0.700 at step 10"),
        ((0.5, 0.8, 0.6), "gained, but 0.200 below its best, of step 10"),
        ((0.5, 0.4, 0.4, 0.6), "gained; below its start in steps 10 to 20"),
        ((0.5, 0.4, 0.5), "kept; below its start in step 10"),
        ((0.5, 0.6, 0.5), "kept; a rise of 0.100 until step 10 was lost"),
        ((0.5, 0.4, 0.5, 0.4, 0.5), "kept; below its start in step 10 and step 30"),
        ((0.5,), "unknown: one result alone, of step 0"),
    ],
)
def test_the_verdict_says_where(values, text):
    verdict = judge(points(*values), 0.01)
    assert verdict.text == text
    assert verdict.text.startswith(verdict.word)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ((0.5, 0.75, 0.25, 0.5), (10, 20)),
        ((0.5, 0.25, 0.75, 0.625), (0, 10)),
        ((0.75, 0.75, 0.5), (10, 20)),  # from the last time it was that good
        ((0.25, 0.5), None),
    ],
)
def test_a_drawdown_goes_from_its_top_to_its_bottom(values, steps):
    assert judge(points(*values), 0.01).drawdown_steps == steps


def rate_of_verdicts(draw_curve, num=1000):
    """How often a curve of noise is said to have gained or lost, and how often to have dipped in between."""
    rng = np.random.default_rng(0)
    found = [judge(draw_curve(rng)) for _ in range(num)]
    return (
        sum(verdict.word in ("gained", "lost") for verdict in found) / num,
        sum(verdict.dip is not None for verdict in found) / num,
    )


@pytest.mark.parametrize("num_results", [4, 5, 8, 10, 20, 50, 200, 1000])
def test_white_noise_without_standard_errors_gains_or_loses_one_time_in_twenty(num_results):
    changed, dipped = rate_of_verdicts(
        lambda rng: points(*0.5 + 0.03 * rng.normal(size=num_results)), num=1000 if num_results < 50 else 300
    )
    assert changed < 0.075
    assert dipped < 0.075


def test_a_change_of_three_standard_errors_of_it_is_told_without_standard_errors_as_well():
    change = 3 * 0.03 * math.sqrt(2 / 5)
    found, _ = rate_of_verdicts(
        lambda rng: points(*0.5 + change * np.linspace(0, 1, 100).round() + 0.03 * rng.normal(size=100)), num=300
    )
    assert found > 0.75


def test_a_rise_is_no_noise():
    assert judge(points(*np.linspace(0.2, 0.8, 4))).word == "gained"
    assert judge(points(*np.linspace(0.8, 0.2, 100))).word == "lost"


def test_start_and_end_are_means_of_as_many_results_and_share_none():
    verdict = judge(points(*[0.0] * 3, *[0.5] * 6, *[1.0] * 3))
    assert (verdict.summary.start, verdict.summary.end) == (0.0, 1.0)  # of 12 results three each


def test_rounding_is_no_change():
    for standard_error in (0.0, None):
        verdict = judge(points(*[0.2] * 6, 0.2 - 6e-17), standard_error)
        assert verdict.text == "kept"
        assert (verdict.summary.change, verdict.drawdown_steps) == (0, None)


@pytest.mark.parametrize("values", [(0.5, 0.6), (0.5, 0.4, 0.9)])
def test_fewer_than_four_results_without_standard_errors_tell_nothing_of_the_noise(values):
    verdict = judge(points(*values))
    assert (verdict.word, verdict.margin) == ("unknown", None)
    assert verdict.text.endswith(f"in {len(values)} results without standard errors, too few to tell")
    assert judge(points(0.5, 0.5)).word == "kept"


@pytest.mark.parametrize(
    ("rates", "word"),
    [
        ((*[0.0] * 9, 0.01), "kept"),
        ((*[1.0] * 9, 0.99), "kept"),
        ((0.0, 0.03), "kept"),  # Fisher's exact test of 0 and 3 of 100: p = .25
        ((0.0, 0.2), "gained"),
        ((1.0, 0.99, 0.8), "lost"),
    ],
)
def test_a_rate_of_0_or_1_is_no_surer_than_the_others(rates, word):
    results = points(*rates)
    errors = [(step, math.sqrt(rate * (1 - rate) / 99)) for step, rate in results]
    assert verdicts_module.judge([Course.of(results, errors)]).word == word


def test_the_noise_is_that_of_the_start_and_of_the_end():
    results = points(0.5, 0.5, 0.5, 0.6)
    errors = [(0, 0.03), (10, 0.5), (20, 0.5), (30, 0.04)]
    assert verdicts_module.judge([Course.of(results, errors)]).margin == pytest.approx(1.96 * 0.05, abs=1e-4)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.5, 0.6, math.nan), "unknown: no number since step 20"),
        ((0.5, math.nan, math.nan), "unknown: no number since step 10"),
        ((math.nan, math.nan, 0.7), "unknown: no number until step 20"),
        ((math.nan, math.nan), "unknown: none of its results is a number"),
        ((0.5, 0.5, math.nan, 0.5, 0.5), "kept"),
        (tuple([0.5] * 20 + [math.nan]), "unknown: no number since step 200"),
        (tuple([math.nan] + [0.5] * 20), "unknown: no number until step 10"),
    ],
)
def test_a_curve_that_begins_or_ends_without_a_number_is_not_judged(values, text):
    for standard_error in (0.01, None):
        assert judge(points(*values), standard_error).text == text


def test_a_dip_is_from_the_first_to_the_last_step_below_the_start_and_was_over_at_the_end():
    assert judge(points(0.5, 0.4, 0.5, 0.3, 0.5), 0.01).dip == (pytest.approx(0.2), 10, 30)
    assert judge(points(0.5, 0.4), 0.01).dip is None


SURE = {"val_standard_error/a": 0.01}


def judged(*runs):
    return verdicts(Group("linear", tuple(read_runs([run.path for run in runs]))))


@pytest.fixture
def seed(make_run):
    """A seed with these validations of a, by step."""

    def make(number, **steps):
        found = {int(step.removeprefix("at_")): {"val/a": value} | SURE for step, value in steps.items()}
        return make_run(f"seed-{number}", found, info(("a",), method="linear", seed=number))

    return make


def test_a_seed_that_ended_early_is_judged_over_its_own_span_and_named(seed):
    fallen = seed(0, at_0=0.5, at_20=0.5, at_40=0.1)
    crashed = seed(1, at_0=0.5, at_20=0.5)
    verdict = judged(fallen, crashed)["a"]
    assert (verdict.word, verdict.summary.change) == ("lost", pytest.approx(-0.2))
    assert verdict.text == "lost: below its start since step 40; seed-1 up to step 20 only"
    assert judged(fallen, seed(2, at_0=0.5))["a"].seeds == "seed-2 left out, with one result alone"


def test_seeds_that_were_validated_at_other_steps_are_judged_together(seed):
    verdict = judged(seed(0, at_0=0.5, at_10=0.3, at_20=0.2), seed(1, at_0=0.5, at_15=0.3, at_20=0.4))["a"]
    assert (verdict.word, verdict.summary.start, verdict.summary.end) == ("lost", 0.5, pytest.approx(0.3))
    assert verdict.margin == pytest.approx(1.96 * 0.01, abs=1e-4)  # of the mean of two changes
    assert verdict.seeds == ""


def training(step):
    return {"objective/a/mean": 0.9 - 0.008 * step, "objective/b/mean": 0.5}


@pytest.mark.parametrize("validated", [(0,), (0, 5, 10), ()])
def test_an_objective_whose_validations_do_not_go_on_is_judged_by_training(make_run, validated):
    steps = {step: training(step) if step else {} for step in range(101)}
    for step in validated:
        steps[step] |= {"val/a": 0.9} | SURE
    for step in range(0, 101, 10):
        steps[step] |= {"val/b": 0.5, "val_standard_error/b": 0.01}
    found = judged(make_run("run", steps, info(("a", "b"), method="linear", seed=0)))
    assert (found["a"].word, found["a"].source) == ("lost", "training")
    assert (found["b"].word, found["b"].source) == ("kept", "held-out")


def test_validations_that_go_on_count_and_training_does_not(make_run):
    steps = {step: training(step) | ({"val/a": 0.9} | SURE if step % 30 == 0 else {}) for step in range(100)}
    assert judged(make_run("run", steps, info(("a", "b"), method="linear", seed=0)))["a"].source == "held-out"
