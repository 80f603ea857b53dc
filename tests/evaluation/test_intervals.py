"""Intervals over prompts: right, paired, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from ctwa.evaluation import intervals
from ctwa.evaluation.intervals import Measured, Ratio, measure, resampled_sums

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
