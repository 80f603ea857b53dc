"""Losses on preference pairs from summed log-probabilities: DPO, IPO, CPO and SimPO (CLAMP, Table 1).

All four are a function of one number, the difference of the two responses' implicit rewards. A label +1, -1 or 0 says
which response an objective prefers, and multiplies that difference: the losses of M objectives on the same pairs cost
one forward pass. Log-probabilities are natural logarithms, summed over the response's tokens alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from ctwa.errors import CtwaError
from ctwa.method_info import Options

ROUNDING = 1e-6
"""Margins below it are the reference's own: its log-probabilities may come of other batches than the policy's."""

Positive = Annotated[float, Field(gt=0)]


def sum_log_probs(log_probs_NT: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the log-probabilities of the response's tokens, in float32 at least.

    Args:
        log_probs_NT: of each token given those before it. Entries outside the mask are not read, whatever they are.
        mask_NT: 1 or True at the response's tokens.

    Returns:
        The sums and the numbers of tokens, both (N,).
    """
    mask_NT = mask_NT.bool()
    wide_NT = log_probs_NT.to(torch.promote_types(log_probs_NT.dtype, torch.float32))
    return torch.where(mask_NT, wide_NT, 0).sum(1), mask_NT.sum(1)


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probabilities of P pairs of responses, summed over the response's tokens; lengths in tokens.

    The reference's may be None for a loss without ``needs_reference``.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    chosen_lengths_P: Tensor
    rejected_lengths_P: Tensor
    reference_chosen_P: Tensor | None = None
    reference_rejected_P: Tensor | None = None


class PreferenceLoss(Options, ABC):
    """A loss and its options.

    Attributes:
        label_smoothing: the share of labels taken to be wrong: the loss becomes the mean of that of the label and that
            of its opposite, with this weight on the opposite.
    """

    needs_reference: ClassVar[bool]

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0

    @abstractmethod
    def rewards(self, log_probs: PairLogProbs) -> tuple[Tensor, Tensor]:
        """The implicit rewards of the chosen and the rejected responses, (P,) each, with their gradients."""

    @abstractmethod
    def of_margin(self, margin: Tensor) -> Tensor:
        """The loss where the preferred response's implicit reward exceeds the other's by ``margin``, elementwise."""

    def likelihood_terms(self, log_probs: PairLogProbs) -> tuple[Tensor, Tensor] | None:
        """What is added where the chosen and where the rejected response is the preferred one, (P,) each."""
        del log_probs
        return None

    def margins(self, log_probs: PairLogProbs) -> Tensor:
        """Implicit reward of the chosen response less that of the rejected one, (P,)."""
        chosen_P, rejected_P = self.rewards(log_probs)
        return chosen_P - rejected_P


class WithReference(PreferenceLoss):
    """A loss of the log-ratios of policy to reference.

    Attributes:
        beta: the scale of the log-ratio in the implicit reward: the price of divergence from the reference.
    """

    needs_reference: ClassVar[bool] = True

    beta: Positive = 0.1

    def rewards(self, log_probs: PairLogProbs) -> tuple[Tensor, Tensor]:
        """``beta`` times the log-ratio of policy to reference, with the gradient of the policy's alone."""
        if log_probs.reference_chosen_P is None or log_probs.reference_rejected_P is None:
            raise CtwaError("this loss needs the reference's log-probabilities; give them, or choose cpo or simpo")
        return (
            self.beta * (log_probs.chosen_P - log_probs.reference_chosen_P.detach()),
            self.beta * (log_probs.rejected_P - log_probs.reference_rejected_P.detach()),
        )


class DpoLoss(WithReference):
    """``-log sigma(margin)``, direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290)."""

    type: Literal["dpo"] = "dpo"

    def of_margin(self, margin: Tensor) -> Tensor:
        """-log sigma(margin)."""
        return -logsigmoid(margin)


class IpoLoss(WithReference):
    """``(margin / beta - 1 / (2 beta))^2``, identity preference optimization (Azar et al. 2024, arXiv 2310.12036).

    Attributes:
        form: ``table-1`` is CLAMP's Table 1 and the original. ``appendix-e`` is the ``(margin - 1)^2`` of CLAMP's
            proofs: another target (1 for 1/2) and another scale (beta^2).
    """

    type: Literal["ipo"] = "ipo"
    form: Literal["table-1", "appendix-e"] = "table-1"

    def of_margin(self, margin: Tensor) -> Tensor:
        """The squared distance from the target."""
        if self.form == "appendix-e":
            return (margin - 1).square()
        return ((margin - 0.5) / self.beta).square()


class CpoLoss(PreferenceLoss):
    """``-log sigma(margin) - log pi(preferred)``, contrastive preference optimization (Xu et al. 2024, 2401.08417).

    Label smoothing acts on the first term alone. A tie prefers no response, so nothing is added.

    Attributes:
        beta: the scale of the log-probability in the implicit reward.
        likelihood: of the preferred response, in the second term: ``sum`` over its tokens as in CLAMP's Table 1, or
            the ``mean``.
    """

    needs_reference: ClassVar[bool] = False

    type: Literal["cpo"] = "cpo"
    beta: Positive = 0.1
    likelihood: Literal["sum", "mean"] = "sum"

    def rewards(self, log_probs: PairLogProbs) -> tuple[Tensor, Tensor]:
        """``beta`` times the log-probability."""
        return self.beta * log_probs.chosen_P, self.beta * log_probs.rejected_P

    def of_margin(self, margin: Tensor) -> Tensor:
        """-log sigma(margin)."""
        return -logsigmoid(margin)

    def likelihood_terms(self, log_probs: PairLogProbs) -> tuple[Tensor, Tensor]:
        """The negative log-likelihoods."""
        if self.likelihood == "sum":
            return -log_probs.chosen_P, -log_probs.rejected_P
        return -log_probs.chosen_P / log_probs.chosen_lengths_P, -log_probs.rejected_P / log_probs.rejected_lengths_P


class SimpoLoss(PreferenceLoss):
    """``-log sigma(margin - gamma)``, simple preference optimization (Meng et al. 2024, arXiv 2405.14734).

    With ``gamma`` 0 it is the static loss of AMoPO, as RACO compares with it.

    Attributes:
        beta: the scale of the mean log-probability of a token.
        gamma: the margin asked for, in units of the implicit reward.
    """

    needs_reference: ClassVar[bool] = False

    type: Literal["simpo"] = "simpo"
    beta: Positive = 2.0
    gamma: Annotated[float, Field(ge=0)] = 0.5

    def rewards(self, log_probs: PairLogProbs) -> tuple[Tensor, Tensor]:
        """``beta`` times the mean log-probability of the response's tokens."""
        return (
            self.beta * log_probs.chosen_P / log_probs.chosen_lengths_P,
            self.beta * log_probs.rejected_P / log_probs.rejected_lengths_P,
        )

    def of_margin(self, margin: Tensor) -> Tensor:
        """-log sigma(margin - gamma)."""
        return -logsigmoid(margin - self.gamma)


def objective_losses(loss: PreferenceLoss, log_probs: PairLogProbs, labels_PM: Tensor) -> Tensor:
    """The losses of every objective on every pair.

    Args:
        loss: which loss.
        log_probs: of the P pairs.
        labels_PM: +1 where the objective prefers the chosen response, -1 where the rejected one, 0 for a tie. A tie's
            loss is a constant (that of a margin of 0) without a gradient.

    Returns:
        (P, M), with the gradient of the policy's log-probabilities. Where those of a pair are not finite, the loss of
        the objectives that prefer one of its responses is what comes of them, without a gradient: 0 times infinity is
        no 0, and would reach every objective in the backward pass.
    """
    margin_P, likelihood = loss.margins(log_probs), loss.likelihood_terms(log_probs)
    known_P = margin_P.isfinite()

    def only(values_P: Tensor) -> Tensor:
        return torch.where(known_P, values_P, 0.0)

    losses_PM = _losses(loss, labels_PM, only(margin_P), likelihood and (only(likelihood[0]), only(likelihood[1])))
    with torch.no_grad():
        as_they_are_PM = _losses(loss, labels_PM, margin_P, likelihood)
    return torch.where(known_P[:, None], losses_PM, as_they_are_PM)


def _losses(
    loss: PreferenceLoss, labels_PM: Tensor, margin_P: Tensor, likelihood: tuple[Tensor, Tensor] | None
) -> Tensor:
    # Chosen by the label and not multiplied with it: what is not finite is nothing to a tie.
    margin_PM = torch.where(labels_PM != 0, margin_P[:, None], 0.0)
    margin_PM = torch.where(labels_PM < 0, -margin_PM, margin_PM)
    losses_PM = loss.of_margin(margin_PM)
    if loss.label_smoothing:
        losses_PM = (1 - loss.label_smoothing) * losses_PM + loss.label_smoothing * loss.of_margin(-margin_PM)
    if likelihood is not None:
        chosen_P, rejected_P = likelihood
        losses_PM = losses_PM + torch.where(labels_PM > 0, chosen_P[:, None], 0.0)
        losses_PM = losses_PM + torch.where(labels_PM < 0, rejected_P[:, None], 0.0)
    return losses_PM


def pair_losses(loss: PreferenceLoss, log_probs: PairLogProbs) -> Tensor:
    """The losses (P,) of pairs whose chosen response is the preferred one."""
    return objective_losses(loss, log_probs, torch.ones_like(log_probs.chosen_P)[:, None])[:, 0]


def soft_losses(loss: PreferenceLoss, log_probs: PairLogProbs, probability_P: Tensor) -> Tensor:
    """The expected losses (P,) of labels that prefer the chosen response with ``probability_P``.

    What drawing a label a pair gives in the mean, without the noise. A probability of 1/2 is no tie: it draws the
    margin to 0, where a tie leaves it alone. Like a label, it is a constant of the loss.
    """
    probability_P = probability_P.detach()
    # What is never drawn is a tie, whose loss is finite whatever the log-probabilities are.
    drawn_P2 = torch.stack([(probability_P > 0).to(probability_P), -(probability_P < 1).to(probability_P)], 1)
    for_chosen_P, for_rejected_P = objective_losses(loss, log_probs, drawn_P2).unbind(1)
    return probability_P * for_chosen_P + (1 - probability_P) * for_rejected_P


def objective_means(losses_PM: Tensor, labelled_PM: Tensor, num_labelled_M: Tensor | None = None) -> Tensor:
    """Each objective's loss, (M,): the mean over the pairs that have a label for it, ties among them.

    Args:
        losses_PM: of all pairs.
        labelled_PM: False where a pair says nothing about an objective, as with one data set an objective.
        num_labelled_M: the labels in the whole batch, where this is one of its micro-batches or one rank's part; the
            means of the parts then add up to that of the whole. By default what is counted here.

    Returns:
        0, without a gradient, for an objective that no pair is labelled for.
    """
    if num_labelled_M is None:
        num_labelled_M = labelled_PM.sum(0)
    return torch.where(labelled_PM, losses_PM, 0).sum(0) / num_labelled_M.clamp(min=1)


def ranked_right(loss: PreferenceLoss, log_probs: PairLogProbs, labels_P: Tensor) -> Tensor:
    """By pair, (P,): 1 where the response that the label prefers has the higher implicit reward, 0 where the other has.

    It is 0.5 where both have the same, and NaN of a tie and where their difference is no number.
    """
    chosen_P, rejected_P = loss.rewards(log_probs)
    margin_P = torch.where(labels_P > 0, chosen_P - rejected_P, rejected_P - chosen_P)
    right_P = torch.where(margin_P.abs() < ROUNDING, 0.5, (margin_P > 0).to(margin_P))
    return torch.where((labels_P == 0) | margin_P.isnan(), torch.nan, right_P)


def preference_metrics(
    loss: PreferenceLoss, log_probs: PairLogProbs, labels_PM: Tensor, labelled_PM: Tensor, names: Sequence[str]
) -> dict[str, float]:
    """What to report of a whole batch (gathered over micro-batches and ranks), by objective.

    ``preference/<name>/loss`` is the mean over labelled pairs; ``tie_frac`` the share of ties among them. Over pairs
    that are no ties: ``accuracy`` is the share whose preferred response has the higher implicit reward (equal ones
    count half: .5 before the first step), ``margin`` the mean difference, ``reward_preferred`` and
    ``reward_dispreferred`` the mean implicit rewards; ``num_not_finite`` counts those whose difference is not finite,
    where there are any, and ``accuracy`` leaves those out whose difference is no number at all. What has no pair to be
    computed from is left out.
    """
    with torch.no_grad():
        losses_PM = objective_losses(loss, log_probs, labels_PM)
        chosen_P, rejected_P = loss.rewards(log_probs)
        metrics: dict[str, float] = {}
        for m, name in enumerate(names):
            labelled_P = labelled_PM[:, m]
            if not labelled_P.any():
                continue
            decided_P = labelled_P & (labels_PM[:, m] != 0)
            values = {
                "loss": losses_PM[labelled_P, m].mean(),
                "tie_frac": 1 - decided_P.sum() / labelled_P.sum(),
            }
            if decided_P.any():
                first_P = labels_PM[:, m] > 0
                preferred_P = torch.where(first_P, chosen_P, rejected_P)[decided_P]
                other_P = torch.where(first_P, rejected_P, chosen_P)[decided_P]
                margin_P = preferred_P - other_P
                right_P = ranked_right(loss, log_probs, labels_PM[:, m])
                if (ranked_P := ~right_P.isnan()).any():
                    values["accuracy"] = right_P[ranked_P].mean()
                if not margin_P.isfinite().all():
                    values["num_not_finite"] = (~margin_P.isfinite()).sum()
                values |= {
                    "margin": margin_P.mean(),
                    "reward_preferred": preferred_P.mean(),
                    "reward_dispreferred": other_P.mean(),
                }
            metrics |= {f"preference/{name}/{key}": value.item() for key, value in values.items()}
        return metrics
