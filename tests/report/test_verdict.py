import math

import pytest

from ctwa.report.verdict import judge


def points(*values):
    return [(10 * index, value) for index, value in enumerate(values)]


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


def test_without_standard_errors_the_jitter_of_the_curve_is_the_noise():
    # Steps of 0.1 up and down: a standard deviation of 0.1 / 0.954, and a margin of 2.77 of them.
    assert judge(points(0.5, 0.6, 0.5, 0.6, 0.5, 0.3)).margin == pytest.approx(0.2905, abs=1e-4)
    assert judge(points(0.5, 0.6, 0.5, 0.6, 0.5, 0.3)).word == "kept"
    assert judge(points(0.5, 0.5, 0.5, 0.5, 0.3)).word == "lost"


def test_rounding_is_no_change():
    for standard_error in (0.0, None):
        verdict = judge(points(*[0.2] * 6, 0.2 - 6e-17), standard_error)
        assert verdict.text == "kept"
        assert (verdict.summary.change, verdict.drawdown_steps) == (0, None)


def test_two_results_without_standard_errors_differ_by_more_than_a_few_percent():
    assert judge(points(0.5, 0.51)).word == "kept"
    assert judge(points(0.5, 0.6)).word == "gained"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.5, 0.6, math.nan), "unknown: no number since step 20"),
        ((0.5, math.nan, math.nan), "unknown: no number since step 10"),
        ((math.nan, math.nan, 0.7), "unknown: no number until step 20"),
        ((math.nan, math.nan), "unknown: none of its results is a number"),
        ((0.5, math.nan, 0.7), "gained"),
    ],
)
def test_a_curve_that_begins_or_ends_without_a_number_is_not_judged(values, text):
    for standard_error in (0.01, None):
        assert judge(points(*values), standard_error).text == text


def test_a_dip_is_from_the_first_to_the_last_step_below_the_start_and_was_over_at_the_end():
    assert judge(points(0.5, 0.4, 0.5, 0.3, 0.5), 0.01).dip == (pytest.approx(0.2), 10, 30)
    assert judge(points(0.5, 0.4), 0.01).dip is None
