"""The hinge loss of SLiC (Zhao et al. 2023, arXiv 2305.10425), on the margins of DPO (RSO: Liu et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from ctwa.preference.losses import WithReference


class HingeLoss(WithReference):
    """``max(0, delta - margin)``, the hinge loss of SLiC with a reference (RSO: Liu et al. 2023, arXiv 2309.06657).

    A pair whose margin has reached ``delta`` trains nothing.

    Attributes:
        delta: the margin asked for, in units of the implicit reward.
    """

    type: Literal["hinge"] = "hinge"
    delta: Annotated[float, Field(gt=0)] = 1.0

    def of_margin(self, margin: Tensor) -> Tensor:
        """What the margin lacks of delta."""
        return (self.delta - margin).clamp(min=0)
