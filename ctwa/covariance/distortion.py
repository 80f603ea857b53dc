"""How much clipping distorted the update, and what it can have cost each objective.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), Corollary 4.7, in the form that can be measured: within a prompt,
``Cov(r, w_c) = Cov(r, w_u) - Cov(r, w_u - w_c) >= Cov(r, w_u) - std(r) std(w_u - w_c)`` by Cauchy-Schwarz, with w_u the
weights without clipping and w_c those with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ctwa.covariance.weights import TokenWeights, completion_weights
from ctwa.covariance.within_prompt import within_prompt_covariance


@dataclass(frozen=True)
class Distortion:
    """What clipping did to one batch.

    Attributes:
        fraction: the share of response tokens that lost their gradient.
        mass: the share of the absolute token weight that was lost.
        std: ``std(w_u - w_c)`` within a prompt, mean over prompts; NaN where no prompt is usable.
        bound_M: a lower bound on each objective's covariance, mean over prompts; NaN where none is usable.
    """

    fraction: float
    mass: float
    std: float
    bound_M: Tensor


def covariance_bound(covariance: Tensor, reward_std: Tensor, distortion: Tensor) -> Tensor:
    """The least covariance that clipping can have left: ``Cov_u - std(r) std(w_u - w_c)``."""
    return covariance - reward_std * distortion


def safe_distortion(covariance: Tensor, reward_std: Tensor) -> Tensor:
    """The distortion below which an objective with the unclipped covariance ``covariance`` > 0 still improves."""
    return covariance / reward_std


def clipping_distortion(
    unclipped: TokenWeights, clipped: TokenWeights, rewards_NM: Tensor, scored_NM: Tensor, group_N: Tensor
) -> Distortion:
    """Compare the weights of one update with those it would have had without clipping.

    Args:
        unclipped: the token weights of the loss without its clipping (``PolicyLoss.unclipped``).
        clipped: the token weights of the loss.
        rewards_NM: the rewards.
        scored_NM: bool, what of the rewards was scored.
        group_N: int64, the prompt of each row.
    """
    total = float(unclipped.weight_NT.abs().sum())
    lost = float((unclipped.weight_NT - clipped.weight_NT).abs().sum())
    completions = completion_weights(unclipped)
    w_N1, valid_N1 = completions.weight_N[:, None], completions.valid_N[:, None]
    lost_N1 = w_N1 - completion_weights(clipped).weight_N[:, None]
    valid_NM = scored_NM & valid_N1
    covariance_GM = within_prompt_covariance(rewards_NM, w_N1, valid_NM, group_N).groups_GD
    reward_std_GM = within_prompt_covariance(rewards_NM, rewards_NM, valid_NM, group_N).groups_GD.sqrt()
    # On the rows where the objective was scored, which are those of its covariance: else the bound does not hold.
    lost_std_GM = within_prompt_covariance(lost_N1, lost_N1, valid_NM, group_N).groups_GD.sqrt()
    lost_std_G1 = within_prompt_covariance(lost_N1, lost_N1, valid_N1, group_N).groups_GD.sqrt()
    return Distortion(
        fraction=int((clipped.mask_NT & ~clipped.kept_NT).sum()) / max(int(clipped.mask_NT.sum()), 1),
        mass=lost / total if total else 0.0,
        std=float(lost_std_G1.nanmean()),
        bound_M=covariance_bound(covariance_GM, reward_std_GM, lost_std_GM).nanmean(0),
    )
