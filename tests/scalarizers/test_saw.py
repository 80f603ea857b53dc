import pytest
import torch

import ctwa
from ctwa.errors import CtwaError
from ctwa.scalarizers import Scalarizer, build_scalarizer
from ctwa.scalarizers.saw import SawConfig
from tests.scalarizers.rollouts import Scores, rollout_of, standardised, update_of

# Means 3/4 and 2, standard deviations 1/2 and 2 / sqrt(3): coefficients of variation 2/3 and 1 / sqrt(3).
COLUMNS = {"a": [0.0, 1.0, 1.0, 1.0], "b": [1.0, 3.0, 1.0, 3.0]}
CV_A, CV_B = 2 / 3, 3**-0.5


def saw(weights: dict | None = None, *, scale_invariant: bool = True, **options) -> Scalarizer:
    weights = weights or {"a": 1.0, "b": 1.0}
    return build_scalarizer(SawConfig(**options), weights, scale_invariant=scale_invariant)


def observed(method: Scalarizer, columns: dict) -> dict[str, float]:
    rollout = rollout_of(columns)
    return method.observe_update(update_of(rollout, method.advantages(rollout, Scores())))


def test_by_hand():
    method = saw({"a": 2.0, "b": 1.0})
    got = method.advantages(rollout_of(COLUMNS), Scores())
    share = CV_A / (CV_A + CV_B)
    expected = [2 * share * a + (1 - share) * b for a, b in zip(*COLUMNS.values(), strict=True)]
    assert got[:, 0].tolist() == pytest.approx(expected, rel=1e-6)
    metrics = observed(method, COLUMNS)
    assert metrics["saw/variation/a"] == pytest.approx(CV_A, rel=1e-6)
    assert metrics["saw/variation/b"] == pytest.approx(CV_B, rel=1e-6)
    assert metrics["saw/share/a"] + metrics["saw/share/b"] == pytest.approx(1)


def test_of_advantages_the_shares_are_times_their_number():
    """Standardised: the mean is 0 already, and the size of the sum is lost."""
    method = saw(apply_to="advantages")
    got = method.advantages(rollout_of(COLUMNS), Scores(transform=standardised))
    one, other = (standardised(torch.tensor(column).double()) for column in COLUMNS.values())
    total_N = 2 * (CV_A * one + CV_B * other) / (CV_A + CV_B)
    torch.testing.assert_close(got[:, 0], total_N / (total_N.std(correction=0) + 1e-4), rtol=0, atol=1e-6)


def test_a_unit_does_not_matter_and_a_zero_does():
    base = observed(saw(), COLUMNS)["saw/share/b"]
    scaled = observed(saw(), COLUMNS | {"b": [100 * value for value in COLUMNS["b"]]})["saw/share/b"]
    assert scaled == pytest.approx(base, rel=1e-6)
    # From the least reward up b has the mean 1 in place of 2.
    lowered = observed(saw(lowest={"b": 1.0}), COLUMNS)
    assert lowered["saw/variation/b"] == pytest.approx(2 * CV_B, rel=1e-6)
    shifted = COLUMNS | {"b": [value - 11 for value in COLUMNS["b"]]}
    assert observed(saw(lowest={"b": -10.0}), shifted)["saw/variation/b"] == pytest.approx(2 * CV_B, rel=1e-6)


def test_a_saturated_objective_loses_its_weight():
    shares = [
        observed(saw(), COLUMNS | {"a": column})["saw/share/a"]
        for column in ([0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0], [1.0] * 4)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0


@pytest.mark.parametrize("apply_to", ["rewards", "advantages"])
def test_without_any_variation_the_shares_are_equal(apply_to):
    metrics = observed(saw(apply_to=apply_to), {"a": [1.0] * 4, "b": [0.0] * 4})
    assert metrics["saw/share/a"] == metrics["saw/share/b"] == 0.5


@pytest.mark.parametrize("apply_to", ["rewards", "advantages"])
def test_an_objective_that_scored_nothing_takes_no_part(apply_to):
    away = ctwa.NOT_APPLICABLE
    method = saw({"a": 1.0, "b": 1.0, "c": 1.0}, apply_to=apply_to)
    metrics = observed(method, COLUMNS | {"c": [away, None, away, None]})
    assert metrics == pytest.approx(observed(saw(apply_to=apply_to), COLUMNS))
    nothing = rollout_of({name: [None] * 3 for name in "abc"})
    assert not method.advantages(nothing, Scores(transform=standardised)).any()


def test_variation_is_over_what_was_scored():
    away = ctwa.NOT_APPLICABLE
    columns = {"a": [*COLUMNS["a"], None, away], "b": [*COLUMNS["b"], 1.0, 3.0]}
    assert observed(saw(), columns)["saw/variation/a"] == pytest.approx(CV_A, rel=1e-6)


def test_a_reward_below_the_least_is_named():
    with pytest.raises(CtwaError, match=r"objective 'b' has the reward -1\.0.*option lowest=\{b: NUMBER\}"):
        observed(saw(), COLUMNS | {"b": [-1.0, 0.0, 1.0, 2.0]})


def test_mistakes_are_named():
    with pytest.raises(CtwaError, match=r"lowest names \['style'\]"):
        saw(lowest={"style": 0.0})
    with pytest.raises(CtwaError, match="saw with apply_to=advantages lets the advantage estimator standardise"):
        saw(scale_invariant=False, apply_to="advantages")
