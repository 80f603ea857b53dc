"""Small rollouts written out by hand, and estimators that are simple enough to check by eye."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.policy_loss import Vanilla


def rollout_of(columns: Mapping[str, Sequence[float | None]], *, lengths: Sequence[int] | None = None) -> Rollout:
    """A rollout of one prompt from ``name -> rewards``, of two tokens a completion where ``lengths`` says nothing."""
    rewards = RewardMatrix.from_columns(columns)
    num_rows = len(rewards.rewards_NM)
    lengths_N = torch.tensor([2] * num_rows if lengths is None else lengths)
    mask_NT = torch.arange(int(lengths_N.max())) < lengths_N[:, None]
    return Rollout(rewards, torch.zeros(num_rows, dtype=torch.int64), mask_NT)


def update_of(rollout: Rollout, advantages_NT: Tensor) -> Update:
    zeros_NT = torch.zeros(rollout.mask_NT.shape)
    return Update(rollout, advantages_NT, zeros_NT, zeros_NT, Vanilla())


@dataclass(frozen=True)
class Scores:
    """An estimator that passes the scores on as they are, on every token, and keeps them."""

    num_tokens: int = 2
    transform: Callable[[Tensor], Tensor] = lambda scores_N: scores_N
    scale_invariant: bool = False

    def __call__(self, scores_N: Tensor, rows_N: Tensor | None = None) -> Tensor:
        advantages_N = self.transform(scores_N)
        advantages_N = advantages_N if rows_N is None else torch.where(rows_N, advantages_N, 0.0)
        return advantages_N[:, None].expand(-1, self.num_tokens)


def standardised(scores_N: Tensor) -> Tensor:
    """GRPO's advantage, for one prompt."""
    return (scores_N - scores_N.mean()) / (scores_N.std() + 1e-6)
