"""Smooth Tchebycheff scalarization (Lin et al. 2024, arXiv 2402.19078): a log-sum-exp in place of the maximum."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.method_info import MethodInfo
from ctwa.scalarizers.tchebycheff import Tchebycheff, TchebycheffOptions


class SmoothTchebycheffConfig(TchebycheffOptions):
    """The options of smooth Tchebycheff.

    Attributes:
        mu: how smooth, in units of a reward times a weight, for weights that sum to 1: distances that differ by much
            less count alike, those that differ by much more as in tchebycheff, which is the limit 0.
    """

    type: Literal["smooth_tchebycheff"] = "smooth_tchebycheff"
    mu: Annotated[float, Field(gt=0)] = 0.1


class SmoothTchebycheff(Tchebycheff):
    """Scores a completion by a smooth maximum of its distances ``d_m = weight_m (z_m - reward_m)``.

    The score is ``-mu W log(mean_m exp(d_m / (mu W)))`` with W the sum of the weights, and the mean over the objectives
    that take part. A mean in place of the paper's sum differs from it by a constant, and keeps the score between minus
    the largest distance (mu to 0) and minus their mean (mu to infinity: the linear score).
    """

    info = MethodInfo(
        SmoothTchebycheffConfig,
        "a smooth maximum of the weighted distances to a reference point",
        "Lin et al. 2024, arXiv 2402.19078",
    )
    config: SmoothTchebycheffConfig

    def distance(self, gap_NM: Tensor) -> Tensor:
        """The smooth maximum of the distances."""
        largest_N = gap_NM.amax(1)
        takes_part_NM = gap_NM > float("-inf")
        # From the largest one down nothing overflows; and expm1 and log1p lose no digit where mu is large.
        below_NM = torch.where(takes_part_NM, torch.expm1((gap_NM - largest_N[:, None]) / self._scale), 0.0)
        return largest_N + self._scale * torch.log1p(below_NM.sum(1) / takes_part_NM.sum(1))

    def binding(self, gap_NM: Tensor) -> Tensor:
        """The objectives' shares of the gradient of the score by the distances: they sum to 1."""
        return torch.softmax(gap_NM / self._scale, 1).nan_to_num(0.0)  # where none takes part

    @property
    def _scale(self) -> float:
        return self.config.mu * float(self._weights_M.sum())
