"""TRL's estimator in our hands: what takes part, and what it gives away of its own arithmetic."""

from __future__ import annotations

import torch

from ctwa.batch import RewardMatrix, Rollout
from ctwa.integrations.trl.estimate import Answered, TrlEstimate
from ctwa.integrations.trl.window import prompts_of

MASK_NT = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [1, 1], [1, 1]])
SCORES_N = torch.tensor([1.0, 2.0, 6.0, 0.5, 0.5, 0.5], dtype=torch.float64)
ROLLOUT = Rollout(RewardMatrix.from_columns({"score": SCORES_N.tolist()}), prompts_of(6, 3), MASK_NT)


def test_scores_are_centred_in_their_prompt_and_divided_as_asked() -> None:
    centred_N = torch.tensor([-2.0, -1.0, 3.0, 0, 0, 0])
    for scale, std in {"none": 1.0, "group": 7**0.5 + 1e-4, "batch": float(SCORES_N.std()) + 1e-4}.items():
        advantages_NT = TrlEstimate(ROLLOUT, scale)(SCORES_N)
        torch.testing.assert_close(advantages_NT, (centred_N / std)[:, None] * MASK_NT)


def test_rows_that_take_no_part_change_nothing_and_what_is_left_alone_has_no_advantage() -> None:
    rows_N = torch.tensor([True, False, True, True, False, False])
    for scale in ("group", "batch", "none"):
        estimate = TrlEstimate(ROLLOUT, scale)
        one_NT, other_NT = (estimate(torch.where(rows_N, SCORES_N, noise), rows_N) for noise in (0.0, 1e6))
        assert torch.equal(one_NT, other_NT)
        assert (one_NT[~rows_N] == 0).all()
        assert (one_NT[3] == 0).all()
        assert one_NT[2, 0] == -one_NT[0, 0] > 0


def test_what_trl_was_asked_is_answered_by_trl() -> None:
    own_N = torch.arange(6.0)
    estimate = TrlEstimate(ROLLOUT, "group", Answered(SCORES_N, own_N))

    assert torch.equal(estimate(SCORES_N.clone())[:, 0], own_N)
    assert not torch.equal(estimate(2 * SCORES_N)[:, 0], own_N)
