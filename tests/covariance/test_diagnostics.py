import math

import pytest
import torch

from ctwa import NOT_APPLICABLE
from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.covariance import diagnostics
from ctwa.policy_loss import Vanilla

CLIP = Vanilla(0.2, 0.2)


def update_of(columns: dict, clip: Vanilla = CLIP) -> Update:
    """Two prompts of three completions of two tokens, with ratios from 0.7 to 1.4."""
    old_NT = torch.zeros(6, 2, dtype=torch.float64)
    new_NT = torch.linspace(0.7, 1.4, 12, dtype=torch.float64).reshape(6, 2).log()
    advantages_NT = torch.tensor([1.0, 0.5, -1.5, 0.3, -1.0, 0.7], dtype=torch.float64)[:, None].expand(6, 2)
    mask_NT = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [1, 1], [1, 1]])
    group_N = torch.tensor([0, 0, 0, 1, 1, 1])
    return Update(Rollout(RewardMatrix.from_columns(columns), group_N, mask_NT), advantages_NT, old_NT, new_NT, clip)


COLUMNS = {
    "b": [1.0, 0.0, 0.0, 1.0, 0.0, 1.0],
    "a": [0.2, 0.4, None, 0.1, 0.9, 0.3],
    "c": [0.3, 0.1, 0.1, 0.8, 0.6, 0.1],
}


def test_metrics_by_name():
    metrics = diagnostics(update_of(COLUMNS))
    shared = {"rollout/usable_groups", "clip/fraction", "clip/mass", "clip/distortion"}
    assert set(metrics) == shared | {
        f"{key}/{name}" for key in ("covariance", "correlation", "clip/bound") for name in "abc"
    }
    assert metrics["rollout/usable_groups"] == 1
    assert all(metrics[f"clip/bound/{name}"] <= metrics[f"covariance/{name}"] for name in "abc")
    assert 0 < metrics["clip/fraction"] < 1
    for name in "abc":
        assert 0 < abs(metrics[f"correlation/{name}"]) <= 1
        assert metrics[f"correlation/{name}"] * metrics[f"covariance/{name}"] > 0


def test_no_key_asks_verl_for_a_largest_or_a_least_value():
    assert not [key for key in diagnostics(update_of(COLUMNS)) if "max" in key or "min" in key]


def test_covariance_by_hand_where_nothing_is_clipped():
    update = update_of({"a": [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]}, Vanilla())
    ratio_NT = update.log_probs_new_NT.exp()
    w_N = update.advantages_NT[:, 0] * torch.where(torch.arange(6) == 1, ratio_NT[:, 0], ratio_NT.mean(1))
    by_hand = (w_N[0] - w_N[:3].mean()) / 3 / 2  # the second prompt's reward is constant
    metrics = diagnostics(update)
    assert metrics["covariance/a"] == pytest.approx(float(by_hand), abs=1e-12)
    assert (metrics["clip/fraction"], metrics["clip/mass"], metrics["clip/distortion"]) == (0, 0, 0)
    assert metrics["clip/bound/a"] == pytest.approx(metrics["covariance/a"], abs=1e-12)


def test_what_was_not_observed_is_left_out():
    metrics = diagnostics(update_of({"a": [1.0, None, None, None, None, 0.5], "b": COLUMNS["b"]}))
    assert "covariance/a" not in metrics
    assert "clip/bound/a" not in metrics
    assert metrics["rollout/usable_groups"] == 0.5
    assert all(math.isfinite(value) for value in metrics.values())


def test_order_of_objectives_changes_no_bit():
    assert diagnostics(update_of(COLUMNS)) == diagnostics(update_of(dict(sorted(COLUMNS.items()))))


def test_an_objective_of_some_prompts_is_measured_on_these_alone():
    away = NOT_APPLICABLE
    both = update_of({"a": [1.0, 0.0, 0.5, away, away, away], "b": [away, away, away, 0.2, 0.9, 0.3]})
    metrics = diagnostics(both)
    for name, rows in (("a", slice(0, 3)), ("b", slice(3, 6))):
        rollout = both.rollout
        rewards = RewardMatrix.from_columns({name: rollout.rewards.to_columns()[name][rows]})
        of_rows = Rollout(rewards, rollout.group_N[rows], rollout.mask_NT[rows])
        tensors = (both.advantages_NT[rows], both.log_probs_old_NT[rows], both.log_probs_new_NT[rows])
        alone = diagnostics(Update(of_rows, *tensors, both.loss))
        for key in ("covariance", "correlation", "clip/bound"):
            assert metrics[f"{key}/{name}"] == alone[f"{key}/{name}"]
    assert metrics["rollout/usable_groups"] == 1  # each on every prompt that it applies to
