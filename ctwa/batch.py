"""The nouns of a training step: rewards, a rollout, an update.

Every other module may import them. Dimensions: N completions, M objectives, T tokens, G prompts (groups).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

import ctwa
from ctwa import metrics as key_of
from ctwa.arguments import check_field, check_kind, check_tensor, is_time, plain
from ctwa.errors import CtwaError, shown
from ctwa.policy_loss import PolicyLoss

Reward = float | Literal["not_applicable"] | None
"""One entry of a `RewardMatrix`: None was not scored, `ctwa.NOT_APPLICABLE` did not have to be."""

ROUNDING = 2.0**-21
"""What a reward may be off by, relative to its size: some roundings of float32, in which TRL keeps rewards."""

EQUAL = 1e-12
"""What numbers in float64 may differ by, relative to their size, and still be equal.

An elementwise function that runs vectorised over most of a tensor and not over its end, and the mean of a million
values, are off by some ten to twenty roundings of 1.1e-16. What is above has three digits that are no rounding.
"""


def slack(bound: float) -> float:
    """How far beyond a bound, or below it, a reward still counts as at it.

    1 - .9 - .1 is below 0, .7 + .1 below .8, and .7 in float32 below .7. A bound near 0 has its own scale, so that
    ``at_least`` 1e-9 says "above 0".
    """
    return ROUNDING * (abs(bound) or 1.0)


@dataclass(frozen=True)
class RewardMatrix:
    """The rewards of N completions under M named objectives.

    Attributes:
        names: the M objective names; column m belongs to ``names[m]``.
        rewards_NM: float64; an entry that was not scored is 0.0 and must be read through ``scored_NM``.
        scored_NM: bool, True where the reward function gave a finite number.
        applicable_NM: bool, True where the objective applies to the completion; by default it does everywhere. What
            applies and was not scored is a failure; what does not apply is none, and is never scored.

    Raises:
        CtwaError: shapes or dtypes disagree, a name occurs twice or is none, or a scored entry is not finite or does
            not apply.
    """

    names: tuple[str, ...]
    rewards_NM: Tensor
    scored_NM: Tensor
    applicable_NM: Tensor = None  # type: ignore[assignment]  # until it is made

    def __post_init__(self) -> None:
        check_field(self, "rewards_NM", dtype=torch.float64)
        check_field(self, "scored_NM", dtype=torch.bool)
        if self.applicable_NM is None:
            object.__setattr__(self, "applicable_NM", torch.ones_like(self.scored_NM, dtype=torch.bool))
        if len(set(self.names)) != len(self.names):
            raise CtwaError(f"objective names must differ, got {list(self.names)}; rename the one that is repeated")
        for name in self.names:
            key_of.check_name(name)
        if self.rewards_NM.shape[1] != len(self.names):
            raise CtwaError(
                f"rewards have shape {tuple(self.rewards_NM.shape)} for {len(self.names)} objectives; "
                "pass one row a completion and one column an objective"
            )
        for name, mask_NM in {"scored_NM": self.scored_NM, "applicable_NM": self.applicable_NM}.items():
            check_tensor(name, mask_NM, dtype=torch.bool, N=len(self.rewards_NM), M=len(self.names))
        bad_NM = self.scored_NM & ~self.rewards_NM.isfinite()
        if bad_NM.any():
            row, column = (int(i) for i in bad_NM.nonzero()[0])
            raise CtwaError(
                f"objective '{self.names[column]}' has the reward {float(self.rewards_NM[row, column])} in row {row}; "
                "mark it as not scored"
            )
        if (self.scored_NM & ~self.applicable_NM).any():
            row, column = (int(i) for i in (self.scored_NM & ~self.applicable_NM).nonzero()[0])
            raise CtwaError(
                f"objective '{self.names[column]}' has a reward in row {row}, which it does not apply to; "
                "mark it as not scored"
            )
        # Whatever stood in an entry that was not scored (NaN, say) must not reach a sum.
        object.__setattr__(self, "rewards_NM", torch.where(self.scored_NM, self.rewards_NM, 0.0))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Reward]]) -> RewardMatrix:
        """Build the matrix from ``name -> N values``.

        None, NaN, infinities and what numpy masks become entries that were not scored, `ctwa.NOT_APPLICABLE` those that
        do not apply.

        Raises:
            CtwaError: there is no objective, a column is no sequence of rewards or shorter than another.
        """
        check_kind("columns", columns, Mapping, "the rewards by objective: {'NAME': [0.5, ...], ...}")
        if not columns:
            raise CtwaError("columns has no objective; pass the rewards of each: {'NAME': [0.5, ...], ...}")
        values_MN = [_numbers(name, column) for name, column in columns.items()]
        if len({len(column) for column in values_MN}) > 1:
            lengths = {name: len(values) for name, values in zip(columns, values_MN, strict=True)}
            raise CtwaError(f"objectives have different numbers of rewards {lengths}; give one reward a completion")
        rewards_NM = torch.tensor(values_MN, dtype=torch.float64).T
        applies_MN = [[not _is_not_applicable(value) for value in column] for column in columns.values()]
        return cls(tuple(columns), rewards_NM, rewards_NM.isfinite(), torch.tensor(applies_MN, dtype=torch.bool).T)

    def to_columns(self) -> dict[str, list[Reward]]:
        """``name -> N values``: what `from_columns` takes."""
        columns: dict[str, list[Reward]] = {}
        for name, *of_rows_N in zip(self.names, self.rewards_NM.T, self.scored_NM.T, self.applicable_NM.T, strict=True):
            rows = zip(*(each_N.tolist() for each_N in of_rows_N), strict=True)
            columns[name] = [
                value if is_scored else None if applies else ctwa.NOT_APPLICABLE for value, is_scored, applies in rows
            ]
        return columns

    def metrics(self) -> dict[str, float]:
        """Per objective: the share of the completions that it applies to; of these the share that was scored; mean and
        (population) standard deviation of what was. What applies to nothing has no share, what was not scored no mean.
        """
        metrics: dict[str, float] = {}
        for name in self.names:
            rewards_N, scored_N = self.column(name)
            rewards, num_rows = rewards_N[scored_N], int(self.applicable(name).sum())
            if len(rewards):
                metrics[key_of.objective_mean(name)] = float(rewards.mean())
                metrics[key_of.objective(name, "std")] = float(rewards.std(correction=0))
            if len(rewards_N):
                metrics[key_of.objective(name, "applicable_frac")] = num_rows / len(rewards_N)
            if num_rows:
                metrics[key_of.objective(name, "scored_frac")] = len(rewards) / num_rows
        return metrics

    def column(self, name: str) -> tuple[Tensor, Tensor]:
        """``(rewards_N, scored_N)`` of one objective. Raises CtwaError where there is no such objective."""
        return self._column_of(self.rewards_NM, name), self._column_of(self.scored_NM, name)

    def select(self, names: Sequence[str]) -> RewardMatrix:
        """The same rewards with their columns in the order of ``names``."""
        of_rows_NM = (self.rewards_NM, self.scored_NM, self.applicable_NM)
        return RewardMatrix(
            tuple(names),
            *(torch.stack([self._column_of(each_NM, name) for name in names], dim=1) for each_NM in of_rows_NM),
        )

    def with_columns(self, others: RewardMatrix) -> RewardMatrix:
        """The same rewards with some columns in the place of those that they had, by name."""
        columns = self.to_columns()
        unknown = [name for name in others.names if name not in columns]
        if unknown:
            raise CtwaError(f"there is no objective '{unknown[0]}' among the rewards; write some of {list(self.names)}")
        return RewardMatrix.from_columns(columns | others.to_columns())

    def applicable(self, name: str) -> Tensor:
        """Bool (N,), the completions that an objective applies to. Raises CtwaError where there is none of the name."""
        return self._column_of(self.applicable_NM, name)

    def filled_NM(self, group_N: Tensor) -> Tensor:
        """The rewards with their mean where nothing was scored, so that a sum of them neither gains nor loses.

        It is the objective's mean over the scored completions of the same prompt; where a prompt has none, its mean
        over the batch; where the batch has none, 0. That holds for what could not be scored as for what the objective
        does not apply to. In a sum alone it is neutral: the product of two means, or the less of them, is above what
        completions have that are good in one thing or the other.

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
        mask_NT: 1 (or True) on the tokens that the policy wrote, ends of sequence included; 0 on those of tools.
        rejected_NT: bool, response tokens that a rollout correction keeps out of the loss; None where it rejects none.
        importance_NT: what a rollout correction multiplies each token's loss by; None for 1.
        weights: by objective, float64 (N,), what each completion's prompt was told to weigh it with; None where prompts
            are told nothing, and the method's own weights hold.

    Raises:
        CtwaError: there is no completion or no token, shapes or dtypes disagree, or a tensor is not on the CPU; or a
            weight is negative or not finite, or all those of a completion are 0.
    """

    rewards: RewardMatrix
    group_N: Tensor
    mask_NT: Tensor
    rejected_NT: Tensor | None = None
    importance_NT: Tensor | None = None
    weights: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        check_kind("rewards", self.rewards, RewardMatrix, "a RewardMatrix (RewardMatrix.from_columns makes one)")
        num_N = len(self.rewards.rewards_NM)
        if not num_N:
            raise CtwaError("the rollout has no completion, of which nothing can be learned; leave the step out")
        check_tensor("group_N", self.group_N, N=num_N)
        if self.group_N.is_floating_point():
            raise CtwaError(f"group_N is {self.group_N.dtype}; pass the prompt's number as int64")
        check_field(self, "mask_NT", N=num_N)
        if self.mask_NT.dtype != torch.bool and not bool(((self.mask_NT == 0) | (self.mask_NT == 1)).all()):
            raise CtwaError("mask_NT has other values than 0 and 1; pass 1 on the tokens that the policy wrote")
        num_T = self.mask_NT.shape[1]
        if not num_T:
            raise CtwaError(
                f"mask_NT has the shape ({num_N}, 0), and no token; pad completions to one token or more, 0 where the "
                "policy wrote none"
            )
        if self.rejected_NT is not None:
            check_tensor("rejected_NT", self.rejected_NT, dtype=torch.bool, N=num_N, T=num_T)
        if self.importance_NT is not None:
            check_field(self, "importance_NT", N=num_N, T=num_T)
        if self.weights:
            object.__setattr__(self, "weights", _checked_told(self.weights, num_N))

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

    Raises:
        CtwaError: a tensor is not of the shape of the rollout's mask, or not on the CPU, or the loss is none.
    """

    rollout: Rollout
    advantages_NT: Tensor
    log_probs_old_NT: Tensor
    log_probs_new_NT: Tensor
    loss: PolicyLoss | None
    #: what was computed of it before, for who asks again
    known: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_kind("rollout", self.rollout, Rollout, "a Rollout")
        num_N, num_T = self.rollout.mask_NT.shape
        for name in ("advantages_NT", "log_probs_old_NT", "log_probs_new_NT"):
            check_field(self, name, N=num_N, T=num_T)
        check_kind("loss", self.loss, (PolicyLoss, type(None)), "a PolicyLoss such as Vanilla(), or None")


def _checked_told(weights: Mapping[str, Tensor], num_N: int) -> dict[str, Tensor]:
    """The weights that prompts were told; refused where they make no score."""
    weights = {name: check_tensor(f"weights[{name!r}]_N", weights_N, N=num_N) for name, weights_N in weights.items()}
    told_N = torch.zeros(num_N, dtype=torch.bool)
    for name, weights_N in weights.items():
        bad_N = ~weights_N.isfinite() | (weights_N < 0)
        if bad_N.any():
            row = int(bad_N.nonzero()[0])
            raise CtwaError(
                f"weights[{name!r}]_N has {float(weights_N[row])} in row {row}; pass finite weights of 0 or more"
            )
        told_N |= weights_N > 0
    if not told_N.all():
        row = int((~told_N).nonzero()[0])
        raise CtwaError(f"the weights of row {row} are all 0; give at least one of its objectives a positive weight")
    return weights


def _numbers(name: str, column: Sequence[Reward]) -> list[float]:
    """The rewards of one objective, NaN where there is none."""
    if isinstance(column, str | bytes | Set | Mapping) or not isinstance(column, Collection):
        raise CtwaError(f"the rewards of objective '{name}' are {shown(column)}; pass one a completion: [0.5, ...]")
    return [value if type(value) is float else _number(name, row, value) for row, value in enumerate(column)]


def _number(name: str, row: int, value: Any) -> float:
    value = plain(value)
    if value is None or _is_not_applicable(value):
        return float("nan")
    refusal = CtwaError(
        f"objective '{name}' has the reward {shown(value)!r} in row {row}; pass a number, None where it could not be "
        f"scored, or ctwa.NOT_APPLICABLE ({ctwa.NOT_APPLICABLE!r})"
    )
    if isinstance(value, str | bytes) or is_time(value):  # float would read a number in it
        raise refusal
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise refusal from None


def _is_not_applicable(value: Any) -> bool:
    return isinstance(value, str) and value == ctwa.NOT_APPLICABLE
