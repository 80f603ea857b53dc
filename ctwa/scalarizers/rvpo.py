"""RVPO, reward-variance policy optimization (Montero et al. 2026, arXiv 2605.05750): a soft minimum of the advantages.

Read in its abstract and introduction, with the formula and the schedule from a public summary of the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import finite
from ctwa.method_info import MethodInfo
from ctwa.scalarizers.base import Estimate, Scalarizer, objective_advantages
from ctwa.scalarizers.decoupled import DecoupledConfig, batch_normalized, has_signal
from ctwa.scalarizers.per_objective import judged_rows, taking_part, token_mean, trained_objectives


class RvpoConfig(DecoupledConfig):
    """The options of RVPO.

    Attributes:
        beta: how much the worst objective counts (the paper's k), in units of one over a standardised advantage. 0 is
            the mean, as in gdpo; the larger it is, the nearer to the least advantage.
        beta_start: beta at the first step, if ``anneal_steps`` is above 0.
        anneal_steps: the number of steps over which beta goes from ``beta_start`` to ``beta``, in a line; with 0 it is
            ``beta`` from the start.
    """

    type: Literal["rvpo"] = "rvpo"
    beta: Annotated[float, Field(ge=0)] = 2.0
    beta_start: Annotated[float, Field(ge=0)] = 0.5
    anneal_steps: Annotated[int, Field(ge=0)] = 0

    def idle(self) -> Mapping[str, str]:
        """There is a start where there is a way from it."""
        idle = {} if self.anneal_steps else {"beta_start": "anneal_steps=0"}
        return idle | ({"anneal_steps": "beta_start=beta"} if self.beta_start == self.beta else {})

    def unreached(self, num_steps: int) -> Iterator[str]:
        """Beta that is never reached."""
        if self.anneal_steps >= num_steps:
            yield f"anneal_steps={self.anneal_steps}: beta does not reach {self.beta:g} in {num_steps} steps"


class Rvpo(Scalarizer):
    """A soft minimum of the objectives' own standardised advantages, ``-log(sum_m w_m exp(-beta A_m)) / beta``.

    The weights w are the objectives' own, scaled to a sum of 1 over those that apply to the completion. One that lacks
    the reward of such an objective is left out.
    """

    info = MethodInfo(
        RvpoConfig, "a soft minimum of the advantages", "Montero et al. 2026, arXiv 2605.05750", level="advantage"
    )
    STATE = ("_step",)
    config: RvpoConfig

    def __init__(self, config: RvpoConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._weights_M = self.by_name(weights)
        self._step = 0
        self._metrics: dict[str, float] = {}

    @property
    def beta(self) -> float:
        """Beta of the next update."""
        left = max(0.0, 1 - self._step / self.config.anneal_steps) if self.config.anneal_steps else 0.0
        return left * self.config.beta_start + (1 - left) * self.config.beta

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the soft minimum, standardised over the prompts with a signal."""
        each_MNT = torch.stack(objective_advantages(rollout, estimate, self.names))
        rewards = rollout.rewards.select(self.names)
        # In place of an advantage that is not known, neither 0 nor the others' minimum would be neutral.
        takes_part_NM = taking_part(rewards)
        judged_N = judged_rows(rewards, takes_part_NM)
        takes_part_NM &= judged_N[:, None]
        weights_NM = takes_part_NM * self._weights_M
        shares_NM = torch.where(takes_part_NM, weights_NM / weights_NM.sum(1, keepdim=True), 0.0)
        shares_MN1 = shares_NM.T[..., None]
        total_NT, binding_MNT = soft_minimum(each_MNT.double(), shares_MN1, self.beta)
        self._metrics = {"rvpo/beta": self.beta} | {
            f"rvpo/binding/{name}": token_mean(binding_NT, rollout.loss_mask_NT * rows_N[:, None])
            for name, binding_NT, rows_N in zip(self.names, binding_MNT, takes_part_NM.T, strict=True)
            if rows_N.any()
        }
        total_NT = total_NT.to(each_MNT.dtype)
        if not self.config.batch_normalize:
            return total_NT
        # Its mean is below 0, so that completions that nothing tells apart would have an advantage above it.
        rows_N = judged_N & has_signal(each_MNT, rollout.group_N)
        return batch_normalized(total_NT, rollout.loss_mask_NT, rows_N, float(each_MNT.abs().max()))

    def observe_update(self, update: Update) -> dict[str, float]:
        """One update is done; beta of the next is the next step's.

        Returns:
            ``rvpo/beta``: beta of this update. ``rvpo/binding/<name>``: the objective's share of the slope of the soft
            minimum, the mean over the tokens of the completions that it is part of the advantage of.
        """
        del update
        self._step += 1
        return finite(self._metrics)


def soft_minimum(values_MNT: Tensor, shares_MN1: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The soft minimum (N, T) of the values, and how much of its slope each of them has, (M, N, T).

    Args:
        values_MNT: float64.
        shares_MN1: 0 or more, with the sum 1, or all 0: the soft minimum is then 0.
        beta: 0 for their mean; towards infinity it becomes the least of those with a share.
    """
    takes_part_MN1 = shares_MN1 > 0
    least_NT = torch.where(takes_part_MN1, values_MNT, torch.inf).amin(0)
    least_NT = torch.where(takes_part_MN1.any(0), least_NT, 0.0)
    above_MNT = torch.where(takes_part_MN1, values_MNT - least_NT, 0.0)
    slope_MNT = shares_MN1 * torch.exp(-beta * above_MNT)
    slope_MNT = slope_MNT / slope_MNT.sum(0).clamp(min=torch.finfo().tiny)
    if beta == 0:
        return least_NT + (shares_MN1 * above_MNT).sum(0), slope_MNT
    # From the least one up nothing overflows; and expm1 and log1p lose no digit where beta is small.
    return least_NT - (shares_MN1 * torch.expm1(-beta * above_MNT)).sum(0).log1p() / beta, slope_MNT
