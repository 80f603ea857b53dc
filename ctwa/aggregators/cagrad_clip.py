"""CAGrad-Clip, the step of RACO (reward-free alignment for conflicting objectives): CAGrad kept to the preference."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ctwa.aggregators.base import gradient_level
from ctwa.aggregators.cagrad import CAGrad, CAGradOptions


class CAGradClipConfig(CAGradOptions):
    """The options of CAGrad-Clip."""

    type: Literal["cagrad_clip"] = "cagrad_clip"


class CAGradClip(CAGrad):
    """CAGrad whose correction takes of no objective more than the preference gives it: ``min(p, preference)``.

    Only the direction of the clipped mixture enters the step. Where nothing is left of it (the preference is for one
    objective alone and p for others), the step is that of the preference. The preference among the objectives that
    have a gradient counts, for p is made of them alone.
    """

    info = gradient_level(CAGradClipConfig, "CAGrad, its correction kept to the preference", "RACO, 2026")
    preference_name = "raco"

    def correction(self, mixture_M: Tensor, has_gradient_M: Tensor) -> tuple[Tensor, dict[str, float]]:
        """``min(p, preference)``, objective by objective; reports whether that changes the direction."""
        share = float(self.preference_M[has_gradient_M].sum())
        clipped_M = torch.minimum(mixture_M, self.preference_M / share) if share else torch.zeros_like(mixture_M)
        change_M = torch.nn.functional.normalize(clipped_M, dim=0) - torch.nn.functional.normalize(mixture_M, dim=0)
        return clipped_M, {"cagrad/clip_active": float(change_M.norm() > 1e-6)}
