"""Common descent: the weights nearest to the preference under which no objective is expected to get worse."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ctwa.aggregators.base import Aggregator, Gradients, gradient_level
from ctwa.aggregators.gram import ZERO_NORM, has_gradient, unit_scale
from ctwa.method_info import Options
from ctwa.solvers.simplex import MET, least_violation, nearest_on_simplex

BINDING = 1e-6  # progress, over the norms of gradients, that is none


class CommonDescentConfig(Options):
    """The options of common descent.

    Attributes:
        errors: an objective may seem to get worse by so many standard errors of its progress, where they are known:
            with ``ctwa.gradients.gram=cross_fitted``. A larger number follows the preference more, and noise less.
    """

    type: Literal["common_descent"] = "common_descent"
    errors: Annotated[float, Field(ge=0)] = 1.0


class CommonDescent(Aggregator):
    """The w of the simplex with the least ``||w - p||`` under ``(H w)_m >= -errors * sum_j w_j SE(H[m, j])`` for all m.

    ``(H w)_m = <g_m, sum_j w_j g_j>`` is the progress of objective m along the step, to first order. Its standard error
    is at most the sum on the right, which keeps the conditions linear, and the problem a quadratic programme.

    Where conflicts are within their errors the weights are the preference. A Gram matrix has such weights always; an
    estimate of one may have none. Then the conditions are missed by as little as can be (least squares, in units of the
    objective's norm times the weighted norms in the step), and the metrics say which objectives cannot be had together.

    An objective without a gradient asks for nothing. One whose squared norm is estimated as 0 or less has a gradient
    where its inner products are not 0, and asks as the others do. An objective of weight 0 gets weight only where that
    protects another, and is protected itself.
    """

    info = gradient_level(
        CommonDescentConfig, "the nearest weights under which no objective is expected to fall", "this project"
    )
    needs_semi_definite = False
    of_errors = ("errors",)

    def weights(self, gradients: Gradients) -> tuple[Tensor, dict[str, float]]:
        """The weights, summing to 1; reports for whose sake they are not the preference, and who loses all the same."""
        gram_MM, errors_MM = unit_scale(torch.cat([gradients.gram_MM, gradients.errors_MM])).chunk(2)
        bounds_MM = gram_MM + self.config.errors * errors_MM
        weights_M, missed_M = self.preference_M.clone(), torch.zeros_like(self.preference_M)
        binds_M = torch.zeros_like(self.preference_M)
        index_S = _has_a_row(bounds_MM).nonzero()[:, 0]
        share = weights_M[index_S].sum()
        if bool(bounds_MM.isfinite().all() and share > 0):  # else nothing is certain, or nothing to weigh
            rows_SS = _rows(bounds_MM[index_S][:, index_S], errors_MM.diagonal()[index_S])
            if bool((rows_SS @ weights_M[index_S] < 0).any()):
                found_S, missed_M[index_S] = _nearest(weights_M[index_S] / share, rows_SS)
                weights_M[index_S] = share * found_S
                binds_M[index_S] = (rows_SS @ found_S <= BINDING).double()
        metrics = {f"common_descent/binds/{name}": value for name, value in self.named(binds_M).items()}
        return weights_M, metrics | {
            f"common_descent/missed/{name}": each for name, each in self.named(missed_M).items()
        }


def _has_a_row(bounds_MM: Tensor) -> Tensor:
    """Bool (M,): the objectives with a gradient. An estimate of its squared norm may be 0 or less."""
    largest_M = bounds_MM.abs().amax(1)
    return has_gradient(bounds_MM) | (largest_M > ZERO_NORM * largest_M.max())


def _rows(bounds_SS: Tensor, errors_S: Tensor) -> Tensor:
    """The conditions (S, S) in units of the gradients' norms: entries are near 1.

    A squared norm that is below its standard error is taken for that, and one of nothing for the row's largest entry:
    divided by next to nothing, one condition would outweigh all the others.

    Args:
        bounds_SS: the conditions, none of them 0.
        errors_S: the standard errors of the squared norms.
    """
    squared_S = torch.maximum(bounds_SS.diagonal(), errors_S)
    lengths_S = torch.where(squared_S > 0, squared_S, bounds_SS.abs().amax(1)).sqrt()
    return bounds_SS / lengths_S[:, None] / lengths_S.max()


def _nearest(preference_S: Tensor, rows_SS: Tensor) -> tuple[Tensor, Tensor]:
    """The weights nearest to the preference, and by how much each condition is missed."""
    found_S = nearest_on_simplex(preference_S, rows_SS)
    if found_S is not None:
        return found_S, torch.zeros_like(preference_S)
    # In shares of the step, for a gradient that is far longer than the others has next to no weight.
    lengths_S = rows_SS.abs().amax(0)
    terms_S, progress_S = least_violation(rows_SS / lengths_S)
    least_S = terms_S / lengths_S / (terms_S / lengths_S).sum()
    found_S = nearest_on_simplex(preference_S, rows_SS - (progress_S - MET)[:, None] * lengths_S)
    if found_S is None:  # rounding may leave no point that is nearer
        found_S = least_S
    return found_S, torch.where(progress_S < -MET, -(rows_SS @ found_S).clamp(max=0), 0.0)
