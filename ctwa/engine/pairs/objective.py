"""The objectives' losses on a micro-batch of pairs: what the workers differentiate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from ctwa.preference.losses import (
    PairLogProbs,
    PreferenceLoss,
    objective_losses,
    objective_means,
    soft_losses,
    sum_log_probs,
)

SOFT_LABEL = "probability"
"""Column of a batch with the probability that the chosen response is preferred, in place of labels."""


@dataclass
class PairLoss:
    """Every objective's loss, from one forward pass over both responses of the pairs.

    A micro-batch contributes its share of the batch's mean, times the number of data-parallel ranks, over which verl's
    engine averages gradients.

    Attributes:
        loss: on a pair.
        names: the objectives, in alphabetical order.
        skip_absent: give no loss for an objective that no pair of the micro-batch is labelled for, and so save its
            backward pass. Only where the micro-batches of all ranks are labelled for the same objectives.
        seen: the log-probabilities of the pairs that were met, by micro-batch: index in the batch, chosen, rejected.
    """

    loss: PreferenceLoss
    names: tuple[str, ...]
    skip_absent: bool = True
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def losses(self, model_output: dict[str, Any], data: TensorDict) -> list[Tensor | None]:
        """M losses; None for an objective that has no part in the micro-batch."""
        log_probs = self.record(model_output, data)
        num_labelled_M = torch.tensor(tu.get_non_tensor_data(data, "num_labelled", None), device=data["pair"].device)
        if SOFT_LABEL in data:
            losses_PM = soft_losses(self.loss, log_probs, data[SOFT_LABEL][::2])[:, None]
        else:
            losses_PM = objective_losses(self.loss, log_probs, data["labels"][::2])
        labelled_PM = data["labelled"][::2]
        means_M = objective_means(losses_PM, labelled_PM, num_labelled_M) * data["dp_size"]
        present = labelled_PM.any(0).tolist() if self.skip_absent else [True] * len(self.names)
        return [mean if there else None for mean, there in zip(means_M, present, strict=True)]

    def record(self, model_output: dict[str, Any], data: TensorDict) -> PairLogProbs:
        """The pairs' log-probabilities, with their gradients; they are kept in ``seen`` without."""
        # The log-probability at a position is that of the token behind it.
        log_probs_NT, mask_NT = _padded(model_output["log_probs"])[:, :-1], _padded(data["loss_mask"])[:, 1:]
        sums_N, lengths_N = sum_log_probs(log_probs_NT, mask_NT)
        reference_N = data.get("reference", None)
        pair_P = data["pair"][::2].cpu()
        # Where the objectives take a pass each, a micro-batch is met several times.
        self.seen[int(pair_P[0])] = (pair_P, sums_N[::2].detach().cpu(), sums_N[1::2].detach().cpu())
        return PairLogProbs(
            sums_N[::2],
            sums_N[1::2],
            lengths_N[::2],
            lengths_N[1::2],
            None if reference_N is None else reference_N[::2].to(sums_N.dtype),
            None if reference_N is None else reference_N[1::2].to(sums_N.dtype),
        )

    def take(self) -> TensorDict:
        """What was seen, in the order it was met: ``pair``, ``chosen``, ``rejected``, (P,) each."""
        pair_P, chosen_P, rejected_P = (torch.cat(parts) for parts in zip(*self.seen.values(), strict=True))
        self.seen = {}
        fields = {"pair": pair_P, "chosen": chosen_P.double(), "rejected": rejected_P.double()}
        return TensorDict(fields, batch_size=len(pair_P))


def _padded(nested_NT: Tensor) -> Tensor:
    """Rows of different lengths as a rectangle, filled with zeros on the right."""
    lengths_N = nested_NT.offsets().diff()  # type: ignore[attr-defined]  # of the jagged layout alone
    valid_NT = torch.arange(int(lengths_N.max()), device=lengths_N.device) < lengths_N[:, None]
    values = nested_NT.values()
    return values.new_zeros(valid_NT.shape).masked_scatter(valid_NT, values)
