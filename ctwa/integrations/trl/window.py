"""One batch of completions in TRL, from its rewards to the update it made.

Dimensions: N completions of all processes, n those of this process, M objectives, T tokens, S some rows of the n;
K completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import RewardMatrix, Rollout
from ctwa.covariance.diagnostics import sampled_entropy
from ctwa.gradients.plan import combined_advantages
from ctwa.integrations.trl.descent import Descent
from ctwa.objectives.signal import Signal
from ctwa.statistics import clustered_error


def read_rewards(names: Sequence[str], rewards_NM: Tensor) -> RewardMatrix:
    """TRL's rewards: NaN, which it makes of None, says that the objective does not apply; an infinity is no score."""
    rewards_NM = rewards_NM.double().cpu()
    return RewardMatrix(tuple(names), rewards_NM, rewards_NM.isfinite(), ~rewards_NM.isnan())


def prompts_of(num_completions: int, num_generations: int) -> Tensor:
    """The prompt of each completion, int64 (N,): those of one stand together."""
    return torch.arange(num_completions) // num_generations


def of_completions(advantages_ST: Tensor, mask_ST: Tensor) -> Tensor:
    """One advantage a completion, (S,), as TRL has them, where its tokens have the same; else one a token, (S, T)."""
    first_S = advantages_ST.gather(1, mask_ST.long().argmax(1, keepdim=True)).squeeze(1)
    return first_S if torch.equal(first_S[:, None] * mask_ST, advantages_ST) else advantages_ST


@dataclass
class Window:
    """The micro-batches between two generations, which train on one batch of completions.

    Attributes:
        rollout: the batch, of all processes.
        num_tokens: the mean of the completions' tokens, those included that the mask of the rollout leaves out.
        advantages_NT: that it is trained on, float32.
        log_probs_old_nT: of this process's completions under the policy that made them; NaN until they are known.
        log_probs_new_nT: as the update's own passes met them last.
        descent: how its update takes the objectives' gradients; None for a method that wants none.
    """

    rollout: Rollout
    num_tokens: float
    advantages_NT: Tensor
    log_probs_old_nT: Tensor
    log_probs_new_nT: Tensor
    descent: Descent | None = None

    def saw(self, rows_S: Tensor, log_probs_ST: Tensor, old_ST: Tensor | None) -> None:
        """Note what a forward pass of the update computed.

        Args:
            rows_S: which of this process's completions it was of.
            log_probs_ST: of their tokens.
            old_ST: under the old policy, where TRL keeps them; else those of the first pass are they.
        """
        if old_ST is None:
            known_S = ~self.log_probs_old_nT[rows_S].isnan().all(1)
            old_ST = torch.where(known_S[:, None], self.log_probs_old_nT[rows_S], log_probs_ST)
        self.log_probs_old_nT[rows_S] = old_ST
        self.log_probs_new_nT[rows_S] = log_probs_ST

    def descended(self) -> None:
        """Take over what the update made of the objectives' gradients: the advantages are those that they add up to."""
        if self.descent is None:
            return
        plan = self.descent.plan
        combined_NT = combined_advantages(plan, self.descent.advantages_MNT)
        self.advantages_NT = self.advantages_NT if combined_NT is None else combined_NT
        if any(record.skipped for record in plan.records):  # the update is not the one that the advantages tell of
            self.log_probs_new_nT.fill_(torch.nan)

    def metrics(self, log_probs_old_NT: Tensor) -> dict[str, float]:
        """What the batch was like, by the names of the trace.

        Args:
            log_probs_old_NT: of all processes.
        """
        rewards, mask_NT = self.rollout.rewards, self.rollout.mask_NT
        metrics = {
            **rewards.metrics(),
            **Signal.of(rewards, self.rollout.group_N).metrics(),
            key_of.RESPONSE_LENGTH: self.num_tokens,
        }
        if mask_NT.any():  # else all were truncated, and the mask has none of them
            metrics[key_of.ENTROPY] = sampled_entropy(log_probs_old_NT, mask_NT)
        return metrics


@dataclass
class Validation:
    """The rewards of an evaluation, batch by batch.

    Attributes:
        parts: rewards of whole prompts, and K.
    """

    parts: list[tuple[RewardMatrix, int]] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        """The mean of each objective that was scored."""
        return {name: float(torch.cat(values).mean()) for name, (values, _) in self._scored().items()}

    def metrics(self) -> dict[str, float]:
        """``val/<name>`` and its standard error over prompts."""
        metrics = {key_of.validation(name): mean for name, mean in self.means().items()}
        for name, (values, groups) in self._scored().items():
            error = clustered_error(torch.cat(values).numpy(), torch.cat(groups).numpy())
            metrics[key_of.validation_error(name)] = error
        return metrics

    def _scored(self) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
        scored: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        num_prompts = 0
        for matrix, num_generations in self.parts:
            group_N = num_prompts + prompts_of(len(matrix.rewards_NM), num_generations)
            num_prompts = int(group_N[-1]) + 1
            for name in matrix.names:
                rewards_N, scored_N = matrix.column(name)
                if scored_N.any():
                    values, groups = scored.setdefault(name, ([], []))
                    values.append(rewards_N[scored_N])
                    groups.append(group_N[scored_N])
        return scored
