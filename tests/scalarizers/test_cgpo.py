import pytest
import torch
from pydantic import ValidationError

import ctwa
from ctwa.errors import CtwaError
from ctwa.scalarizers.cgpo import Cgpo, CgpoConfig
from ctwa.scalarizers.linear import Linear, LinearConfig
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

WEIGHTS = {"help": 1.0, "safe": 0.0}


def cgpo(weights: dict = WEIGHTS, **constraints: float) -> Cgpo:
    return Cgpo(CgpoConfig(constraints=constraints or {"safe": 1.0}), weights)


def centred(scores_N: torch.Tensor) -> torch.Tensor:
    return scores_N - scores_N.mean()


def advantages(method: Cgpo, columns: dict) -> list[float]:
    return method.advantages(rollout_of(columns), Scores(transform=centred))[:, 0].tolist()


def test_by_hand():
    """The mean of what helps is 2, broken rules or not: the best completion breaks one and has nothing of it."""
    columns = {"help": [5.0, 3.0, 0.0, 0.0], "safe": [0.0, 1.0, 1.0, 0.0]}
    method = cgpo()
    assert advantages(method, columns) == [0.0, 1.0, -2.0, -2.0]
    rollout = rollout_of(columns)
    metrics = method.observe_update(update_of(rollout, torch.zeros(4, 2)))
    assert metrics == {"cgpo/broken_frac/safe": 0.5, "cgpo/masked_frac": 0.25}


def test_no_completion_that_breaks_a_rule_is_rewarded_and_all_others_are_as_in_linear(make_batch):
    names = ["a", "b", "c"]
    batch, weights = make_batch(names), {"a": 0.5, "b": 0.3, "c": 0.2}
    linear_NT = Linear(LinearConfig(), weights).advantages(batch.rollout, batch.estimate())
    got_NT = cgpo(weights, a=0.5, c=0.2).advantages(batch.rollout, batch.estimate())
    rewards_NM = batch.rollout.rewards.rewards_NM
    broken_N = (rewards_NM[:, 0] < 0.5) | (rewards_NM[:, 2] < 0.2)

    assert 0 < int(broken_N.sum()) < 32
    assert (got_NT[broken_N] <= 0).all()
    assert torch.equal(got_NT[broken_N], linear_NT[broken_N].clamp(max=0))
    assert torch.equal(got_NT[~broken_N], linear_NT[~broken_N])


def test_a_rule_that_could_not_be_seen_leaves_the_completion_out():
    columns = {"help": [5.0, 3.0, 0.0, 0.0], "safe": [None, 1.0, None, 1.0]}
    assert advantages(cgpo(), columns) == [0.0, 1.0, 0.0, -2.0]
    # A broken one is enough to know.
    columns |= {"true": [0.0, 1.0, 0.0, 1.0]}
    assert advantages(cgpo(WEIGHTS | {"true": 0.0}, safe=1.0, true=1.0), columns) == [0.0, 1.0, -2.0, -2.0]


def test_a_rule_is_about_the_completions_that_its_objective_applies_to():
    away = ctwa.NOT_APPLICABLE
    columns = {"help": [5.0, 3.0, 0.0, 0.0], "safe": [away, 0.0, away, 0.0]}
    method = cgpo()
    assert advantages(method, columns) == [3.0, 0.0, -2.0, -2.0]
    metrics = method.observe_update(update_of(rollout_of(columns), torch.zeros(4, 2)))
    assert metrics["cgpo/broken_frac/safe"] == 1.0


def test_mistakes_are_named():
    with pytest.raises(CtwaError, match=r"constraints names \['polite'\]"):
        cgpo(polite=1.0)
    with pytest.raises(ValidationError, match="constraints"):
        CgpoConfig(constraints={})
