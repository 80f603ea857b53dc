"""verl's advantage estimators, handed to the methods as a function of one score a completion."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

from ctwa.engine.settings import is_scale_invariant


class VerlEstimate:
    """One batch's advantage estimator (``algorithm.adv_estimator``): (N,) scores -> (N, T) advantages.

    A score is paid on the completion's last token, as verl pays outcome rewards. What is paid beside it on every token
    (:meth:`with_rewards`) is the same for all scores.

    Args:
        algorithm: verl's ``algorithm`` config.
        mask_NT: response mask; every row has at least one token.
        group_N: the prompt of each row.
        loss_mask_NT: the tokens of them that the loss sees, where a rollout correction rejects some: as in verl, these
            are out before anything is estimated, and its statistics do not see them.
    """

    def __init__(
        self,
        algorithm: DictConfig,
        mask_NT: torch.Tensor,
        group_N: torch.Tensor,
        loss_mask_NT: torch.Tensor | None = None,
    ) -> None:
        self._estimator = get_adv_estimator_fn(algorithm.adv_estimator)
        self._options: dict[str, Any] = {"config": algorithm}
        if algorithm.adv_estimator == "grpo":
            self._options["norm_adv_by_std_in_grpo"] = algorithm.norm_adv_by_std_in_grpo
        self._algorithm = algorithm
        self._groups_N = group_N
        self._mask_NT = mask_NT
        self._loss_mask_NT = mask_NT if loss_mask_NT is None else loss_mask_NT
        groups = group_N.tolist()
        first = {group: row for row, group in reversed(list(enumerate(groups)))}
        self._first_N = torch.tensor([first[group] for group in groups])
        # What is common to the scores that an estimator compares does not change its advantages. Those with a baseline
        # compare the completions of a prompt; REINFORCE++ whitens all tokens, of which each has the completion's score
        # as its return where nothing is discounted.
        self._common: Literal["prompt", "batch", "nothing"] = "prompt"
        if algorithm.adv_estimator == "reinforce_plus_plus":
            self._common = "batch" if algorithm.gamma == 1 else "nothing"
        self._token_rewards_NT: torch.Tensor | None = None
        self._group_N = np.array([str(group) for group in groups], dtype=object)
        self.scale_invariant = is_scale_invariant(algorithm)

    def __call__(self, scores_N: torch.Tensor, rows_N: torch.Tensor | None = None) -> torch.Tensor:
        """Advantages, float32 (N, T), of scores (N,); of some rows as if they were the batch, and 0 on the others."""
        if rows_N is not None:
            return self._of_rows(scores_N, rows_N)
        # Without what they have in common, equal scores are exactly 0: the rounding error of their mean in float32 is
        # not divided by a standard deviation of 1e-6 or 1e-4, and large ones lose no digits.
        if self._common == "prompt":
            scores_N = scores_N - scores_N[self._first_N]
        elif self._common == "batch":
            scores_N = scores_N - scores_N[:1]
        rewards_NT = torch.zeros(self._mask_NT.shape, dtype=torch.float32)
        last_N = (self._mask_NT.shape[1] - 1) - self._mask_NT.long().flip(1).argmax(dim=1)
        rewards_NT[torch.arange(len(scores_N)), last_N] = scores_N.float()
        if self._token_rewards_NT is not None:
            rewards_NT += self._token_rewards_NT
        advantages_NT, _ = self._estimator(
            token_level_rewards=rewards_NT, response_mask=self._loss_mask_NT, index=self._group_N, **self._options
        )
        return advantages_NT

    def _of_rows(self, scores_N: torch.Tensor, rows_N: torch.Tensor) -> torch.Tensor:
        advantages_NT = torch.zeros(self._mask_NT.shape, dtype=torch.float32)
        rows_N = rows_N & ~self._left_alone(rows_N)
        if rows_N.any():
            masks = self._mask_NT[rows_N], self._groups_N[rows_N], self._loss_mask_NT[rows_N]
            estimate = VerlEstimate(self._algorithm, *masks)
            if self._token_rewards_NT is not None:
                estimate = estimate.with_rewards(self._token_rewards_NT[rows_N])
            advantages_NT[rows_N] = estimate(scores_N[rows_N])
        return advantages_NT

    def with_rewards(self, token_rewards_NT: torch.Tensor) -> VerlEstimate:
        """The same estimator where tokens have rewards of their own beside the score; negative ones are penalties."""
        estimate = copy.copy(self)
        estimate._token_rewards_NT = token_rewards_NT
        return estimate

    def _left_alone(self, rows_N: torch.Tensor) -> torch.Tensor:
        """Bool (N,): the rows of which all the others that they would be compared with are left out."""
        group_N = self._groups_N if self._common == "prompt" else torch.zeros_like(self._groups_N)
        _, index_N, num_G = group_N.unique(return_inverse=True, return_counts=True)
        left_G = torch.zeros_like(num_G).index_add(0, index_N, rows_N.to(num_G.dtype))
        return ((left_G == 1) & (num_G > 1))[index_N]
