import numpy as np
import pytest

from ctwa.report.curves import EMPTY, Curve, averaged, averaging_window, over_own_spans, over_seeds, resampled, thinned


def make(values, steps=None):
    return Curve(np.array(range(len(values)) if steps is None else steps), np.array(values, float))


def test_an_average_is_over_the_last_steps_and_fewer_at_first():
    assert averaged(make([2.0, 4.0, 6.0, 8.0]), 3).values == pytest.approx([2.0, 3.0, 4.0, 6.0])
    assert averaged(EMPTY, 3) is EMPTY


def test_seeds_meet_at_the_steps_that_all_have():
    found = over_seeds([make([1.0, 2.0, 3.0], [0, 1, 2]), EMPTY, make([4.0, 5.0], [1, 2])])
    assert found.steps.tolist() == [1, 2]
    assert found.values.tolist() == [3.0, 4.0]
    assert found.low is not None
    assert found.high is not None
    assert (found.low.tolist(), found.high.tolist()) == ([2.0, 3.0], [4.0, 5.0])


def test_one_seed_has_no_range():
    assert over_seeds([make([1.0, 2.0])]).low is None
    assert over_seeds([EMPTY, EMPTY]) is EMPTY


def test_a_thinned_curve_keeps_its_ends_and_its_extremes():
    values = np.sin(np.arange(10_000) / 500)
    values[1234], values[7777] = 5.0, -5.0
    found = thinned(Curve(np.arange(10_000), values, values - 1, values + 1), 100)
    assert len(found) <= 102
    assert (found.steps[0], found.steps[-1]) == (0, 9999)
    assert {1234, 7777} <= set(found.steps.tolist())
    assert np.array_equal(found.values, values[found.steps])
    assert found.low is not None
    assert np.array_equal(found.low, found.values - 1)


def test_a_short_curve_is_left_as_it_is():
    found = make([1.0, 2.0, 3.0])
    assert thinned(found, 3) is found


def test_the_window_grows_with_the_run():
    assert [averaging_window(steps) for steps in (10, 200, 400, 10_000)] == [5, 5, 10, 250]


def test_resampling_takes_the_mean_of_a_column_and_else_the_nearest():
    assert resampled(make([1.0, 3.0, 5.0], [0, 1, 100]), 0, 100, 3) == [2.0, 2.0, 5.0]
    assert resampled(make([1.0, 5.0], [0, 10]), 0, 10, 4) == [1.0, 1.0, 5.0, 5.0]
    assert resampled(make([2.0], [3]), 3, 3, 2) == [2.0, 2.0]
    assert resampled(EMPTY, 0, 3, 2) == []


def test_the_mean_over_own_spans_begins_and_ends_with_those_of_the_curves():
    one = Curve(np.array([0, 10, 20]), np.array([1.0, 2.0, 3.0]))
    other = Curve(np.array([5, 10]), np.array([5.0, 6.0]))
    found = over_own_spans([one, EMPTY, other])
    assert found.points == [(0, 3.0), (5, 3.0), (10, 4.0), (20, 4.5)]
    assert over_own_spans([one]) is one
    assert over_own_spans([]) is EMPTY
