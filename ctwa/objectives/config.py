"""What a user writes about an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ctwa import metrics as key_of
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.loading import split_spec
from ctwa.strict import StrictModel, validated

Transform = Literal["log", "sqrt", "tanh", "sigmoid", "rank"]


class Gate(StrictModel):
    """An objective counts only where another one holds.

    Attributes:
        by: the other objective. Its own clip, transform, scale and gate do not matter here.
        at_least: open where what its function returned is at least this; and
        at_most: where it is at most this. At least one of the two.
        otherwise: what the objective is worth where the gate is closed.
    """

    by: str
    at_least: float | None = None
    at_most: float | None = None
    otherwise: float = 0.0

    @property
    def condition(self) -> str:
        """When it is open, in words."""
        low = f"{self.at_least:g} <= " if self.at_least is not None else ""
        high = f" <= {self.at_most:g}" if self.at_most is not None else ""
        return f"{low}{self.by}{high}"

    @model_validator(mode="after")
    def _has_a_bound(self) -> Gate:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"gate by '{self.by}' has no bound; write at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"gate by '{self.by}' is never open: at_least {self.at_least:g} > at_most {self.at_most:g}"
            )
        return self


class ObjectiveConfig(StrictModel):
    """One objective.

    Attributes:
        reward_fn: ``path/file.py:function`` or ``package.module:function``.
        weight: its weight at the start, at least 0. An objective of weight 0 is scored and shown but not optimised,
            unless the method raises its weight.
        target: the covariance with the policy update that a method such as CTWA is to hold it at; None where there is
            none. Methods that steer by something else leave it alone.
        kwargs: further arguments of the function, by name.
        timeout: seconds a call may take; then it is killed and its completion counts as not scored.
        on_failure: ``mask`` leaves out what could not be scored, up to ``max_unscored`` of a batch; ``stop`` ends the
            run at the first failure.
        clip: ``[low, high]``: values beyond are moved to the bound; null for no bound on that side.
        transform: what is done to values then. ``log``: sign times log(1 + |value|); ``sqrt``: sign times the root;
            ``tanh``; ``sigmoid``; ``rank``: the rank among the prompt's completions, from 0 to 1.
        scale: what values are multiplied by then, above 0.
        gate: where the objective counts; elsewhere it has one value. Last of the four.
    """

    reward_fn: str
    weight: float = Field(default=1.0, ge=0, le=1e6)
    target: float | None = Field(default=None, ge=-1e6, le=1e6)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    timeout: float = Field(default=10.0, gt=0, le=1e6)
    on_failure: Literal["mask", "stop"] = "mask"
    clip: tuple[float | None, float | None] | None = None
    transform: Transform | None = None
    scale: float = Field(default=1.0, gt=0, le=1e6)
    gate: Gate | None = None

    @property
    def shaping(self) -> str:
        """What is done to its rewards, in words; empty where nothing is."""
        done = [
            *([f"clipped to [{_bound(self.clip[0], '-inf')}, {_bound(self.clip[1], 'inf')}]"] if self.clip else []),
            *([self.transform] if self.transform else []),
            *([f"times {self.scale:g}"] if self.scale != 1 else []),
            *([f"where {self.gate.condition}, else {self.gate.otherwise:g}"] if self.gate else []),
        ]
        return ", ".join(done)

    @field_validator("clip")
    @classmethod
    def _is_a_range(cls, clip: tuple[float | None, float | None] | None) -> tuple[float | None, float | None] | None:
        if clip is None:
            return None
        low, high = clip
        if low is None and high is None:
            raise ValueError("neither bound is given; write [low, high], with null for no bound on that side")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"[{low:g}, {high:g}] leaves one value; write [low, high] with low below high")
        return clip

    @field_validator("reward_fn")
    @classmethod
    def _is_spec(cls, reward_fn: str) -> str:
        split_spec(reward_fn)
        return reward_fn


def _bound(value: float | None, absent: str) -> str:
    return absent if value is None else f"{value:g}"


def check_objectives(objectives: Mapping[str, ObjectiveConfig]) -> Mapping[str, ObjectiveConfig]:
    """Refuse what cannot be optimised or shown.

    Raises:
        CtwaError: there is no objective, no weight is positive, or a name is empty, has a '/' (metrics are named
            ``objective/<name>/mean``), begins or ends with a space, has characters that cannot be printed, or is that
            of another metric; or a gate is by an objective that is not there.
    """
    if not objectives:
        raise CtwaError("there is no objective; give at least one, as name: {reward_fn: path/file.py:function}")
    for name in objectives:
        if not name or name != name.strip():
            raise CtwaError(f"objective name {name!r} is empty or begins or ends with a space; write a plain name")
        if "/" in name or not name.isprintable():
            raise CtwaError(f"objective name {name!r} has a '/' or a control character; metric names cannot hold it")
        if key_of.validation(name) == key_of.VALIDATION_LENGTH:
            raise CtwaError(f"objective name {name!r} is taken: {key_of.VALIDATION_LENGTH} is the length of responses")
    _check_gates(objectives)
    if all(objective.weight == 0 for objective in objectives.values()):
        raise CtwaError(f"every objective ({', '.join(objectives)}) has weight 0; give at least one a positive weight")
    return objectives


def _check_gates(objectives: Mapping[str, ObjectiveConfig]) -> None:
    for name, objective in objectives.items():
        by = objective.gate and objective.gate.by
        if by == name:
            raise CtwaError(f"objective '{name}' has a gate by itself; write another objective's name, or a clip")
        if by is not None and by not in objectives:
            raise CtwaError(
                f"objective '{name}' has a gate by '{by}', which is no objective; write one of {', '.join(objectives)}"
                + did_you_mean(by, objectives)
            )


# Ordered, keyed by name. For a pydantic model of a whole run's configuration.
Objectives = Annotated[dict[str, ObjectiveConfig], AfterValidator(check_objectives)]


def parse_objectives(objectives: Mapping[str, Any]) -> dict[str, ObjectiveConfig]:
    """Validate the ``objectives`` section of a configuration.

    Raises:
        CtwaError: every mistake, each with its objective and field.
    """
    parsed: dict[str, ObjectiveConfig] = validated(Objectives, dict(objectives), under="objectives")
    return parsed
