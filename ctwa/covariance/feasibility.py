"""Can the covariance targets be met at all?

With an advantage that is the score's z-score within the prompt, on-policy, the covariances that weights ``lam`` produce
are ``c(lam) = C lam / sqrt(lam' C lam)``, where C is the within-prompt covariance of the rewards. The reachable set is
the part of the ellipsoid ``c' C^-1 c = 1`` whose ``C^-1 c`` is not negative, so targets ``c*`` can be met by some
``lam >= 0`` exactly when ``v* = min {c' C^-1 c : c >= c*} <= 1``. The multipliers of that minimum are the weights.
With a negative target among them, ``v* > 1`` still proves that they cannot be met, but ``v* <= 1`` proves nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctwa.covariance.within_prompt import within_prompt_covariance
from ctwa.solvers.least_squares import nonnegative_least_squares


@dataclass(frozen=True)
class Feasibility:
    """What is known about targets.

    Attributes:
        value: v*; above 1 no weights meet the targets. NaN where C was not observed.
        weights_M: a direction of weights that meets them when they can be met, summing to 1; all 0 when no target is
            above 0, for then any weights do; NaN where C was not observed.
    """

    value: float
    weights_M: Tensor

    @property
    def feasible(self) -> bool:
        """Whether v* allows the targets; exact where none is negative."""
        return self.value <= 1


def reward_covariance(rewards_NM: Tensor, scored_NM: Tensor, group_N: Tensor, *, ddof: int = 0) -> Tensor:
    """The within-prompt covariance C (M, M) of the rewards: each pair over the rows where both were scored.

    A pair that no prompt group scored twice is NaN.
    """
    return within_prompt_covariance(
        rewards_NM[:, :, None],
        rewards_NM[:, None, :],
        scored_NM[:, :, None] & scored_NM[:, None, :],
        group_N,
        ddof=ddof,
    ).mean_D


def weighted_covariance(covariance_MM: Tensor, weights_M: Tensor) -> Tensor:
    """The covariances ``c(lam) = C lam / sqrt(lam' C lam)`` of an on-policy step; the scale of the weights is free.

    With the sample standard deviation in the advantage they are smaller by ``sqrt((K - 1) / K)``. Objectives that never
    apply to one prompt have advantages, and covariances, of their own.
    """
    covariances_M = torch.empty_like(weights_M)
    for part_S in parts_apart(covariance_MM):
        weights_S = weights_M[part_S]
        product_S = covariance_MM[part_S][:, part_S] @ weights_S
        covariances_M[part_S] = product_S / (weights_S @ product_S).sqrt()
    return covariances_M


def parts_apart(covariance_MM: Tensor) -> list[Tensor]:
    """The objectives in parts, none of which was ever scored on a prompt together with one of another part.

    Args:
        covariance_MM: of the rewards, NaN for a pair that no prompt has (``reward_covariance``).

    Returns:
        int64 indices of each part, rising.
    """
    linked_MM = covariance_MM.isfinite() | torch.eye(len(covariance_MM), dtype=torch.bool)
    for _ in range(len(covariance_MM)):  # what is linked to what is linked
        linked_MM = (linked_MM.double() @ linked_MM.double()) > 0
    return [row_M.nonzero()[:, 0] for row_M in linked_MM.unique(dim=0).flip(0)]


def target_feasibility(covariance_MM: Tensor, targets_M: Tensor, *, ridge: float = 1e-6) -> Feasibility:
    """The value v* of the targets, exactly.

    The dual of the minimum is ``max {2 lam'c* - lam' C lam : lam >= 0}``: with ``C = A'A``, a nonnegative least
    squares problem ``min |A lam - A^-T c*|``, which Lawson and Hanson's active-set method solves in finitely many
    steps. At the solution v* = ``lam' C lam`` (= ``lam'c*``).

    Objectives that never apply to one prompt do not stand in each other's way: v* is then the largest of the parts that
    are apart (``parts_apart``), and every part's weights have the same sum. It is not known where objectives were not
    scored together that each were with a third.

    Args:
        covariance_MM: the covariance of the rewards. Negative eigenvalues, which pairs scored on different rows can
            give, count as 0.
        targets_M: the covariance targets.
        ridge: added to the diagonal, so that an objective without variance is infeasible and not singular.
    """
    parts = parts_apart(covariance_MM)
    if len(parts) > 1:
        found = [target_feasibility(covariance_MM[part][:, part], targets_M[part], ridge=ridge) for part in parts]
        weights_M = torch.cat([each.weights_M for each in found])[torch.cat(parts).argsort()]
        values = torch.tensor([each.value for each in found])
        return Feasibility(float(values.amax()), weights_M / len(parts))
    if not covariance_MM.isfinite().all():
        return Feasibility(math.nan, torch.full_like(targets_M, math.nan))
    eigenvalue_M, eigenvector_MM = torch.linalg.eigh(covariance_MM)
    root_M = (eigenvalue_M.clamp(min=0) + ridge).sqrt()
    factor_MM = root_M[:, None] * eigenvector_MM.T
    weights_M = nonnegative_least_squares(factor_MM, (eigenvector_MM.T @ targets_M) / root_M)
    value = float((factor_MM @ weights_M).square().sum())
    return Feasibility(value, weights_M / weights_M.sum() if value > 0 else weights_M)
