"""What a user writes about an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.objectives.loading import split_spec
from ctwa.strict import StrictModel, validated


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
    """

    reward_fn: str
    weight: float = Field(default=1.0, ge=0, le=1e6)
    target: float | None = Field(default=None, ge=-1e6, le=1e6)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    timeout: float = Field(default=10.0, gt=0, le=1e6)
    on_failure: Literal["mask", "stop"] = "mask"

    @field_validator("reward_fn")
    @classmethod
    def _is_spec(cls, reward_fn: str) -> str:
        split_spec(reward_fn)
        return reward_fn


def check_objectives(objectives: Mapping[str, ObjectiveConfig]) -> Mapping[str, ObjectiveConfig]:
    """Refuse what cannot be optimised or shown.

    Raises:
        CtwaError: there is no objective, no weight is positive, or a name is empty, has a '/' (metrics are named
            ``objective/<name>/mean``), begins or ends with a space, has characters that cannot be printed, or is that
            of another metric.
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
    if all(objective.weight == 0 for objective in objectives.values()):
        raise CtwaError(f"every objective ({', '.join(objectives)}) has weight 0; give at least one a positive weight")
    return objectives


# Ordered, keyed by name. For a pydantic model of a whole run's configuration.
Objectives = Annotated[dict[str, ObjectiveConfig], AfterValidator(check_objectives)]


def parse_objectives(objectives: Mapping[str, Any]) -> dict[str, ObjectiveConfig]:
    """Validate the ``objectives`` section of a configuration.

    Raises:
        CtwaError: every mistake, each with its objective and field.
    """
    parsed: dict[str, ObjectiveConfig] = validated(Objectives, dict(objectives), under="objectives")
    return parsed
