"""When to stop preference training, and which step to keep: the preference-weighted validation loss (CLAMP)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ctwa.errors import CtwaError
from ctwa.state import Stateful
from ctwa.strict import StrictModel
from ctwa.weights import shares


class EarlyStoppingConfig(StrictModel):
    """When to stop.

    Attributes:
        patience: evaluations in a row without a new least value after which training stops.
    """

    patience: Annotated[int, Field(ge=1)] = 10


class EarlyStopping(Stateful):
    """Stops after ``patience`` evaluations without a new least ``max_m p_m f_m``.

    f_m is the objective's DPO loss on its validation pairs, whatever the loss it is trained with, and p the preference,
    scaled to a sum of 1. Only a value strictly below all earlier ones counts as better; one that is not finite never
    does. The step to keep is the first with the least value.

    Args:
        config: when to stop.
        preference: the objectives' weights, by name. An objective of weight 0 has no say.

    Attributes:
        best_step: the step of the least value; None before the first finite one.
        best_value: the least value; None before the first finite one.
        num_since_best: evaluations since then.

    Raises:
        CtwaError: a weight is negative or not finite, or all are 0.
    """

    STATE = ("best_step", "best_value", "num_since_best")
    state_of = "early stopping"

    def __init__(self, config: EarlyStoppingConfig, preference: Mapping[str, float]) -> None:
        self.config = config
        self.preference = {name: share for name, share in shares(preference).items() if share > 0}
        self.best_step: int | None = None
        self.best_value: float | None = None
        self.num_since_best = 0

    @property
    def stop(self) -> bool:
        """Whether training is to stop."""
        return self.num_since_best >= self.config.patience

    def observe(self, step: int, losses: Mapping[str, float]) -> dict[str, float]:
        """Take note of an evaluation; the model of ``step`` is the one to keep if ``best_step`` is then ``step``.

        Args:
            step: the step whose model was evaluated.
            losses: the DPO loss on the validation pairs, by objective.

        Returns:
            What to report: the value, the least one, and the evaluations since.

        Raises:
            CtwaError: the loss of an objective that has a weight is missing.
        """
        if missing := self.preference.keys() - losses.keys():
            raise CtwaError(f"no validation loss for {sorted(missing)}; give every objective validation pairs")
        weighted = [weight * losses[name] for name, weight in self.preference.items()]
        value = max(weighted) if all(map(math.isfinite, weighted)) else math.inf
        if value < (math.inf if self.best_value is None else self.best_value):
            self.best_step, self.best_value, self.num_since_best = step, value, 0
        else:
            self.num_since_best += 1
        metrics = {"early_stopping/evaluations_since_best": float(self.num_since_best)}
        finite = {"early_stopping/value": value, "early_stopping/best_value": self.best_value}
        return metrics | {key: number for key, number in finite.items() if number is not None and math.isfinite(number)}

    def identity(self) -> dict[str, Any]:
        """Version and preference."""
        return {"version": 1, "preference": self.preference}
