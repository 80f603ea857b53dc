"""Clipped policy-gradient weights: what the loss really multiplied each completion's score function by.

CTWA (Lu & Jiang 2026, arXiv 2602.06869), Eq. 6-7 and section 5.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ClipRange:
    """The clipping of the loss that was differentiated.

    Attributes:
        low, high: the ratio is clipped to ``[1 - low, 1 + high]``; infinite where the loss does not clip.
        dual: the dual-clip bound on the ratio of tokens with a negative advantage, None where the loss has none.
    """

    low: float
    high: float
    dual: float | None = None

    @classmethod
    def none(cls) -> ClipRange:
        """No clipping at all."""
        return cls(low=math.inf, high=math.inf, dual=None)
