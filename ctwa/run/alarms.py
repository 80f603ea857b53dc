"""Alarms: rules on the trace that say when a run goes wrong, and what to try.

A rule looks at one record after the other and at nothing else: not at a clock, a file or an engine. Feeding the same
records gives the same alarms, so a resumed run continues by being fed what its trace holds.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from ctwa import metrics as key_of
from ctwa.errors import did_you_mean
from ctwa.run.health_rules import HEALTH_RULES
from ctwa.run.rules import AlarmLimits, Finding, Rule, Watched
from ctwa.run.text import counted, number
from ctwa.run.trace import Record
from ctwa.run.training_rules import TRAINING_RULES

__all__ = ["KINDS", "Alarm", "AlarmKind", "AlarmLimits", "AlarmMonitor", "Episode", "alarm_event"]

RULES = (*TRAINING_RULES, *HEALTH_RULES)


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
        if (self._num_found[key] if rule.often else step - since + 1) < rule.steps(self.limits):
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
        trained = self._watched.trained
        if objective and trained and objective not in trained and rule.advice_without_weight:
            return rule.advice_without_weight
        if objective in self._watched.steered and rule.advice_with_target:
            return rule.advice_with_target
        return (objective in self._watched.measured and rule.advice_with_covariance) or rule.advice


def _target(name: str) -> str:
    return key_of.ctwa("target", name)


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
