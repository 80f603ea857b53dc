"""What an update does with the objectives' gradients at one policy, and what came of it.

The loss of every objective is differentiated alone; the M x M Gram matrix of the gradients goes to the method, and its
weights combine them where they are. What a step does is said by a :class:`GradientPlan`. In the engine it travels to
the workers with the method's state and comes back with it: no gradient ever leaves a worker.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.aggregators.base import Aggregator, Solution
from ctwa.aggregators.cross_fit import STEP, CrossFittedGram, halves_of, split_gram
from ctwa.batch import Rollout
from ctwa.covariance.diagnostics import finite
from ctwa.gradients.settings import GradientSettings
from ctwa.scalarizers.base import Scalarizer


@dataclass
class GradientPlan:
    """What the workers do with the objectives' gradients in one step, and what came of it.

    Attributes:
        names: the objectives, in alphabetical order.
        aggregator: solves for the weights; None to measure only, and to descend along the loss of ``advantages``.
        losses_M: a loss of each objective, 0 or more, for methods that look at it (GradNorm); None for those that are
            differentiated.
        solve: False to descend along the weights of the last time without measuring anything.
        settings: how the gradients are taken.
        first_only: measure at the step's first mini-batch alone (diagnostics).
        cross_fitted: the mean of cross-fitted Gram matrices, which this step's go into; None for the plain matrix of
            each mini-batch.
        half_N: the half of each completion of the step, int8, as ``halves_of`` gives it, and of each row on the way to
            the workers; with ``cross_fitted``.
        records: what was measured, one a mini-batch.
        before: aggregator and mean as they were before the last mini-batch; None where that was not measured.
    """

    names: tuple[str, ...]
    aggregator: Aggregator | None
    settings: GradientSettings
    losses_M: Tensor | None = None
    solve: bool = True
    first_only: bool = False
    cross_fitted: CrossFittedGram | None = None
    half_N: Tensor | None = None
    records: list[GradientRecord] = field(default_factory=list)
    before: tuple[Aggregator | None, CrossFittedGram | None] | None = None

    @property
    def measures(self) -> bool:
        """Whether the next mini-batch is to be measured."""
        return self.solve and not (self.first_only and self.records)

    @property
    def measured_names(self) -> tuple[str, ...]:
        """The R gradients that are measured; without an aggregator the step is of none of the objectives' making."""
        return self.names if self.aggregator is not None else (*self.names, STEP)

    @property
    def num_halves(self) -> int:
        """How many gradients are taken of each loss: a mini-batch's, or those of its two halves."""
        return 1 if self.cross_fitted is None else 2

    def observe(self, gram_HH: Tensor, num_rows: Sequence[int]) -> Tensor:
        """Take up what a mini-batch's gradients gave, for as long as its update is not left out.

        Returns the plain Gram matrix (R, R).

        Args:
            gram_HH: inner products of all gradients that were taken.
            num_rows: the completions behind them: of each half, where there are two.
        """
        self.before = copy.deepcopy((self.aggregator, self.cross_fitted))
        if self.cross_fitted is None:
            return gram_HH
        plain_RR, cross_RR = split_gram(gram_HH, num_rows)
        if cross_RR is not None and plain_RR.isfinite().all():
            self.cross_fitted.observe(cross_RR, plain_RR)
        return plain_RR

    def leave_out(self) -> None:
        """The optimizer has left out the last mini-batch, though the objectives' gradients were finite.

        Nothing is learnt of it: what is remembered is as it was before.
        """
        if self.before is not None:
            self.aggregator, self.cross_fitted = self.before
        if self.aggregator is not None:
            self.records[-1] = replace(self.records[-1], skipped=True)
            self.aggregator.num_skipped += 1

    def for_solver(self, plain_MM: Tensor) -> tuple[Tensor, Tensor | None]:
        """The Gram matrix that the aggregator is to see, and its standard errors where they are known.

        One that is not finite is shown as it is: the step is to be skipped.
        """
        if self.cross_fitted is None or not plain_MM.isfinite().all():
            return plain_MM, None
        assert self.aggregator is not None
        mended = self.cross_fitted.semi_definite if self.aggregator.needs_semi_definite else None
        return self.cross_fitted.gram_RR if mended is None else mended(), self.cross_fitted.errors_RR

    def weigh(self, plain_MM: Tensor, losses_M: Tensor | None, learning_rate: float) -> Solution:
        """Let the aggregator weigh the gradients of a mini-batch, on the first rank for all, and keep the record.

        Args:
            plain_MM: their Gram matrix.
            losses_M: of the objectives, for a method that looks at the losses that are differentiated.
            learning_rate: of the step to come.
        """
        assert self.aggregator is not None
        shown_MM, errors_MM = self.for_solver(plain_MM)
        self.aggregator, solution, metrics = solve_once(
            self.aggregator,
            shown_MM,
            self.losses_M if losses_M is None else losses_M,
            learning_rate=learning_rate,
            errors_MM=errors_MM,
        )
        metrics |= self.progress(plain_MM, solution.weights_M, learning_rate)
        self.records.append(GradientRecord(plain_MM, solution.weights_M, solution.skipped, metrics))
        return solution

    def hold(self) -> Tensor | None:
        """The weights of the last time, for a mini-batch that is not measured; it has a record, too.

        None, and no record, where no aggregator weighs.
        """
        self.before = None
        if self.aggregator is None:
            return None
        weights_M = self.aggregator.last_weights_M
        self.records.append(GradientRecord(None, weights_M, False, {}))
        return weights_M

    def progress(self, plain_RR: Tensor, weights_M: Tensor | None, learning_rate: float) -> dict[str, float]:
        """By how much the step is to lower each objective's loss, to first order: ``learning_rate * gram @ weights``.

        Before gradients are clipped to a norm, and without what all objectives share.

        Args:
            plain_RR: of the mini-batch.
            weights_M: of the step; None where its own gradient is among those measured.
            learning_rate: of the step.
        """
        weights_R = torch.zeros(len(plain_RR), dtype=torch.float64)
        if weights_M is None:
            weights_R[-1] = 1
        else:
            weights_R[:] = weights_M
        found = {key_of.gradient_progress: plain_RR @ weights_R}
        if self.cross_fitted is not None and self.cross_fitted.num:
            found[key_of.conflict_progress] = self.cross_fitted.gram_RR @ weights_R
            # No less than the error of the sum, whatever the entries' errors have to do with one another.
            found[key_of.conflict_progress_error] = self.cross_fitted.errors_RR @ weights_R.abs()
        return finite(
            {
                key(name): learning_rate * float(value)
                for key, values_R in found.items()
                for name, value in zip(self.names, values_R, strict=False)
            }
        )


@dataclass(frozen=True)
class GradientRecord:
    """One mini-batch: ``gram_MM`` float64 (None where nothing was measured), the weights used, and what was skipped."""

    gram_MM: Tensor | None
    weights_M: Tensor | None
    skipped: bool
    metrics: dict[str, float]


def make_cross_fitted(settings: GradientSettings, scalarizer: Scalarizer, *, every: int) -> CrossFittedGram | None:
    """The mean that a run keeps; None where it is plain matrices that are wanted, or none.

    Args:
        settings: how gradients are taken.
        scalarizer: the method.
        every: the interval of the diagnostics; 0 for none.
    """
    if settings.gram == "plain" or (scalarizer.aggregator is None and not every):
        return None
    plan = GradientPlan(tuple(sorted(scalarizer.names)), scalarizer.aggregator, settings)
    return CrossFittedGram(plan.measured_names, settings.half_life)


def make_plan(
    settings: GradientSettings,
    scalarizer: Scalarizer,
    rollout: Rollout,
    *,
    step: int,
    every: int,
    cross_fitted: CrossFittedGram | None = None,
    trained_N: Tensor | None = None,
) -> GradientPlan | None:
    """What a step does with the objectives' gradients; None where neither the method nor the diagnostics want them.

    Args:
        settings: how gradients are taken.
        scalarizer: the method.
        rollout: the step's completions.
        step: its number, from 1.
        every: the interval of the diagnostics; 0 for none.
        cross_fitted: the mean that the run keeps; None for plain matrices.
        trained_N: bool, the completions that may have a gradient; all of them where None.
    """
    names = tuple(sorted(rollout.rewards.names))
    if scalarizer.aggregator is not None:
        solve = (step - 1) % settings.refresh_every == 0
        plan = GradientPlan(names, scalarizer.aggregator, settings, scalarizer.losses(rollout), solve=solve)
    elif every and (step - 1) % every == 0:
        plan = GradientPlan(names, None, settings, first_only=True)
    else:
        return None
    if cross_fitted is not None and cross_fitted.names == plan.measured_names:
        everyone_N = torch.ones_like(rollout.group_N, dtype=torch.bool)
        plan.cross_fitted = cross_fitted
        plan.half_N = halves_of(rollout.group_N, everyone_N if trained_N is None else trained_N)
    return plan


def solve_once(
    aggregator: Aggregator,
    gram_MM: Tensor,
    losses_M: Tensor | None,
    *,
    learning_rate: float,
    errors_MM: Tensor | None = None,
) -> tuple[Aggregator, Solution, dict[str, float]]:
    """Solve for the weights on the first rank, for all.

    Ranks with other processors, or another BLAS, may take another branch of a solver at equal Gram matrices, and then
    each would combine its shards by weights of its own.

    Args:
        aggregator: the method; the first rank's is the one that counts.
        gram_MM: of the whole batch.
        losses_M: of the objectives, where the method looks at them.
        learning_rate: of the step.
        errors_MM: the standard errors of the inner products, where they were estimated.

    Returns:
        The first rank's method, its state moved on; its solution; and its metrics, with ``time/solver`` in seconds.
    """
    found: list[Any] = [None]
    is_distributed = torch.distributed.is_initialized()
    if not is_distributed or torch.distributed.get_rank() == 0:
        began = time.perf_counter()
        solution = aggregator.solve(gram_MM, losses_M=losses_M, learning_rate=learning_rate, errors_MM=errors_MM)
        metrics = {**solution.metrics, "time/solver": time.perf_counter() - began}
        found = [(aggregator, solution, metrics)]
    if is_distributed:
        torch.distributed.broadcast_object_list(found, src=0)
    result: tuple[Aggregator, Solution, dict[str, float]] = found[0]
    return result


def gradient_metrics(plan: GradientPlan) -> dict[str, float]:
    """``gradient/norm/<name>``, ``gradient/cosine/<name>:<name>`` and the method's own, means over the mini-batches.

    ``gradient/skipped`` counts mini-batches whose gradients were not finite, ``gradient/num_skipped`` those of the
    whole run, ``gradient/num_held`` those whose gradients were all zero, so that the weights stayed;
    ``gradient/num_fallback`` the answers of outside solvers that were not believed.
    """
    metrics: dict[str, float] = {}
    if plan.aggregator is not None:
        metrics[key_of.SKIPPED_UPDATES] = sum(record.skipped for record in plan.records)
        metrics["gradient/num_skipped"] = plan.aggregator.num_skipped
        metrics["gradient/num_held"] = plan.aggregator.num_held
        metrics["gradient/num_fallback"] = plan.aggregator.num_fallback
    for key in sorted({key for record in plan.records for key in record.metrics}):
        values = [record.metrics[key] for record in plan.records if key in record.metrics]
        metrics[key] = sum(values) / len(values)
    if plan.cross_fitted is not None:
        metrics |= plan.cross_fitted.metrics()
    grams = [record.gram_MM for record in plan.records if record.gram_MM is not None and not record.skipped]
    if not grams:
        return metrics
    norms_RM = torch.stack([gram_MM.diagonal().sqrt() for gram_MM in grams])
    cosines_RMM = torch.stack(grams) / (norms_RM[:, :, None] * norms_RM[:, None, :])
    for row, name in enumerate(plan.names):
        metrics[key_of.gradient_norm(name)] = float(norms_RM[:, row].mean())
        for column, other in enumerate(plan.names[row + 1 :], start=row + 1):
            metrics[key_of.gradient_cosine(name, other)] = float(cosines_RMM[:, row, column].nanmean())
    return finite(metrics)


def combined_advantages(plan: GradientPlan, advantages_MNT: Tensor) -> Tensor | None:
    """(N, T) advantages as the step's weights combined them, mean over its mini-batches; None where none were used."""
    weights = [record.weights_M for record in plan.records if record.weights_M is not None and not record.skipped]
    if not weights:
        return None
    return torch.einsum("m,mnt->nt", torch.stack(weights).mean(0).to(advantages_MNT), advantages_MNT)
