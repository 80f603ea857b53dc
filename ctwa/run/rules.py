"""What an alarm is raised by: rules, the limits that a user sets them, and what they remember of a trace."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from pydantic import Field

from ctwa.run.trace import Record
from ctwa.strict import StrictModel

Metrics = Mapping[str, float | None]
Key = Callable[[str], str]  # of an objective: the name of a metric of it


class AlarmLimits(StrictModel):
    """When each alarm is raised.

    Attributes:
        drop: by how much an objective is below its best so far, as a share of that best; of one that has been negative,
            as a share of its spread.
        drop_steps: how long it has been that far below.
        negative_covariance_steps: how long an objective's covariance with the update has been negative.
        infeasible_steps: how long the covariance targets could not be reached together.
        clipping_steps: how long clipping has turned an objective's covariance around.
        unscored: the share of a step's completions that an objective did not score.
        collapse: what is left of the entropy, or of the length, of the first steps.
        collapse_steps: how long that has held.
        average_steps: of an average over training, and "the first steps".
        dominance: of the correlation of completions' weights in the update with one objective's rewards, where
        dominated: is what the others' stay under.
        dominance_steps: how long that has held.
        saturation: the share of prompts whose completions all have the same reward, over `average_steps`.
        saturation_steps: how long that has held.
        jump: of a mean reward off its line, in standard errors, and
        jump_size: in standard deviations of the completions' rewards.
        jump_steps: of the line.
        no_update_steps: how long updates have been left out.
        left_processes: that reward functions have let go, above the fewest of any step before.
        hacking_steps: how long held-out problems have contradicted what rises in training.
    """

    drop: float = Field(default=0.15, gt=0)
    drop_steps: int = Field(default=10, ge=1)
    negative_covariance_steps: int = Field(default=10, ge=1)
    infeasible_steps: int = Field(default=10, ge=1)
    clipping_steps: int = Field(default=5, ge=1)
    unscored: float = Field(default=0.05, gt=0, lt=1)
    collapse: float = Field(default=0.25, gt=0, lt=1)
    collapse_steps: int = Field(default=5, ge=1)
    average_steps: int = Field(default=10, ge=1)
    dominance: float = Field(default=0.95, gt=0, le=1)
    dominated: float = Field(default=0.2, ge=0, le=1)
    dominance_steps: int = Field(default=10, ge=1)
    saturation: float = Field(default=0.9, gt=0, le=1)
    saturation_steps: int = Field(default=10, ge=1)
    jump: float = Field(default=6.0, gt=0)
    jump_size: float = Field(default=0.5, ge=0)
    jump_steps: int = Field(default=20, ge=5)
    hacking_steps: int = Field(default=10, ge=1)
    no_update_steps: int = Field(default=5, ge=1)
    left_processes: int = Field(default=50, ge=1)


class Finding(NamedTuple):
    """What a rule saw in one record."""

    objective: str | None
    wrong: bool
    values: tuple[float | str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One kind of alarm: what it looks at, for how many steps it must be wrong, and what is said then."""

    kind: str
    steps: Callable[[AlarmLimits], int]
    look: Callable[[Watched, Record], Iterator[Finding]]
    text: str  # {name}, {steps} and {0}, {1}, ...: the values of the finding
    advice: str  # the same, and {command}: what prints targets for the run
    advice_with_target: str = ""  # in its place for an objective whose weight a target steers
    advice_with_covariance: str = ""  # and for one whose covariances are measured, so that it can have a target
    advice_without_weight: str = ""  # and for one that has had no weight, where others have
    often: bool = False  # whether it must be found wrong so many times, of an objective that few steps measure


@dataclass
class Validations:
    """When an objective was validated, as far as that tells whether its validations go on."""

    num: int = 0
    last: int = 0
    widest: int = 0  # the most steps between two of them

    def add(self, step: int) -> None:
        """Take in the next one."""
        if self.num:
            self.widest = max(self.widest, step - self.last)
        self.num, self.last = self.num + 1, step

    def go_on(self, step: int) -> bool:
        """Whether there are two or more, the last of them no further behind than twice what lies between two."""
        return self.num > 1 and step - self.last <= 2 * self.widest


@dataclass
class Squares:
    """The mean square of differences, of which the largest few are left out."""

    num_left_out: int
    num: int = 0
    total: float = 0.0
    largest: list[float] = field(default_factory=list)

    def add(self, difference: float) -> None:
        """Take in the next difference."""
        square = difference * difference
        self.num, self.total = self.num + 1, self.total + square
        self.largest = sorted([*self.largest, square])[-self.num_left_out :]

    def mean(self) -> float | None:
        """That of the others; None while there are none."""
        rest = self.num - self.num_left_out
        return max(self.total - sum(self.largest), 0.0) / rest if rest > 0 else None


@dataclass
class Scatter:
    """How much values differ from one to the next; a trend hardly counts."""

    last: float | None = None
    last_difference: float | None = None
    # One fall, of whatever size, is not to hide itself: it is in one first difference and in two second ones.
    first: Squares = field(default_factory=lambda: Squares(1))
    second: Squares = field(default_factory=lambda: Squares(2))

    def add(self, value: float) -> None:
        """Take in the next value."""
        if self.last is not None:
            difference = value - self.last
            self.first.add(difference)
            if self.last_difference is not None:
                self.second.add(difference - self.last_difference)
            self.last_difference = difference
        self.last = value

    def noise(self, window: int = 1) -> float:
        """How far below the best of all means of `window` values another one is by chance; 0 while it is not known.

        The variance of a value is half the mean square of the first differences, and a sixth of that of the second
        ones, in which a rise or fall over several values does not count: the smaller is taken. The more means there
        are, the further is the best of them off; the fewer differences, the further may their mean square be.
        """
        errors = [
            math.sqrt(2 * square / parts / window) * (1 + doubt / differences.num)
            for differences, parts, doubt in ((self.first, 2, 2), (self.second, 6, 4))
            if (square := differences.mean()) is not None
        ]
        return min(errors) * math.sqrt(5 + 2 * math.log(self.first.num)) if errors else 0.0


@dataclass
class Means:
    """What the means of an objective have been so far on one kind of problems, and how sure they are."""

    best: float = -math.inf
    lowest: float = math.inf
    best_error: float = 0.0  # its standard error
    largest_error: float = 0.0
    scatter: Scatter = field(default_factory=Scatter)  # of the results, of which the means are averages

    def add(self, value: float, error: float = 0.0) -> None:
        """Take in the next mean and its standard error."""
        if value > self.best:
            self.best, self.best_error = value, error
        self.lowest = min(self.lowest, value)
        self.largest_error = max(self.largest_error, error)

    def error_between(self, error: float, other: float) -> float:
        """The standard error of a difference of two means.

        Where all problems are solved, or none, that of a mean is 0 and tells nothing: the largest so far stands for it.
        """
        return math.hypot(error or self.largest_error, other or self.largest_error)


@dataclass
class Watched:
    """What the rules remember of the records they have seen."""

    limits: AlarmLimits
    objectives: Sequence[str]
    tracked: Collection[str | None] = ()  # what was wrong by the rule that looks: else it need not say what is not
    validations: dict[str, Validations] = field(default_factory=dict)
    held_out: dict[str, Means] = field(default_factory=dict)  # of the validations
    training: dict[str, Means] = field(default_factory=dict)  # of averages over training problems
    spread: dict[str, float] = field(default_factory=dict)  # the newest standard deviation of completions' rewards
    fewest: dict[str, float] = field(default_factory=dict)
    recent: dict[str, deque[float]] = field(default_factory=dict)
    first: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)  # the means of `first`
    steered: set[str] = field(default_factory=set)  # the objectives that the method has a target for
    measured: set[str] = field(default_factory=set)  # those whose covariances are in the records
    trained: set[str] = field(default_factory=set)  # those that have had a weight
    rise: dict[str, float] = field(default_factory=dict)  # in training, beyond noise
    at_start: dict[str, tuple[float, float]] = field(default_factory=dict)  # the first validation and its error
    keys: dict[tuple[Key, ...], list[tuple[str, ...]]] = field(default_factory=dict)

    def keyed(self, *keys: Key) -> list[tuple[str, ...]]:
        """Each objective's name, and the names of its metrics."""
        found = self.keys.get(keys)
        if found is None or len(found) != len(self.objectives):
            found = self.keys[keys] = [(name, *(key(name) for key in keys)) for name in self.objectives]
        return found

    def least_fall(self, name: str, means: Means, before: float) -> float:
        """How far below an earlier mean is a drop: further than a share of that.

        Where a mean so far is negative, the zero of the rewards may be anywhere: it is a share of what the means have
        ranged over, or of two standard deviations of the completions' rewards where that is more.
        """
        scale = before if means.lowest >= 0 else max(means.best - means.lowest, 2 * self.spread.get(name, 0.0))
        return self.limits.drop * scale

    def average(self, key: str, value: float) -> float | None:
        """The mean of the last `average_steps` values; None while there are fewer."""
        recent = self.last(key, value, self.limits.average_steps)
        return None if recent is None else fmean(recent)

    def last(self, key: str, value: float, num: int) -> list[float] | None:
        """The last `num` values, this one included; None while there are fewer."""
        recent = self.recent.setdefault(key, deque(maxlen=num))
        recent.append(value)
        return list(recent) if len(recent) == num else None

    def of_the_first_steps(self, key: str, value: float) -> float | None:
        """The mean of the first `average_steps` values; None until there is one more."""
        first = self.first.setdefault(key, [])
        if len(first) < self.limits.average_steps:
            first.append(value)
            self.start[key] = fmean(first)
            return None
        return self.start[key]
