"""PAMA, Pareto multi-objective alignment: what all objectives agree on, by positive advantages.

Source: He & Maghsudi 2025, arXiv 2508.07768.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.methods import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, objective_advantages
from ctwa.scalarizers.per_objective import token_mean, trained_objectives


class PamaConfig(Options):
    """The options of PAMA.

    Attributes:
        variant: what is projected, for the paper can be read in more than one way. ``completion``: each token of each
            completion gets the least positive part among the objectives' advantages. ``objective``: the batch is
            trained on the positive part of one objective, the one whose mean is least. ``published-code``: every token
            of the batch gets that least mean itself, one and the same number, which prefers no completion to another.
    """

    type: Literal["pama"] = "pama"
    variant: Literal["completion", "objective", "published-code"] = "completion"


def nearest_to_zero(values: Tensor) -> Tensor:
    """The point nearest to 0 between the least and the greatest of ``values`` along their first dimension.

    It is the weighted mean of the values, over all weights that sum to 1, of the least magnitude (PAMA, Theorem 1).
    """
    return torch.zeros_like(values[0]).clamp(values.amin(0), values.amax(0))


class Pama(Scalarizer):
    """Trains on the combination of the objectives' positive advantages that has the least magnitude.

    The objectives' own weights play no part, except that one of weight 0 takes no part itself.
    """

    info = MethodInfo(
        PamaConfig, "the least of the positive advantages", "He & Maghsudi 2025, arXiv 2508.07768", level="advantage"
    )
    config: PamaConfig

    def __init__(self, config: PamaConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._means: dict[str, float] = {}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T), none of them below 0."""
        # Noon, "no negative": the paper's name for an advantage's positive part.
        noon_MNT = torch.stack([each.clamp(min=0) for each in objective_advantages(rollout, estimate, self.names)])
        means = [token_mean(noon_NT, rollout.loss_mask_NT) for noon_NT in noon_MNT]
        self._means = dict(zip(self.names, means, strict=True))
        if self.config.variant == "completion":
            return nearest_to_zero(noon_MNT)
        if self.config.variant == "objective":
            return noon_MNT[means.index(min(means))]
        scalar = float(nearest_to_zero(torch.tensor(means, dtype=torch.float64)))
        return torch.full_like(noon_MNT[0], scalar)

    def observe_update(self, update: Update) -> dict[str, float]:
        """Nothing to learn.

        Returns:
            ``pama/noon/<name>``: the mean over tokens of the objective's positive advantages, for the last rollout.
            ``pama/zero_rows``: the share of completions whose advantage is 0 on every token, which train nothing.
        """
        mask_NT = update.rollout.loss_mask_NT.bool()
        zero_N = ((update.advantages_NT == 0) | ~mask_NT).all(1)
        metrics = {f"pama/noon/{name}": mean for name, mean in self._means.items()}
        return metrics | {"pama/zero_rows": float(zero_N.double().mean())}
