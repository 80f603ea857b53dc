"""Covariance among the completions of one prompt, averaged over the prompts of a batch.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), section 5.1. The groups must be whole: gather all data-parallel ranks first,
for a group that is split over ranks has a smaller covariance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctwa.batch import EQUAL

_LEAST_WEIGHT = 1e-8
"""What weights differ by at least, where scores do: of equal ones an estimator divides the rounding by 1e-6."""


@dataclass(frozen=True)
class WithinPrompt:
    """A statistic of G prompt groups, for each of the columns D it was asked for (objectives, or pairs of them).

    Attributes:
        mean_D: float64, the mean over usable groups, each group weighing the same; NaN where no group is usable,
            which means "not observed" and never 0.
        groups_GD: float64, the value in each group; NaN where the group is not usable, or its values are not finite.
    """

    mean_D: Tensor
    groups_GD: Tensor

    @property
    def num_usable_D(self) -> Tensor:
        """The number of usable groups, int64."""
        return (~self.groups_GD.isnan()).sum(0)


def within_prompt_covariance(
    x_ND: Tensor, y_ND: Tensor, valid_ND: Tensor, group_N: Tensor, *, ddof: int = 0, correlation: bool = False
) -> WithinPrompt:
    """Covariance of x and y within each prompt group, and its mean over the groups.

    Args:
        x_ND: values, with any trailing dimensions.
        y_ND: values whose trailing dimensions broadcast with those of x, such as (N, 1) with (N, M).
        valid_ND: bool, the rows that count, column by column. What stands in other rows has no influence.
        group_N: int64, the prompt of each row, in any order.
        ddof: 0 for the population covariance (the paper's targets are set against it), 1 for the sample covariance,
            which is K / (K - 1) times larger for K completions a prompt.
        correlation: divide each group's covariance by both standard deviations. A group in which x or y is constant
            has no correlation and is not usable: x that varies by less than 1e-12, or y, weights, by less than 1e-8.

    Groups with fewer than two valid rows are not usable.
    """
    x_ND, y_ND, valid_ND = torch.broadcast_tensors(x_ND.double(), y_ND.double(), valid_ND)
    _, index_N = torch.unique(group_N, return_inverse=True)
    num_groups = int(index_N.max()) + 1 if len(index_N) else 0

    def group_sum(values_ND: Tensor) -> Tensor:
        return values_ND.new_zeros(num_groups, *values_ND.shape[1:]).index_add(0, index_N, values_ND)

    num_GD = group_sum(valid_ND.double())

    def centred(values_ND: Tensor) -> Tensor:
        # From the group's least value first: equal values are then exactly 0, with no rounding error of their mean
        # that something could be divided by, and an offset costs no digits.
        rows_ND = index_N.view(-1, *[1] * (values_ND.ndim - 1)).expand(values_ND.shape)
        least_GD = values_ND.new_full((num_groups, *values_ND.shape[1:]), math.inf).scatter_reduce(
            0, rows_ND, torch.where(valid_ND, values_ND, math.inf), "amin"
        )
        values_ND = torch.where(valid_ND, values_ND - least_GD[index_N], 0.0)
        mean_GD = group_sum(values_ND) / num_GD.clamp(min=1)
        return torch.where(valid_ND, values_ND - mean_GD[index_N], 0.0)

    dx_ND, dy_ND = centred(x_ND), centred(y_ND)
    usable_GD = num_GD >= 2
    covariance_GD = group_sum(dx_ND * dy_ND) / (num_GD - ddof).clamp(min=1)
    if correlation:
        for values_ND, d_ND, least in ((x_ND, dx_ND, EQUAL), (y_ND, dy_ND, _LEAST_WEIGHT)):
            std_GD = (group_sum(d_ND.square()) / (num_GD - ddof).clamp(min=1)).sqrt()
            size_GD = (group_sum(torch.where(valid_ND, values_ND, 0.0).square()) / num_GD.clamp(min=1)).sqrt()
            usable_GD = usable_GD & ~(std_GD <= (EQUAL * size_GD).clamp(min=least))
            covariance_GD = covariance_GD / std_GD
    # A group whose values are not finite stays in the mean, which must say that something is wrong.
    mean_D = torch.where(usable_GD, covariance_GD, 0.0).sum(0) / usable_GD.sum(0)
    return WithinPrompt(mean_D, torch.where(usable_GD, covariance_GD, math.nan))
