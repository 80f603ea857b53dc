"""Methods with a bound on rewards: what is off it by rounding is at it, and what is off by more is not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctwa.batch import slack
from ctwa.errors import CtwaError
from ctwa.scalarizers import build_scalarizer, method_options
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

BOUNDS = (0.1, 0.7, 0.8, 1.1, 300.3)
ROUNDED: dict[str, Callable[[float], float]] = {
    "a float32": lambda bound: float(np.float32(bound)),
    "a sum": lambda bound: bound - 0.1 + 0.1,
    "from below": lambda bound: float(np.nextafter(bound, -np.inf)),
    "from above": lambda bound: float(np.nextafter(bound, np.inf)),
    "a float32 from below": lambda bound: float(np.nextafter(np.float32(bound), np.float32(-np.inf))),
    "a float32 from above": lambda bound: float(np.nextafter(np.float32(bound), np.float32(np.inf))),
}
LAGRANGIAN = {"objective": "b", "targets": {"a": 0.75}, "eta": 1.0}
REFUSING = {
    "compromise": (lambda bound: {"largest": {"a": bound}}, 1),
    "guard": (lambda bound: {"bounds": {"a": (0.0, bound)}, "warmup": 1}, 1),
    "saw": (lambda bound: {"lowest": {"a": bound}}, -1),
    "product": (lambda bound: {"offset": bound, "power": 1.0}, -1),
}
"""The option, and on which side of the bound there are no rewards."""
COUNTING = {
    "cgpo": lambda bound: {"constraints": {"a": bound}},
    "lagrangian": lambda bound: {**LAGRANGIAN, "at_least": {"a": bound}},
}


def step(method: str, options: dict, at: float, other: float) -> tuple[torch.Tensor, dict[str, float]]:
    scalarizer = build_scalarizer(method_options(method, **options), {"a": 1.0, "b": 1.0}, scale_invariant=True)
    rollout = rollout_of({"a": [at, at, other, other], "b": [0.0, 1.0, 0.0, 1.0]})
    advantages_NT = scalarizer.advantages(rollout, Scores(transform=lambda scores_N: scores_N - scores_N.mean()))
    return advantages_NT, scalarizer.observe_update(update_of(rollout, advantages_NT))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("method", [*REFUSING, *COUNTING])
@pytest.mark.parametrize("how", ROUNDED)
def test_a_reward_that_is_off_its_bound_by_rounding_is_at_it(method: str, bound: float, how: str) -> None:
    make, side = REFUSING.get(method) or (COUNTING[method], 1)
    options, sign = make(bound), -1 if method == "product" else 1
    other = sign * bound - side * bound / 2
    (exact_NT, exact), (got_NT, got) = (step(method, options, sign * at, other) for at in (bound, ROUNDED[how](bound)))
    torch.testing.assert_close(got_NT, exact_NT, rtol=1e-5, atol=1e-6 * bound)
    assert got == pytest.approx(exact, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("method", REFUSING)
def test_a_reward_that_is_beyond_its_bound_by_more_is_refused(method: str, bound: float) -> None:
    make, side = REFUSING[method]
    sign = -1 if method == "product" else 1
    with pytest.raises(CtwaError, match="'a' has the reward"):
        step(method, make(bound), sign * bound + side * 3 * slack(bound), sign * bound - side * bound / 2)


@pytest.mark.parametrize("bound", [*BOUNDS, 1e-9])
def test_a_reward_that_lacks_more_does_not_reach_its_bound(bound: float) -> None:
    for at in (0.0, bound - 3 * slack(bound)):
        assert step("cgpo", COUNTING["cgpo"](bound), at, 2 * bound)[1]["cgpo/broken_frac/a"] == 0.5
        assert step("lagrangian", COUNTING["lagrangian"](bound), at, 2 * bound)[1]["lagrangian/shortfall/a"] == 0.25
