"""How the objectives' gradients are taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from ctwa.strict import StrictModel

Passes = Literal["shared_forward", "sequential"]

WARM_UP = 10
"""Adam's steps before which its mean squares are not believed: the inverse root of a mean of one or two varies much."""


class GradientSettings(StrictModel):
    """How the objectives' gradients are taken, for methods and diagnostics that look at them.

    Attributes:
        passes: ``shared_forward`` is one forward pass and M backward passes, and holds what the forward pass saved of a
            micro-batch through all of them; ``sequential`` is M of both, one after the other. One more for what all
            objectives share, the KL penalty or the entropy bonus.
        last_layers: take them in the last k transformer blocks alone, and combine the losses, not the gradients, by
            the weights that come of it: one more forward and backward pass, M short ones less. None: all of the model.
        refresh_every: solve for weights at every k-th step; in between the last ones hold, at linear's cost.
        gram: which inner products the method sees. ``plain`` are those of a mini-batch's gradients, which share the
            noise of its completions; ``cross_fitted`` those between the gradients of two halves of its prompts, which
            do not, averaged over the run: docs/methods.md.
        half_life: with ``cross_fitted``, the mini-batches after which a measurement counts half.
        metric: ``euclidean``, or ``optimizer``: inner products as Adam's step has them, each element over the root of
            its mean square. The first ten mini-batches of a run, before which too little is known of it, are trained
            with the first weights.
    """

    passes: Passes = "shared_forward"
    last_layers: Annotated[int, Field(ge=1)] | None = None
    refresh_every: Annotated[int, Field(ge=1)] = 1
    gram: Literal["plain", "cross_fitted"] = "plain"
    half_life: Annotated[float, Field(gt=0)] = 10.0
    metric: Literal["euclidean", "optimizer"] = "euclidean"

    def idle(self) -> Mapping[str, str]:
        """A plain matrix is that of one mini-batch."""
        return {"half_life": "gram=plain"} if self.gram == "plain" else {}

    def described(self) -> str:
        """Which inner products are taken, in words, for a plan."""
        which = {
            "plain": "inner products within each mini-batch",
            "cross_fitted": f"inner products across halves of the prompts, half-life {self.half_life:g} mini-batches",
        }[self.gram]
        return f"{which}, in Adam's metric" if self.metric == "optimizer" else which
