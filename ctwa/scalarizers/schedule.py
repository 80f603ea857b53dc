"""A schedule of fixed weights over the steps of a run: as linear, with weights that were decided beforehand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from ctwa.batch import Rollout, Update
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.scalarizers.base import Estimate, Scalarizer, weighted_advantages
from ctwa.strict import StrictModel


class SchedulePoint(StrictModel):
    """The weights at one step.

    Attributes:
        step: the number of updates before it; the first update of a run is of step 0.
        weights: the weight of every objective, by name.
    """

    step: Annotated[int, Field(ge=0)]
    weights: dict[str, Annotated[float, Field(ge=0)]]


class ScheduleConfig(Options):
    """The options of a schedule.

    Attributes:
        points: the weights at some steps, the first of which is 0, in rising order. After the last they stay.
        interpolation: ``linear`` moves from one point's weights to the next one's in equal steps; ``piecewise`` keeps a
            point's weights until the next point.
    """

    type: Literal["schedule"] = "schedule"
    points: Annotated[tuple[SchedulePoint, ...], Field(min_length=1)]
    interpolation: Literal["linear", "piecewise"] = "linear"

    def idle(self) -> Mapping[str, str]:
        """From one point there is no way to another."""
        return {"interpolation": "one point"} if len(self.points) == 1 else {}

    def unreached(self, num_steps: int) -> Iterator[str]:
        """Points after the last step."""
        for point in self.points:
            if point.step >= num_steps:
                yield f"points: the weights of step {point.step} are never reached in {num_steps} steps"

    @model_validator(mode="after")
    def _points_are_in_order(self) -> Self:
        steps = [point.step for point in self.points]
        if steps[0] != 0 or steps != sorted(set(steps)):
            raise CtwaError(f"the points are at steps {steps}; write the first at step 0 and each later than the last")
        for point in self.points:
            if not any(point.weights.values()):
                raise CtwaError(f"the weights at step {point.step} are all 0; give at least one objective some weight")
        return self


class Schedule(Scalarizer):
    """The advantage of the weighted sum of the rewards, with the weights that the schedule has for this step.

    The objectives' own weights play no part.

    Raises:
        CtwaError: a point does not name every objective.
    """

    info = MethodInfo(ScheduleConfig, "fixed weights, by a timetable")
    goes_by_weights = False
    STATE = ("_step",)
    config: ScheduleConfig

    def __init__(self, config: ScheduleConfig, weights: Mapping[str, float]) -> None:
        super().__init__(config, weights)
        for point in config.points:
            if sorted(point.weights) != sorted(weights):
                raise CtwaError(
                    f"the schedule's point at step {point.step} names {sorted(point.weights)} but the objectives are "
                    f"{sorted(weights)}; write one weight for each objective"
                )
        self._step = 0

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the next update."""
        points = self.config.points
        index = bisect_right(points, self._step, key=lambda point: point.step) - 1
        here, there = points[index], points[min(index + 1, len(points) - 1)]
        if self.config.interpolation == "piecewise" or here is there:
            return {name: here.weights[name] for name in self.initial_weights}
        share = (self._step - here.step) / (there.step - here.step)
        return {name: (1 - share) * here.weights[name] + share * there.weights[name] for name in self.initial_weights}

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of the weighted sum."""
        return weighted_advantages(rollout, estimate, self.weights)

    def observe_update(self, update: Update) -> dict[str, float]:
        """One update is done; the weights of the next are the next step's."""
        del update
        self._step += 1
        return {}
