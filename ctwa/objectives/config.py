"""What a user writes about an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from ctwa import metrics as key_of
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.contract import MAX_VALUE, Outcome
from ctwa.objectives.loading import split_spec
from ctwa.strict import StrictModel, validated

Value = StrictBool | StrictInt | StrictFloat | StrictStr
"""What a column may hold for ``applies_to`` to compare."""
UNFIT_COLUMNS = ("prompt", "reward_model", "extra_info")
"""Columns of a row that hold more than one value."""
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
    otherwise: float = Field(default=0.0, ge=-MAX_VALUE, le=MAX_VALUE)

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
        key: what it takes of a dict that the function returns; without it ``score``, as in verl. Objectives with a key
            and the same function, kwargs, timeout, applies_to, split and every share one call.
        weight: its weight at the start, at least 0. An objective of weight 0 is scored and shown but not optimised,
            unless the method raises its weight.
        target: the covariance with the policy update that a method such as CTWA is to hold it at; None where there is
            none. Methods that steer by something else leave it alone.
        kwargs: further arguments of the function, by name.
        timeout: seconds a call may take; then it is killed and its completion counts as not scored.
        on_failure: ``mask`` leaves out what could not be scored, up to ``max_unscored`` of a batch; ``stop`` ends the
            run at the first failure.
        max_unscored: the share of a batch that it may fail to score before the run stops; without it, that of all
            objectives, ``ctwa.rewards.max_unscored``. With 1 it never stops a run, and an alarm tells of what is
            missing: for a judge or another server.
        applies_to: the rows of the data that it is about, by column: ``{data_source: gsm8k}``, or a list of values; all
            columns that are named must hold. A column is ``data_source``, another one of the data, or else a key of
            ``extra_info``. On other rows the function is not called. ``{}`` for all rows.
        none: what None of the function says: ``failure``, or ``not_applicable``, as TRL's functions mean it.
        split: ``val`` only evaluates it: it is scored in validations, and the method never sees it.
        every: score it at every k-th training step, from the first, and in every validation; in between it applies to
            no completion. For functions that cost much.
        clip: ``[low, high]``: values beyond are moved to the bound; null for no bound on that side.
        transform: what is done to values then. ``log``: sign times log(1 + |value|); ``sqrt``: sign times the root;
            ``tanh``; ``sigmoid``; ``rank``: the rank among the prompt's completions, from 0 to 1.
        scale: what values are multiplied by then, above 0.
        gate: where the objective counts; elsewhere it has one value. Last of the four.
    """

    reward_fn: str
    key: Annotated[str, Field(min_length=1)] | None = None
    weight: float = Field(default=1.0, ge=0, le=1e6)
    target: float | None = Field(default=None, ge=-1e6, le=1e6)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    timeout: float = Field(default=10.0, gt=0, le=1e6)
    on_failure: Literal["mask", "stop"] = "mask"
    max_unscored: float | None = Field(default=None, ge=0, le=1)
    applies_to: dict[str, Value | Annotated[list[Value], Field(min_length=1)]] = Field(default_factory=dict)
    none: Literal["failure", "not_applicable"] = "failure"
    split: Literal["both", "val"] = "both"
    every: int = Field(default=1, ge=1)
    clip: tuple[float | None, float | None] | None = None
    transform: Transform | None = None
    scale: float = Field(default=1.0, gt=0, le=1e6)
    gate: Gate | None = None

    def idle(self) -> Mapping[str, str]:
        """Validations score every objective, and a run that stops at the first failure has no share of them."""
        return {
            **({"every": "split=val"} if self.split == "val" else {}),
            **({"max_unscored": "on_failure=stop"} if self.on_failure == "stop" else {}),
        }

    @field_validator("applies_to", mode="before")
    @classmethod
    def _has_values(cls, applies_to: Any) -> Any:
        """Say it in one sentence where pydantic would say it of each type that a value may have."""
        for column, wanted in applies_to.items() if isinstance(applies_to, Mapping) else ():
            values = wanted if isinstance(wanted, list) and wanted else [wanted]
            if not all(isinstance(value, bool | int | float | str) and value == value for value in values):
                shown = "null" if wanted is None else repr(wanted)
                raise ValueError(f"{column}: {shown} is nothing to compare with; write a text, a number or a list")
        return applies_to

    @field_validator("applies_to")
    @classmethod
    def _names_columns(cls, applies_to: dict[str, Any]) -> dict[str, Any]:
        if unfit := [name for name in applies_to if name in UNFIT_COLUMNS]:
            raise ValueError(
                f"'{unfit[0]}' is no column to tell rows by; write data_source, another column of the data, or a key "
                "of extra_info"
            )
        return applies_to

    def applies(self, completion: Completion) -> bool:
        """Whether the function is to be called on a completion."""
        return self.is_scored(completion.moment) and self.is_about(completion)

    def is_scored(self, moment: Moment) -> bool:
        """Whether it is scored at all at this moment of a run."""
        is_due = moment.split == "val" or moment.step is None or (moment.step - 1) % self.every == 0
        return is_due and self.is_seen(moment)

    def is_seen(self, moment: Moment) -> bool:
        """Whether the rewards of this moment have a column of it, be it one without an entry."""
        return moment.split == "val" or self.split == "both"

    def taken(self, outcome: Outcome) -> Outcome:
        """What a call's outcome says by the objective's own settings."""
        if outcome.reason == "none" and self.none == "not_applicable":
            return replace(outcome, reason=None, text="", applies=False)
        return outcome

    def is_about(self, completion: Completion) -> bool:
        """Whether it applies to the completion's row."""
        return all(
            any(_is_same(completion.column(column), value) for value in self.values_of(column))
            for column in self.applies_to
        )

    def shares_calls_with(self, other: ObjectiveConfig) -> bool:
        """Whether one call of the function serves both."""
        fields = ("reward_fn", "kwargs", "timeout", "applies_to", "split", "every")
        return all(getattr(self, field) == getattr(other, field) for field in fields)

    def values_of(self, column: str) -> list[Any]:
        """What it wants of a column that ``applies_to`` names."""
        wanted = self.applies_to[column]
        return wanted if isinstance(wanted, list) else [wanted]

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


def _is_same(found: Any, wanted: Any) -> bool:
    """Equal, where True is no 1."""
    return bool(isinstance(found, bool) == isinstance(wanted, bool) and found == wanted)


def trained(objectives: Mapping[str, ObjectiveConfig]) -> dict[str, ObjectiveConfig]:
    """Those that the method sees."""
    return {name: objective for name, objective in objectives.items() if objective.split == "both"}


def _bound(value: float | None, absent: str) -> str:
    return absent if value is None else f"{value:g}"


def check_objectives(objectives: Mapping[str, ObjectiveConfig]) -> Mapping[str, ObjectiveConfig]:
    """Refuse what cannot be optimised or shown.

    Raises:
        CtwaError: there is no objective to train on, no weight of these is positive, or a name is empty, has a '/'
            (metrics are named ``objective/<name>/mean``), begins or ends with a space, has characters that cannot be
            printed, or is that of another metric; or a gate is by an objective that is not there.
    """
    if not objectives:
        raise CtwaError("there is no objective; give at least one, as name: {reward_fn: path/file.py:function}")
    for name in objectives:
        key_of.check_name(name)
    _check_gates(objectives)
    seen = trained(objectives)
    if not seen:
        raise CtwaError(f"every objective ({', '.join(objectives)}) is of split: val; leave split out of at least one")
    if all(objective.weight == 0 for objective in seen.values()):
        raise CtwaError(f"every objective ({', '.join(seen)}) has weight 0; give at least one a positive weight")
    return objectives


def _check_gates(objectives: Mapping[str, ObjectiveConfig]) -> None:
    for name, objective in objectives.items():
        by = objective.gate.by if objective.gate else None
        if by == name:
            raise CtwaError(f"objective '{name}' has a gate by itself; write another objective's name, or a clip")
        if by is not None and by not in objectives:
            raise CtwaError(
                f"objective '{name}' has a gate by '{by}', which is no objective; write one of {', '.join(objectives)}"
                + did_you_mean(by, objectives)
            )
        if by is not None and objective.split == "both" and objectives[by].split == "val":
            raise CtwaError(
                f"objective '{name}' has a gate by '{by}', which is scored in validations alone (split: val); leave "
                "its split out"
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
