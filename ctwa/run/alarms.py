"""Alarms: rules on the trace that say when a run goes wrong, and what to try.

A rule looks at one record after the other and at nothing else: not at a clock, a file or an engine. Feeding the same
records gives the same alarms, so a resumed run continues by being fed what its trace holds.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from ctwa import metrics as key_of
from ctwa.errors import did_you_mean
from ctwa.run.text import counted, number
from ctwa.run.trace import Record
from ctwa.strict import StrictModel

Metrics = Mapping[str, float | None]
Key = Callable[[str], str]  # of an objective: the name of a metric of it

# What is not finite without an update having gone wrong: a covariance where no prompt group is usable, for one.
_UPDATE = ("actor/", key_of.gradient_norm(""), key_of.weight(""), key_of.ctwa("log_weight", ""))


class AlarmLimits(StrictModel):
    """When each alarm is raised.

    Attributes:
        drop: of an objective below the best average so far.
        drop_steps: how long it has been that far below.
        negative_covariance_steps: how long an objective's covariance with the update has been negative.
        infeasible_steps: how long the covariance targets could not be reached together.
        clipping_steps: how long clipping has turned an objective's covariance around.
        unscored: the share of a step's completions that an objective did not score.
        collapse: what is left of the entropy, or of the length, of the first steps.
        collapse_steps: how long that has held.
        average_steps: of an average over training, and "the first steps".
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


@dataclass(frozen=True)
class Alarm:
    """Something is wrong, and has been for long enough to say so."""

    kind: str  # one of KINDS
    objective: str | None  # None where it concerns the run and no objective alone
    since: int  # the first step of it
    step: int  # the step at which it was raised
    text: str  # what is wrong, one sentence
    advice: str  # what to try, one sentence


@dataclass
class Episode:
    """An alarm and how long what it says has held."""

    alarm: Alarm
    last: int  # the last step at which it held
    over: bool = False


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
    is_of_steps: bool = True  # whether it looks at what every step measures, and not at validations


@dataclass
class Watched:
    """What the rules remember of the records they have seen."""

    limits: AlarmLimits
    objectives: Sequence[str]
    tracked: Collection[str | None] = ()  # what was wrong by the rule that looks: else it need not say what is not
    validated: bool = False
    best: dict[str, float] = field(default_factory=dict)
    recent: dict[str, deque[float]] = field(default_factory=dict)
    first: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)  # the means of `first`
    steered: set[str] = field(default_factory=set)  # the objectives that the method has a target for
    measured: set[str] = field(default_factory=set)  # those whose covariances are in the records
    keys: dict[tuple[Key, ...], list[tuple[str, ...]]] = field(default_factory=dict)

    def keyed(self, *keys: Key) -> list[tuple[str, ...]]:
        """Each objective's name, and the names of its metrics."""
        found = self.keys.get(keys)
        if found is None or len(found) != len(self.objectives):
            found = self.keys[keys] = [(name, *(key(name) for key in keys)) for name in self.objectives]
        return found

    def average(self, key: str, value: float) -> float | None:
        """The mean of the last `average_steps` values; None while there are fewer."""
        recent = self.recent.setdefault(key, deque(maxlen=self.limits.average_steps))
        recent.append(value)
        return fmean(recent) if len(recent) == self.limits.average_steps else None


class AlarmMonitor:
    """Raises alarms: feed it the records of a run, from the first on.

    An alarm is raised once, when what it says has held for long enough; again only after it was over in between.

    Args:
        objectives: their names; None to take them from the records.
        limits: when each alarm is raised.
        run: the run's folder, for the commands in the advice.
    """

    def __init__(self, objectives: Sequence[str] | None = None, limits: AlarmLimits | None = None, run: str = "RUN"):
        limits = limits or AlarmLimits()
        self.limits = limits
        #: every alarm raised, in the order of raising, and until when it held
        self.episodes: list[Episode] = []
        self._command = shlex.join(["ctwa", "suggest-targets", run])
        self._find_objectives = objectives is None
        self._watched = Watched(limits, list(objectives or ()))
        self._since: dict[str, dict[str | None, int]] = {rule.kind: {} for rule in RULES}
        self._num_found: dict[tuple[str, str | None], int] = {}
        self._open: dict[tuple[str, str | None], Episode] = {}

    @property
    def active(self) -> list[Alarm]:
        """The alarms whose reason still holds."""
        return [episode.alarm for episode in self._open.values()]

    def feed(self, record: Record) -> list[Alarm]:
        """Looks at the next record; returns the alarms it raises."""
        if self._find_objectives:
            known = self._watched.objectives
            self._watched.objectives = list(dict.fromkeys([*known, *key_of.objectives_in(record["metrics"])]))
        watched = self._watched
        watched.steered |= {name for name, target in watched.keyed(_target) if target in record["metrics"]}
        watched.measured |= {name for name, key in watched.keyed(key_of.covariance) if key in record["metrics"]}
        raised = []
        for rule in RULES:
            self._watched.tracked = self._since[rule.kind]
            for finding in tuple(rule.look(self._watched, record)):  # to follow one changes what is tracked
                alarm = self._follow(rule, finding, record["step"])
                raised += [alarm] if alarm else []
        return raised

    def peek(self, record: Record) -> list[Alarm]:
        """The alarms that feeding this record would raise; nothing is learnt from it."""
        return deepcopy(self).feed(record)

    def _follow(self, rule: Rule, finding: Finding, step: int) -> Alarm | None:
        key = (rule.kind, finding.objective)
        if not finding.wrong:
            self._since[rule.kind].pop(finding.objective, None)
            self._num_found.pop(key, None)
            if episode := self._open.pop(key, None):
                episode.over = True
            return None
        if key in self._open:
            self._open[key].last = step
            return None
        since = self._since[rule.kind].setdefault(finding.objective, step)
        self._num_found[key] = self._num_found.get(key, 0) + 1
        # An objective that few steps measure has to be found wrong as often as one that all do.
        if (self._num_found[key] if rule.is_of_steps else step - since + 1) < rule.steps(self.limits):
            return None
        values = [value if isinstance(value, str) else number(value) for value in finding.values]
        words = {"name": finding.objective, "steps": counted(step - since + 1, "step"), "command": self._command}
        alarm = Alarm(
            rule.kind,
            finding.objective,
            since,
            step,
            rule.text.format(*values, **words),
            self._advice(rule, finding.objective).format(*values, **words),
        )
        self._open[key] = Episode(alarm, step)
        self.episodes.append(self._open[key])
        return alarm

    def _advice(self, rule: Rule, objective: str | None) -> str:
        if objective in self._watched.steered and rule.advice_with_target:
            return rule.advice_with_target
        return (objective in self._watched.measured and rule.advice_with_covariance) or rule.advice


def _target(name: str) -> str:
    return key_of.ctwa("target", name)


def _scored(name: str) -> str:
    return key_of.objective(name, "scored_frac")


def _drop(watched: Watched, record: Record) -> Iterator[Finding]:
    """On held-out problems, from the first validation on; on the average over training problems without any."""
    metrics, limits = record["metrics"], watched.limits
    keyed = watched.keyed(key_of.validation, key_of.validation_error)
    watched.validated = watched.validated or any(validation in metrics for _, validation, _ in keyed)
    for name, validation, error in keyed:
        if watched.validated:
            value = metrics.get(validation)
        else:
            mean = metrics.get(key_of.objective_mean(name))
            value = None if mean is None else watched.average(name, mean)
        if value is None:
            continue
        noise = 2 * (metrics.get(error) or 0.0) if watched.validated else 0.0
        source = "held-out" if watched.validated else "training"
        best = watched.best[f"{source}/{name}"] = max(watched.best.get(f"{source}/{name}", value), value)
        wrong = best - value > max(limits.drop * abs(best), noise)
        if wrong or name in watched.tracked:
            yield Finding(name, wrong, (value, best, source))


def _negative_covariance(watched: Watched, record: Record) -> Iterator[Finding]:
    metrics = record["metrics"]
    for name, key in watched.keyed(key_of.covariance):
        value = metrics.get(key)
        if value is not None and (value < 0 or name in watched.tracked):
            yield Finding(name, value < 0, (value,))


def _infeasible(watched: Watched, record: Record) -> Iterator[Finding]:
    value = record["metrics"].get(key_of.FEASIBILITY)
    if value is not None and (value > 1 or None in watched.tracked):
        yield Finding(None, value > 1, (value,))


def _clipping(watched: Watched, record: Record) -> Iterator[Finding]:
    """What clipping can have taken is more than the covariance, so that its sign is no longer the update's own.

    The bound is what Cauchy-Schwarz leaves of the unclipped covariance; below 0 the distortion is above its limit. Of
    a covariance that is negative anyway it says so only where the distortion is larger than that.
    """
    metrics = record["metrics"]
    for name, covariance_key, bound_key in watched.keyed(key_of.covariance, key_of.clip_bound):
        bound = metrics.get(bound_key)
        if bound is None or (bound >= 0 and name not in watched.tracked):
            continue
        covariance = metrics.get(covariance_key)
        if covariance is not None:
            yield Finding(name, bound < 0 and covariance - bound > abs(covariance), (covariance, bound))


def _unscored(watched: Watched, record: Record) -> Iterator[Finding]:
    metrics, least = record["metrics"], 1 - watched.limits.unscored - 1e-9
    for name, key in watched.keyed(_scored):
        scored = metrics.get(key)
        if scored is not None and scored < least:
            yield Finding(name, True, (f"{1 - scored:.0%}",))
        elif scored is not None and name in watched.tracked:
            yield Finding(name, False)


def _lost_completions(watched: Watched, record: Record) -> Iterator[Finding]:
    """Of a step, or of a validation."""
    metrics = record["metrics"]
    counted = [value for key in key_of.MISSING_ROWS if (value := metrics.get(key)) is not None]
    if any(counted) or (counted and None in watched.tracked):
        lost = round(sum(counted))
        yield Finding(None, lost > 0, (f"{lost} completions were" if lost > 1 else "1 completion was",))


def _collapse(key: str) -> Callable[[Watched, Record], Iterator[Finding]]:
    def look(watched: Watched, record: Record) -> Iterator[Finding]:
        value = record["metrics"].get(key)
        if value is None:
            return
        first = watched.first.setdefault(key, [])
        if len(first) < watched.limits.average_steps:
            first.append(value)
            watched.start[key] = fmean(first)
            return
        start = watched.start[key]
        wrong = start > 0 and value < watched.limits.collapse * start
        if wrong or None in watched.tracked:
            yield Finding(None, wrong, (value, start))

    return look


def _non_finite(watched: Watched, record: Record) -> Iterator[Finding]:
    names = [name for name in record.get("non_finite", ()) if name.startswith(_UPDATE)]
    if names or None in watched.tracked:
        yield Finding(None, bool(names), (", ".join(names[:3]) + (" and others" if len(names) > 3 else ""),))


RULES = (
    Rule(
        "drop",
        lambda limits: limits.drop_steps,
        _drop,
        "{name} has been well below its best for {steps}: {0} after {1} on {2} problems.",
        "Raise its weight, or give the objectives that rose meanwhile less.",
        "Raise its weight or its target, or give the objectives that rose meanwhile less weight.",
        "Raise its weight, give the objectives that rose meanwhile less, or train with method=ctwa, which raises the"
        " weight by itself: `{command}` prints targets.",
        is_of_steps=False,
    ),
    Rule(
        "negative-covariance",
        lambda limits: limits.negative_covariance_steps,
        _negative_covariance,
        "The updates have worked against {name} for {steps}: its covariance is {0}.",
        "Give it more weight, or a covariance target (method=ctwa): `{command}` prints one.",
        "Give it a larger target, or more weight.",
    ),
    Rule(
        "infeasible-targets",
        lambda limits: limits.infeasible_steps,
        _infeasible,
        "The covariance targets cannot be met together, for {steps} now: feasibility is {0}, above 1.",
        "Lower the targets, first those of the objectives that conflict with the others.",
    ),
    Rule(
        "clipping",
        lambda limits: limits.clipping_steps,
        _clipping,
        "Clipping may have taken all of what the updates did for {name}, for {steps}: its covariance is {0}, and no"
        " more than {1} of it is certain.",
        "Lower the learning rate, make fewer updates on a batch, or widen the clip range.",
    ),
    Rule(
        "unscored",
        lambda _: 1,
        _unscored,
        "{0} of the completions could not be scored for {name}.",
        "Read the failures in engine.log and try the reward function by itself with ctwa check-reward.",
    ),
    Rule(
        "lost-completions",
        lambda _: 1,
        _lost_completions,
        "{0} lost, the rollout having failed: the step was made from the others.",
        "Read the failures in engine.log; where more than ctwa.rollout.max_missing are lost, the run stops.",
    ),
    Rule(
        "entropy-collapse",
        lambda limits: limits.collapse_steps,
        _collapse(key_of.ENTROPY),
        "The policy's entropy has collapsed to {0}, from {1} in the first steps.",
        "Lower the learning rate, raise the sampling temperature, or add an entropy or KL term.",
    ),
    Rule(
        "length-collapse",
        lambda limits: limits.collapse_steps,
        _collapse(key_of.RESPONSE_LENGTH),
        "The responses have collapsed to {0} tokens, from {1} in the first steps.",
        "Look at the samples, and give objectives that reward brevity less weight or a floor.",
    ),
    Rule(
        "non-finite",
        lambda _: 1,
        _non_finite,
        "The update was not finite: {0}.",
        "Lower the learning rate, clip the gradient more tightly, and continue from the last checkpoint.",
    ),
)

#: what `--stop-on` can name
KINDS: tuple[str, ...] = tuple(rule.kind for rule in RULES)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no alarm; write some of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    return kind


#: in a pydantic model: the name of an alarm, one of KINDS
AlarmKind = Annotated[str, AfterValidator(_known)]


def alarm_event(alarm: Alarm) -> dict[str, Any]:
    """The arguments of `EventWriter.write` that put an alarm into events.jsonl."""
    return {"kind": "alarm", "text": f"{alarm.kind}: {alarm.text} {alarm.advice}", "step": alarm.step}
