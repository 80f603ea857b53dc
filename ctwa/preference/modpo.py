"""MODPO, multi-objective direct preference optimization (Zhou et al. 2024, arXiv 2310.03708): DPO with a margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ctwa.errors import CtwaError
from ctwa.strict import StrictModel
from ctwa.weights import shares


class ModpoConfig(StrictModel):
    """The options of MODPO.

    Attributes:
        objective: the one whose preference pairs are trained on; the others enter by their margin rewards.
        largest_scale: the largest factor 1 / w on the margin, w being that objective's weight. Below a weight of
            1 / largest_scale the loss would be ever steeper: without bound as the weight goes to 0.
    """

    objective: str
    largest_scale: Annotated[float, Field(ge=1)] = 20.0


class Modpo:
    """Turns the implicit margin of DPO into that of MODPO; the loss on it is DPO's, ``-log sigma(z)``.

    ``z_P = (margin_P - sum_k w_k reward_difference_P[k]) / w``, with w the share of the trained objective and k the
    others. Where the loss is least, margin and weighted rewards together are what the trained preference says.

    Args:
        config: which objective is trained.
        weights: of all objectives, by name. Only their ratios matter.

    Raises:
        CtwaError: the trained objective is none of them, or the weights say nothing.
    """

    def __init__(self, config: ModpoConfig, weights: Mapping[str, float]) -> None:
        if config.objective not in weights:
            raise CtwaError(
                f"modpo trains the objective '{config.objective}', which is none of {sorted(weights)}; name one of them"
            )
        self.others = shares(weights)
        trained = self.others.pop(config.objective)
        self.scale = 1 / max(trained, 1 / config.largest_scale)

    def adjust(self, margin_P: Tensor, reward_differences_P: Mapping[str, Tensor]) -> Tensor:
        """The margin z, with the gradient of ``margin_P``.

        Args:
            margin_P: ``beta`` times the difference of the log-ratios, of the preferred response less the other, (P,).
            reward_differences_P: by objective, its reward of the preferred response less that of the other: from a
                reward model, or ``beta_k`` times the difference of the log-ratios of a policy aligned to it alone.

        Raises:
            CtwaError: an objective with a weight has no rewards.
        """
        adjusted_P = margin_P
        for name, share in self.others.items():
            if share == 0:
                continue
            if name not in reward_differences_P:
                raise CtwaError(f"modpo has no margin rewards of '{name}'; give it a reward model or a margin policy")
            adjusted_P = adjusted_P - share * reward_differences_P[name].detach().to(margin_P)
        return self.scale * adjusted_P

    def losses(self, margin_P: Tensor, reward_differences_P: Mapping[str, Tensor]) -> Tensor:
        """``-log sigma(z)``, (P,)."""
        return -torch.nn.functional.logsigmoid(self.adjust(margin_P, reward_differences_P))
