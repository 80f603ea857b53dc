import pytest
import torch

from ctwa.batch import RewardMatrix, Rollout
from ctwa.errors import CtwaError
from ctwa.scalarizers import Requirements
from ctwa.scalarizers.base import weighted_scores
from ctwa.scalarizers.linear import Linear, LinearConfig


def linear(weights: dict[str, float]) -> Linear:
    return Linear(LinearConfig(), weights)


def rollout_of(columns: dict) -> Rollout:
    matrix = RewardMatrix.from_columns(columns)
    return Rollout(matrix, torch.tensor([0, 0, 1, 1]), torch.ones(4, 2))


def test_score_is_the_weighted_sum(make_batch):
    batch = make_batch(["a", "b"])
    scores_N = batch.rollout.rewards.rewards_NM @ torch.tensor([2.0, 0.5], dtype=torch.float64)
    advantages_NT = linear({"a": 2.0, "b": 0.5}).advantages(batch.rollout, batch.estimate())
    torch.testing.assert_close(advantages_NT, batch.estimate()(scores_N))


def test_it_asks_for_nothing_and_learns_nothing(make_batch):
    scalarizer = linear({"a": 1.0, "b": 3.0})
    assert make_batch(["a", "b"]).step(scalarizer) == {}
    assert scalarizer.weights == {"a": 1.0, "b": 3.0}
    assert scalarizer.requirements == Requirements(log_probs="none")


def test_an_unscored_reward_neither_helps_nor_harms():
    scores_N = weighted_scores(rollout_of({"a": [1.0, None, 0.0, 1.0], "b": [1, 1, 0, 0]}), {"a": 1.0, "b": 1.0})
    assert scores_N.tolist() == [2, 2, 0, 1]


def test_an_objective_may_have_weight_zero():
    rollout = rollout_of({"a": [1.0, 2.0, 3.0, 4.0], "b": [9.0, None, 9.0, 9.0]})
    assert weighted_scores(rollout, linear({"a": 1.0, "b": 0.0}).weights).tolist() == [1, 2, 3, 4]


def test_order_of_objectives_changes_no_bit(make_batch):
    names = [f"objective-{i}" for i in range(8)]
    batch = make_batch(names, unscored=0.1)
    weights = {name: 1 / (3 + i) for i, name in enumerate(names)}
    backwards = list(reversed(names))
    one = linear(weights).advantages(batch.rollout, batch.estimate())
    other = linear({name: weights[name] for name in backwards}).advantages(
        batch.in_order(backwards).rollout, batch.estimate()
    )
    assert torch.equal(one, other)


def test_state_fits_only_the_same_objectives_and_method():
    scalarizer = linear({"a": 1.0, "b": 1.0})
    scalarizer.load_state_dict(scalarizer.state_dict())
    with pytest.raises(CtwaError, match="objectives"):
        scalarizer.load_state_dict(linear({"a": 1.0, "c": 1.0}).state_dict())
    with pytest.raises(CtwaError, match="method 'ctwa' where this run has 'linear'"):
        scalarizer.load_state_dict(scalarizer.state_dict() | {"method": "ctwa"})
    with pytest.raises(CtwaError, match="version"):
        scalarizer.load_state_dict(scalarizer.state_dict() | {"version": 2})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": -1.0, "b": 1.0}, "'a' has the weight -1.0"),
        ({"a": float("nan"), "b": 1.0}, "'a' has the weight nan"),
        ({"a": 0.0, "b": 0.0}, "weight above 0"),
        ({}, "weight above 0"),
    ],
)
def test_weights_that_cannot_be(weights, message):
    with pytest.raises(CtwaError, match=message):
        linear(weights)


def test_rewards_must_be_of_the_same_objectives(make_batch):
    batch = make_batch(["a", "b"])
    with pytest.raises(CtwaError, match=r"rewards are of .*'b'.* but the weights of .*'c'"):
        linear({"a": 1.0, "c": 1.0}).advantages(batch.rollout, batch.estimate())
