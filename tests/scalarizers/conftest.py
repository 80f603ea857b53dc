import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.policy_loss import Vanilla
from ctwa.scalarizers import Scalarizer


@pytest.fixture(scope="session")
def goldens() -> dict:
    folder = Path(__file__).parents[1] / "goldens"
    return json.loads((folder / "methods.json").read_text()) | json.loads((folder / "reward_methods.json").read_text())


@dataclass(frozen=True)
class GroupEstimate:
    """Score minus the prompt's mean, over the prompt's standard deviation (GRPO) or not; the same on every token."""

    group_N: Tensor
    num_tokens: int
    scale_invariant: bool

    def __call__(self, scores_N: Tensor, rows_N: Tensor | None = None) -> Tensor:
        advantages_N = torch.zeros_like(scores_N)
        for group in self.group_N.unique():
            own_N = self.group_N == group if rows_N is None else (self.group_N == group) & rows_N
            scores = scores_N[own_N]
            if len(scores) > 1:
                spread = scores.std() + 1e-6 if self.scale_invariant else 1.0
                advantages_N[own_N] = (scores - scores.mean()) / spread
        return advantages_N[:, None].expand(-1, self.num_tokens)


@dataclass(frozen=True)
class Batch:
    """Eight prompts of four completions with the rewards of named objectives, and an update with noisy ratios."""

    rollout: Rollout
    log_ratio_NT: Tensor

    def estimate(self, *, scale_invariant: bool = True) -> GroupEstimate:
        return GroupEstimate(self.rollout.group_N, self.log_ratio_NT.shape[1], scale_invariant)

    def update(self, advantages_NT: Tensor) -> Update:
        old_NT = torch.zeros_like(self.log_ratio_NT)
        return Update(self.rollout, advantages_NT, old_NT, self.log_ratio_NT, Vanilla(0.2, 0.2))

    def step(self, scalarizer: Scalarizer, *, scale_invariant: bool = True) -> dict[str, float]:
        """One whole step: advantages, update, observation."""
        advantages_NT = scalarizer.advantages(self.rollout, self.estimate(scale_invariant=scale_invariant))
        return scalarizer.observe_update(self.update(advantages_NT))

    def in_order(self, names: list[str]) -> "Batch":
        rollout = self.rollout
        return Batch(Rollout(rollout.rewards.select(names), rollout.group_N, rollout.mask_NT), self.log_ratio_NT)

    def with_rows(self, order_N: Tensor) -> "Batch":
        rewards = self.rollout.rewards
        parts = (rewards.rewards_NM, rewards.scored_NM, rewards.applicable_NM)
        rewards = RewardMatrix(rewards.names, *(part_NM[order_N] for part_NM in parts))
        rollout = Rollout(rewards, self.rollout.group_N[order_N], self.rollout.mask_NT[order_N])
        return Batch(rollout, self.log_ratio_NT[order_N])


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(names: list[str], *, seed: int = 0, unscored: float = 0.0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        rewards_NM = torch.rand(32, len(names), dtype=torch.float64, generator=generator)
        scored_NM = torch.rand(32, len(names), generator=generator) >= unscored
        mask_NT = torch.arange(6) < torch.randint(1, 7, (32, 1), generator=generator)
        log_ratio_NT = 0.2 * torch.randn(32, 6, dtype=torch.float64, generator=generator)
        rollout = Rollout(RewardMatrix(tuple(names), rewards_NM, scored_NM), torch.arange(32) // 4, mask_NT)
        return Batch(rollout, log_ratio_NT)

    return make
