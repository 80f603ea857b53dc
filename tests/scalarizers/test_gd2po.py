from dataclasses import replace

import pytest
import torch

import ctwa
from ctwa.batch import RewardMatrix, Rollout
from ctwa.errors import CtwaError
from ctwa.scalarizers import Scalarizer, build_scalarizer
from ctwa.scalarizers.gd2po import Gd2poConfig
from ctwa.scalarizers.gdpo import GdpoConfig
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

# |sum| / sum of sizes: agree, 0.2 / 1.8, 0.9 / 1.1, agree.
COLUMNS = {"a": [1.0, 1.0, 1.0, -1.0], "b": [0.5, -0.8, -0.1, -0.5]}


def gd2po(weights: dict | None = None, *, scale_invariant: bool = True, **options) -> Scalarizer:
    weights = weights or {"a": 1.0, "b": 1.0}
    return build_scalarizer(Gd2poConfig(**options), weights, scale_invariant=scale_invariant)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, [1.5, 0.2, 0.9, -1.5]),
        (0.1, [1.5, 0.2, 0.9, -1.5]),
        (0.8, [0.75 * 1.5, 0.0, 0.75 * 0.9, -0.75 * 1.5]),
        (1.0, [0.5 * 1.5, 0.0, 0.0, -0.5 * 1.5]),
    ],
)
def test_by_hand(threshold, expected):
    got = gd2po(threshold=threshold, batch_normalize=False).advantages(rollout_of(COLUMNS), Scores())
    assert got[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_what_is_kept_is_brought_to_mean_0_and_spread_1():
    """1.125, 0.675, -1.125: mean 0.225, population standard deviation sqrt(0.945)."""
    got = gd2po().advantages(rollout_of(COLUMNS, lengths=[1, 2, 2, 1]), Scores())
    spread = 0.945**0.5 + 1e-4
    assert got[:, 0].tolist() == pytest.approx([0.9 / spread, 0.0, 0.45 / spread, -1.35 / spread], abs=1e-6)


def test_a_prompt_counts_by_its_kept_share():
    """Two prompts with the same agreeing completions; the second has conflicting ones beside them."""
    columns = {"a": [1.0, -1.0, 1.0, -1.0, 1.0, -1.0], "b": [1.0, -1.0, 1.0, -1.0, -1.0, 1.0]}
    rewards = RewardMatrix.from_columns(columns)
    rollout = Rollout(rewards, torch.tensor([0, 0, 1, 1, 1, 1]), torch.ones(6, 2))
    got = gd2po(batch_normalize=False).advantages(rollout, Scores())
    assert got[:, 0].tolist() == pytest.approx([2, -2, 1, -1, 0, 0])


def test_a_completion_that_the_loss_does_not_see_counts_for_nobody():
    rollout = rollout_of(COLUMNS)
    rejected_NT = torch.tensor([False, True, False, False])[:, None].expand(4, 2)
    rollout = replace(rollout, rejected_NT=rejected_NT)
    method = gd2po(threshold=1.0, batch_normalize=False)
    advantages_NT = method.advantages(rollout, Scores())
    # Of the three others the third has both signs.
    assert advantages_NT[[0, 2, 3], 0].tolist() == pytest.approx([1.0, 0.0, -1.0])
    assert method.observe_update(update_of(rollout, advantages_NT))["gd2po/masked_frac"] == pytest.approx(1 / 3)


def test_the_weights_say_which_sign_wins():
    columns = {"a": [1.0, -1.0], "b": [-1.0, 1.0]}
    even, uneven = (
        gd2po({"a": weight, "b": 1.0}, batch_normalize=False).advantages(rollout_of(columns), Scores())
        for weight in (1.0, 10.0)
    )
    # 9 / 11 is above the threshold.
    assert even[:, 0].tolist() == [0, 0]
    assert uneven[:, 0].tolist() == pytest.approx([9, -9])


def test_at_threshold_0_it_is_gdpo(make_batch):
    names = ["a", "b", "c"]
    batch, weights = make_batch(names), {"a": 0.5, "b": 0.3, "c": 1.0}
    one = gd2po(weights, threshold=0.0).advantages(batch.rollout, batch.estimate())
    gdpo = build_scalarizer(GdpoConfig(), weights, scale_invariant=True)
    torch.testing.assert_close(one, gdpo.advantages(batch.rollout, batch.estimate()), rtol=0, atol=1e-6)


def test_a_higher_threshold_masks_more(make_batch):
    names = ["a", "b", "c"]
    batch, masked = make_batch(names), []
    for threshold in (0.0, 0.3, 0.8, 1.0):
        method = gd2po(dict.fromkeys(names, 1.0), threshold=threshold)
        advantages_NT = method.advantages(batch.rollout, batch.estimate())
        metrics = method.observe_update(batch.update(advantages_NT))
        masked.append(metrics["gd2po/masked_frac"])
        assert float((advantages_NT == 0).all(1).double().mean()) == pytest.approx(masked[-1])
    assert masked == sorted(set(masked))
    assert masked[0] == 0
    assert masked[-1] == metrics["gd2po/conflict_frac"]


def test_opposite_objectives_leave_nothing():
    columns = {"a": [1.0, -1.0], "b": [-1.0, 1.0]}
    method = gd2po()
    rollout = rollout_of(columns)
    advantages_NT = method.advantages(rollout, Scores())
    assert not advantages_NT.any()
    assert method.observe_update(update_of(rollout, advantages_NT)) == {
        "gd2po/conflict_frac": 1.0,
        "gd2po/masked_frac": 1.0,
    }


def test_rounding_is_no_conflict():
    """An objective whose completions are all alike has advantages of the size of rounding, of either sign."""
    columns = {"a": [1.0, -1.0], "b": [-1e-9, 1e-9]}
    method = gd2po(threshold=1.0, batch_normalize=False)
    assert method.advantages(rollout_of(columns), Scores())[:, 0].tolist() == pytest.approx([1.0, -1.0])


def test_a_completion_is_judged_by_the_objectives_that_apply_to_it():
    away = ctwa.NOT_APPLICABLE
    columns = {"a": [1.0, 1.0, away, away], "b": [away, -1.0, -1.0, away]}
    method = gd2po(batch_normalize=False)
    rollout = rollout_of(columns)
    advantages_NT = method.advantages(rollout, Scores())
    # Two of the three that are judged are kept.
    assert advantages_NT[:, 0].tolist() == pytest.approx([2 / 3, 0, -2 / 3, 0])
    assert method.observe_update(update_of(rollout, advantages_NT))["gd2po/masked_frac"] == pytest.approx(1 / 3)


def test_a_completion_that_lacks_a_reward_counts_for_nobody():
    columns = {"a": [1.0, -1.0, 1.0, None, -1.0], "b": [1.0, -1.0, -1.0, 1.0, None], "c": [None] * 5}
    rewards = RewardMatrix.from_columns(columns)
    rollout = Rollout(rewards, torch.zeros(5, dtype=torch.int64), torch.ones(5, 2))
    method = gd2po(dict.fromkeys("abc", 1.0), batch_normalize=False)
    advantages_NT = method.advantages(rollout, Scores())
    # Two of the three that are judged are kept; c takes no part.
    assert advantages_NT[:, 0].tolist() == pytest.approx([4 / 3, -4 / 3, 0, 0, 0])
    assert method.observe_update(update_of(rollout, advantages_NT))["gd2po/masked_frac"] == pytest.approx(1 / 3)


def test_an_estimator_that_does_not_standardise_is_refused():
    with pytest.raises(CtwaError, match="gd2po lets the advantage estimator standardise"):
        gd2po(scale_invariant=False)
