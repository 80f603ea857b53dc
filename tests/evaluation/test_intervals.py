"""Intervals over prompts: right, paired, and the same every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ctwa.evaluation import intervals
from ctwa.evaluation.intervals import Measured, Ratio, measure, resampled_sums
from ctwa.statistics import t_interval

ONES = np.ones(200)
VALUES = np.random.default_rng(3).normal(1.0, 2.0, 200)


def measured_alone(ratios: list[Ratio]) -> list[Measured]:
    return measure({"metric": ratios})["metric"]


def mean(values: np.ndarray) -> Ratio:
    return Ratio(values, np.ones(len(values)))


def test_a_mean_has_its_usual_standard_error_and_interval() -> None:
    (measured,) = measured_alone([mean(VALUES)])
    error = VALUES.std(ddof=1) / np.sqrt(len(VALUES))

    assert measured.value == pytest.approx(VALUES.mean())
    assert measured.standard_error == pytest.approx(error)
    assert measured.low == pytest.approx(VALUES.mean() - 1.96 * error, abs=0.05)
    assert measured.high == pytest.approx(VALUES.mean() + 1.96 * error, abs=0.05)
    assert measured.difference is None


def test_the_same_prompts_give_the_same_interval_every_time() -> None:
    assert measured_alone([mean(VALUES), mean(VALUES**2)]) == measured_alone([mean(VALUES), mean(VALUES**2)])


def test_the_size_of_the_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resampled_sums(VALUES[:, None])
    monkeypatch.setattr(intervals, "_AT_ONCE", 200 * 64)

    np.testing.assert_allclose(resampled_sums(VALUES[:, None]), whole, rtol=1e-12)


def test_differences_are_paired() -> None:
    """A model that is better by the same everywhere is better for certain, however much the prompts vary."""
    _, measured = measured_alone([mean(VALUES), mean(VALUES + 0.25)])

    assert measured.difference is not None
    assert measured.difference.mean == pytest.approx(0.25)
    assert (measured.difference.low, measured.difference.high) == pytest.approx((0.25, 0.25))
    assert measured.high - measured.low > 0.3


def test_an_unpaired_difference_is_as_uncertain_as_both() -> None:
    other = np.random.default_rng(4).normal(1.0, 2.0, 200)
    first, second = measured_alone([mean(VALUES), mean(other)])

    expected = 1.96 * np.hypot(first.standard_error, second.standard_error)
    assert second.difference.high - second.difference.mean == pytest.approx(expected, rel=0.2)


def test_what_was_not_scored_counts_nowhere() -> None:
    scored = np.arange(200) < 50
    measured = measured_alone([Ratio(np.where(scored, VALUES, 0.0), scored.astype(float))])[0]

    assert measured.value == pytest.approx(VALUES[:50].mean())
    assert measured.standard_error == pytest.approx(VALUES[:50].std(ddof=1) / np.sqrt(50))
    assert measured.num_prompts == 50


def test_a_transform_is_applied_to_value_error_and_interval() -> None:
    plain, transformed = measured_alone([mean(VALUES)])[0], measured_alone([Ratio(VALUES, ONES, np.exp)])[0]

    assert transformed.value == pytest.approx(np.exp(plain.value))
    assert transformed.standard_error == pytest.approx(plain.standard_error * transformed.value, rel=1e-5)
    assert transformed.low == pytest.approx(np.exp(plain.low))


def test_one_prompt_has_no_interval_and_none_no_value() -> None:
    one = measured_alone([mean(VALUES[:1]), mean(VALUES[1:2])])[1]
    none = measured_alone([Ratio(np.zeros(5), np.zeros(5))])[0]

    assert (one.standard_error, one.low, one.difference.low) == (None, None, None)
    assert one.difference.mean == pytest.approx(VALUES[1] - VALUES[0])
    assert (none.value, none.standard_error, none.low) == (None, None, None)


def test_metrics_measured_together_are_as_measured_alone() -> None:
    metrics = {
        "all": [mean(VALUES), mean(VALUES**2)],
        "few": [mean(VALUES[:7]), mean(VALUES[7:14])],
        "exp": [Ratio(VALUES, ONES, np.exp), Ratio(VALUES / 2, ONES, np.exp)],
    }
    together = measure(metrics)

    assert list(together) == list(metrics)
    for name, ratios in metrics.items():
        for found, alone in zip(together[name], measured_alone(ratios), strict=True):
            assert found.value == alone.value
            assert (found.low, found.high) == pytest.approx((alone.low, alone.high), rel=1e-12)


SCORED = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_a_difference_is_over_the_prompts_that_both_have() -> None:
    """What the other model never answered, or could not be scored, is no difference between the two."""
    values = SCORED.copy()
    first, second = measured_alone([mean(values), Ratio(values * SCORED, SCORED)])
    assert (first.value, second.value) == (0.375, 1.0)
    assert second.difference == (0.0, 0.0, 0.0, 3)

    own, other = mean(VALUES), Ratio(VALUES * (VALUES > 0), (VALUES > 0).astype(float))
    assert measured_alone([own, other])[1].difference == (0.0, 0.0, 0.0, int((VALUES > 0).sum()))
    assert measured_alone([Ratio(values * (1 - SCORED), 1 - SCORED), Ratio(SCORED, SCORED)])[1].difference is None


@pytest.mark.parametrize("num", [2, 3, 5, 10, 20, 50])
def test_of_differences_that_are_none_one_of_twenty_seems_to_be_one(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Percentiles of resamples told every second one from 0 of two prompts, and one of seven of five."""
    monkeypatch.setattr(intervals, "NUM_DRAWS", 1000)
    rng = np.random.default_rng(num)
    pairs = {str(index): [mean(one), mean(other)] for index, (one, other) in enumerate(rng.normal(size=(400, 2, num)))}
    found = [of_pair[1].difference for of_pair in measure(pairs).values()]
    missed = np.mean([each.low > 0 or each.high < 0 for each in found])

    assert 0.02 < missed < 0.085  # of 400; the error of 0.05 is 0.011


@pytest.mark.parametrize("transform", [np.positive, np.exp])
def test_intervals_of_few_and_of_more_prompts_are_of_one_width(
    transform: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).normal(size=(2, intervals.FEW))
    ratios = [Ratio(each, np.ones(len(each)), transform) for each in values]
    more = measured_alone(ratios)[1]
    monkeypatch.setattr(intervals, "FEW", intervals.FEW + 1)
    few = measured_alone(ratios)[1]

    assert more.high - more.low == pytest.approx(few.high - few.low, rel=0.1)
    more, few = more.difference, few.difference
    assert more.high - more.low == pytest.approx(few.high - few.low, rel=0.1)


def test_few_values_have_student_s_interval_of_their_mean() -> None:
    few = VALUES[:6]
    first, second = measured_alone([mean(few), mean(few**2)])

    assert (first.value, first.low, first.high) == pytest.approx(t_interval(few)[:3])
    assert second.difference == pytest.approx(t_interval(few**2 - few))
    perplexity = measured_alone([Ratio(few, np.ones(6), np.exp)])[0]
    assert (perplexity.low, perplexity.high) == pytest.approx(tuple(np.exp(t_interval(few)[1:3])))
