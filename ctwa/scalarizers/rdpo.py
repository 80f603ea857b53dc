"""RDPO, reward-decorrelated policy optimization (Bai et al. 2026, arXiv 2605.13641): quantiles, then whitening.

Read in its abstract and introduction alone. They say what is done (magnitude-aware quantile normalization within the
prompt, Mahalanobis whitening within each subspace of active rewards, then a sum) and not by which formula of the
quantile: that one is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import ROUNDING, RewardMatrix, Rollout, Update
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, score_advantages
from ctwa.scalarizers.per_objective import taking_part, trained_objectives, unit_of

_SINGULAR = 1e-9  # of an eigenvalue, relative to the largest: the direction is one that no completion differs in


class RdpoConfig(Options):
    """RDPO has nothing to configure."""

    type: Literal["rdpo"] = "rdpo"


class Rdpo(Scalarizer):
    """The weighted sum of the rewards' quantiles within the prompt, whitened over the completions of one kind.

    Completions are of one kind where the same objectives apply to them.
    """

    info = MethodInfo(RdpoConfig, "whitened quantiles of the rewards, summed", "Bai et al. 2026, arXiv 2605.13641")
    config: RdpoConfig

    def __init__(self, config: RdpoConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._weights_M = self.by_name(weights)

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the sum."""
        rewards = rollout.rewards.select(self.names)
        quantiles_NM = quantiles(rewards, rollout.group_N)
        scores_N = torch.full_like(quantiles_NM[:, 0], float("nan"))
        for rows_N, weights_M in self._weights_on_quantiles(rewards, quantiles_NM):
            scores_N[rows_N] = (quantiles_NM[rows_N] * weights_M).sum(1)
        return score_advantages(rollout, estimate, self.names, scores_N)

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn.

        Returns:
            ``rdpo/weight/<name>``: the weight that the sum has on the objective's quantiles, the mean over the
            completions that it applies to. It is below 0 where a good reward counts against a completion.
        """
        rewards = update.rollout.rewards.select(self.names)
        weights_NM = torch.full_like(rewards.rewards_NM, float("nan"))
        for rows_N, weights_M in self._weights_on_quantiles(rewards, quantiles(rewards, update.rollout.group_N)):
            weights_NM[rows_N] = torch.where(taking_part(rewards)[rows_N], weights_M, float("nan"))
        means = self.named(weights_NM.nanmean(0))
        return {f"rdpo/weight/{name}": mean for name, mean in means.items() if mean == mean}

    def _weights_on_quantiles(self, rewards: RewardMatrix, quantiles_NM: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each kind's completions, bool (N,), and the weights (M,) of their quantiles in the sum of the whitened."""
        active_NM = taking_part(rewards)
        for active_M in active_NM.unique(dim=0):
            if active_M.any():
                rows_N = (active_NM == active_M).all(1)
                own_SM = quantiles_NM[rows_N][:, active_M]
                weights_M = torch.zeros_like(self._weights_M)
                weights_M[active_M] = whitening(own_SM.T @ own_SM / len(own_SM)) @ self._weights_M[active_M]
                yield rows_N, weights_M


def quantiles(rewards: RewardMatrix, group_N: Tensor) -> Tensor:
    """Where each reward stands among those of its prompt, (N, M), from -1 to 1; 0 where it was not scored.

    It is the mean of ``clamp((reward - other) / spread, -1, 1)`` over the prompt's scored completions: 1 for each worse
    one and -1 for each better one as a quantile counts them, less where the two differ by less than the spread. The
    spread is the standard deviation from the prompts' means, over the batch. Rewards of a prompt that differ by no more
    than float32 rounds them by are equal. A prompt's quantiles sum to 0.
    """
    prompts = [group_N == group for group in group_N.unique()]
    result_NM = torch.zeros_like(rewards.rewards_NM)
    for column, scored_N in enumerate(rewards.scored_NM.T):
        rows = [own_N & scored_N for own_N in prompts]
        rewards_N = rewards.rewards_NM[:, column]
        values = [rewards_N[rows_N] / unit_of(rewards_N) for rows_N in rows]  # squares neither vanish nor overflow
        centred = torch.cat([each - each.mean() if _differ(each) else torch.zeros_like(each) for each in values])
        spread = float(centred.square().mean().sqrt()) if len(centred) else 0.0
        for rows_N, each in zip(rows, values, strict=True):
            if _differ(each):
                result_NM[rows_N, column] = ((each[:, None] - each) / spread).clamp(-1, 1).mean(1)
    return result_NM


def _differ(values: Tensor) -> bool:
    return len(values) > 1 and float(values.max() - values.min()) > ROUNDING * float(values.abs().max())


def whitening(covariance_MM: Tensor) -> Tensor:
    """The symmetric matrix that makes this covariance the identity (Mahalanobis whitening).

    Directions without variance stay without: of two objectives that always agree the sum counts sqrt(2) times one.
    """
    values_M, vectors_MM = torch.linalg.eigh(covariance_MM)
    known_M = values_M > _SINGULAR * values_M.max()
    scale_M = torch.where(known_M, values_M.clamp(min=torch.finfo(values_M.dtype).tiny).rsqrt(), 0.0)
    return (vectors_MM * scale_M) @ vectors_MM.T
