import pytest
import torch

import ctwa
from ctwa.errors import CtwaError
from ctwa.scalarizers import Scalarizer, build_scalarizer
from ctwa.scalarizers.dvao import DvaoConfig
from tests.scalarizers.rollouts import Scores, rollout_of, standardised, update_of


def dvao(weights: dict | None = None, *, scale_invariant: bool = True, **options) -> Scalarizer:
    weights = weights or {"a": 1.0, "b": 1.0}
    return build_scalarizer(DvaoConfig(**options), weights, scale_invariant=scale_invariant)


def test_by_hand():
    """Spreads sqrt(1/3) and 2, weights 2 and 1: the centred weighted sum over 2 sqrt(1/3) + 2."""
    columns = {"a": [0.0, 1.0, 0.0, 1.0], "b": [0.0, 0.0, 0.0, 4.0]}
    method = dvao({"a": 2.0, "b": 1.0})
    rollout = rollout_of(columns)
    advantages_NT = method.advantages(rollout, Scores(transform=standardised))

    total = 2 * (1 / 3) ** 0.5 + 2
    assert advantages_NT[:, 0].tolist() == pytest.approx([each / total for each in (-2, 0, -2, 4)], abs=1e-5)
    metrics = method.observe_update(update_of(rollout, advantages_NT))
    assert metrics["dvao/weight/a"] == pytest.approx(2 * (1 / 3) ** 0.5 / total)
    assert metrics["dvao/weight/b"] == pytest.approx(2 / total)


def test_within_a_prompt_the_spread_is_at_most_1(make_batch):
    """The paper's bound; it is reached where all objectives say the same."""
    names = ["a", "b", "c"]
    for seed in range(5):
        batch = make_batch(names, seed=seed)
        advantages_NT = dvao({"a": 0.2, "b": 1.0, "c": 3.0}).advantages(batch.rollout, batch.estimate())
        assert (advantages_NT[:, 0].view(8, 4).std(1) <= 1 + 1e-9).all()
    same = rollout_of({"a": [1.0, 2.0, 4.0], "b": [10.0, 20.0, 40.0]})
    assert float(dvao().advantages(same, Scores(transform=standardised))[:, 0].std()) == pytest.approx(1, abs=1e-5)


def test_an_objective_that_does_not_vary_in_a_prompt_has_no_weight_there():
    rollout = rollout_of({"a": [0.1] * 4, "b": [1.0, 0.0, 1.0, 1.0]})
    method = dvao()
    advantages_NT = method.advantages(rollout, Scores(transform=standardised))
    torch.testing.assert_close(
        advantages_NT[:, 0], standardised(torch.tensor([1.0, 0.0, 1.0, 1.0]).double()), rtol=0, atol=1e-9
    )
    assert method.observe_update(update_of(rollout, advantages_NT))["dvao/weight/a"] == pytest.approx(0, abs=1e-12)


def test_where_no_objective_varies_none_has_a_weight():
    """.1 and .7 are not exact in binary: rounding has no spread."""
    rollout = rollout_of({"a": [0.1] * 3, "b": [0.7] * 3})
    method = dvao()
    advantages_NT = method.advantages(rollout, Scores(transform=standardised))
    assert method.observe_update(update_of(rollout, advantages_NT)) == {"dvao/weight/a": 0, "dvao/weight/b": 0}


def test_each_completion_is_weighed_over_the_objectives_that_apply_to_it():
    away = ctwa.NOT_APPLICABLE
    columns = {"a": [1.0, 3.0, away, away, away], "b": [away, 0.0, 1.0, 0.5, away]}
    method = dvao()
    rollout = rollout_of(columns)
    advantages_NT = method.advantages(rollout, Scores())
    spread_a, spread_b = 2**0.5, 0.5
    weight = spread_a / (spread_a + spread_b)
    assert advantages_NT[:, 0].tolist() == pytest.approx([1.0, weight * 3.0, 1.0, 0.5, 0.0])
    metrics = method.observe_update(update_of(rollout, advantages_NT))
    assert metrics["dvao/weight/a"] == pytest.approx((1 + weight) / 2)
    assert metrics["dvao/weight/b"] == pytest.approx((3 - weight) / 3)


def test_an_estimator_that_does_not_standardise_is_refused():
    with pytest.raises(CtwaError, match="dvao lets the advantage estimator standardise"):
        dvao(scale_invariant=False)
