"""PAMA, Pareto multi-objective alignment: what all objectives agree on, by positive advantages.

Source: He & Maghsudi 2025, arXiv 2508.07768.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, objective_advantages
from ctwa.scalarizers.per_objective import judged_rows, taking_part, token_mean, trained_objectives


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


def nearest_to_zero(values: Tensor, takes_part: Tensor | None = None) -> Tensor:
    """The point nearest to 0 between the least and the greatest of ``values`` along their first dimension.

    It is the weighted mean of the values, over all weights that sum to 1, of the least magnitude (PAMA, Theorem 1).

    Args:
        values: finite.
        takes_part: bool, the values that there are, by default all; 0 is the nearest where there is none.
    """
    known = torch.ones_like(values, dtype=torch.bool) if takes_part is None else takes_part
    least = torch.where(known, values, torch.inf).amin(0)
    greatest = torch.where(known, values, -torch.inf).amax(0)
    return torch.where(known.any(0), torch.zeros_like(values[0]).clamp(least, greatest), 0.0)


class Pama(Scalarizer):
    """Trains on the combination of the objectives' positive advantages that has the least magnitude.

    A completion's advantage is of the objectives that apply to it, and 0 where one of them could not score it: the
    least of the others would be a gain. A batch is judged by the objectives that scored some of it.
    The objectives' own weights play no part, except that one of weight 0 takes no part itself.
    """

    info = MethodInfo(
        PamaConfig, "the least of the positive advantages", "He & Maghsudi 2025, arXiv 2508.07768", level="advantage"
    )
    goes_by_weights = False
    config: PamaConfig

    def __init__(self, config: PamaConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        self.names = trained_objectives(weights)
        self._means: dict[str, float] = {}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T), none of them below 0."""
        # Noon, "no negative": the paper's name for an advantage's positive part.
        rewards = rollout.rewards.select(self.names)
        scored_MN1, judged_N = rewards.scored_NM.T[..., None], judged_rows(rewards, taking_part(rewards))
        noon_MNT = torch.stack([each.clamp(min=0) for each in objective_advantages(rollout, estimate, self.names)])
        noon_MNT = torch.where(scored_MN1, noon_MNT, 0.0)
        self._means = {
            name: token_mean(noon_NT, rollout.loss_mask_NT * scored_N1)
            for name, noon_NT, scored_N1 in zip(self.names, noon_MNT, scored_MN1, strict=True)
            if scored_N1.any()
        }
        return torch.where(judged_N[:, None], self._combined(noon_MNT, scored_MN1), 0.0)

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

    def _combined(self, noon_MNT: Tensor, scored_MN1: Tensor) -> Tensor:
        """One (N, T) of the objectives' positive advantages, of completions that are judged."""
        if self.config.variant == "completion" or not self._means:
            return nearest_to_zero(noon_MNT, scored_MN1.expand(noon_MNT.shape))
        if self.config.variant == "objective":
            return noon_MNT[self.names.index(min(self._means, key=lambda name: self._means[name]))]
        scalar = float(nearest_to_zero(torch.tensor(list(self._means.values()), dtype=torch.float64)))
        return torch.full_like(noon_MNT[0], scalar)
