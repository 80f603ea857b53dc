"""The nouns of a training step: rewards, a rollout, an update.

Every other module may import them. Dimensions: N completions, M objectives, T tokens, G prompts (groups).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctwa.errors import CtwaError
from ctwa.policy_loss import PolicyLoss


@dataclass(frozen=True)
class RewardMatrix:
    """The rewards of N completions under M named objectives.

    Attributes:
        names: the M objective names; column m belongs to ``names[m]``.
        rewards_NM: float64; an entry that was not scored is 0.0 and must be read through ``scored_NM``.
        scored_NM: bool, True where the reward function gave a finite number.

    Raises:
        CtwaError: shapes or dtypes disagree, a name occurs twice, or a scored entry is not finite.
    """

    names: tuple[str, ...]
    rewards_NM: Tensor
    scored_NM: Tensor

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise CtwaError(f"objective names must differ, got {list(self.names)}; rename the one that is repeated")
        if self.rewards_NM.dim() != 2 or self.rewards_NM.shape[1] != len(self.names):
            raise CtwaError(
                f"rewards have shape {tuple(self.rewards_NM.shape)} for {len(self.names)} objectives; "
                "pass one row a completion and one column an objective"
            )
        if self.scored_NM.shape != self.rewards_NM.shape or self.scored_NM.dtype != torch.bool:
            raise CtwaError(
                f"scored_NM is {self.scored_NM.dtype} of shape {tuple(self.scored_NM.shape)}; "
                f"pass a bool tensor of the rewards' shape {tuple(self.rewards_NM.shape)}"
            )
        if self.rewards_NM.dtype != torch.float64:
            raise CtwaError(f"rewards_NM is {self.rewards_NM.dtype}; pass float64")
        bad_NM = self.scored_NM & ~self.rewards_NM.isfinite()
        if bad_NM.any():
            row, column = (int(i) for i in bad_NM.nonzero()[0])
            raise CtwaError(
                f"objective '{self.names[column]}' has the reward {float(self.rewards_NM[row, column])} in row {row}; "
                "mark it as not scored"
            )
        # Whatever stood in an entry that was not scored (NaN, say) must not reach a sum.
        object.__setattr__(self, "rewards_NM", torch.where(self.scored_NM, self.rewards_NM, 0.0))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[float | None]]) -> RewardMatrix:
        """Build the matrix from ``name -> N values``; None, NaN and infinities become entries that were not scored."""
        nan = float("nan")
        values_MN = [[nan if value is None else float(value) for value in column] for column in columns.values()]
        if len({len(column) for column in values_MN}) > 1:
            lengths = {name: len(column) for name, column in columns.items()}
            raise CtwaError(f"objectives have different numbers of rewards {lengths}; give one reward a completion")
        rewards_NM = torch.tensor(values_MN, dtype=torch.float64).T
        return cls(tuple(columns), rewards_NM, rewards_NM.isfinite())

    def to_columns(self) -> dict[str, list[float | None]]:
        """``name -> N values``, None for an entry that was not scored: what `from_columns` takes."""
        return {
            name: [
                value if scored else None for value, scored in zip(values_N.tolist(), scored_N.tolist(), strict=True)
            ]
            for name, values_N, scored_N in zip(self.names, self.rewards_NM.T, self.scored_NM.T, strict=True)
        }

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """``(rewards_N, scored_N)`` of one objective. Raises CtwaError where there is no such objective."""
        return self._column_of(self.rewards_NM, name), self._column_of(self.scored_NM, name)

    def select(self, names: Sequence[str]) -> RewardMatrix:
        """The same rewards with their columns in the order of ``names``."""
        rewards_NM = torch.stack([self._column_of(self.rewards_NM, name) for name in names], dim=1)
        scored_NM = torch.stack([self._column_of(self.scored_NM, name) for name in names], dim=1)
        return RewardMatrix(tuple(names), rewards_NM, scored_NM)

    def filled_NM(self, group_N: Tensor) -> Tensor:
        """The rewards with a neutral value where nothing was scored, so that the scalar score neither gains nor loses.

        Neutral is the objective's mean over the scored completions of the same prompt; where a prompt has none,
        its mean over the batch; where the batch has none, 0.

        Args:
            group_N: int64, the prompt each row belongs to.
        """
        _, index_N = torch.unique(group_N, return_inverse=True)
        num_groups = int(index_N.max()) + 1 if len(index_N) else 0
        zeros_GM = self.rewards_NM.new_zeros(num_groups, len(self.names))
        scored_NM = self.scored_NM.double()
        num_GM = zeros_GM.index_add(0, index_N, scored_NM)
        sum_GM = zeros_GM.index_add(0, index_N, self.rewards_NM)
        mean_M = self.rewards_NM.sum(0) / scored_NM.sum(0).clamp(min=1)
        neutral_GM = torch.where(num_GM > 0, sum_GM / num_GM.clamp(min=1), mean_M)
        return torch.where(self.scored_NM, self.rewards_NM, neutral_GM[index_N])

    def _column_of(self, values_NM: Tensor, name: str) -> Tensor:
        if name not in self.names:
            raise CtwaError(f"there is no objective '{name}' among the rewards; write one of {list(self.names)}")
        return values_NM[:, self.names.index(name)]


@dataclass(frozen=True)
class Rollout:
    """One batch of completions and their rewards.

    Attributes:
        rewards: the rewards of the N completions.
        group_N: int64, the prompt each completion belongs to; equal numbers are completions of one prompt.
        mask_NT: 1 (or True) on response tokens, end of sequence included.
        rejected_NT: bool, response tokens that a rollout correction keeps out of the loss; None where it rejects none.
        importance_NT: what a rollout correction multiplies each token's loss by; None for 1.
    """

    rewards: RewardMatrix
    group_N: Tensor
    mask_NT: Tensor
    rejected_NT: Tensor | None = None
    importance_NT: Tensor | None = None

    @property
    def loss_mask_NT(self) -> Tensor:
        """``mask_NT`` without the tokens that the loss does not see."""
        return self.mask_NT if self.rejected_NT is None else self.mask_NT * ~self.rejected_NT


@dataclass(frozen=True)
class Update:
    """What one policy update did to the completions it was computed on; all tensors on the CPU.

    Attributes:
        rollout: the batch.
        advantages_NT: the advantages the loss used.
        log_probs_old_NT: under the policy that sampled the completions (the behaviour policy).
        log_probs_new_NT: under the policy after the update, or as seen during it (``ctwa.scalarizers.Requirements``);
            NaN where nobody asked for them.
        loss: how the loss weighs a token; None for one that does not let on (``ctwa.engine.policy_loss``).
    """

    rollout: Rollout
    advantages_NT: Tensor
    log_probs_old_NT: Tensor
    log_probs_new_NT: Tensor
    loss: PolicyLoss | None
