"""What happened in some runs, in plain words: one sentence, then each objective, the weights, and what comes next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctwa import metrics as key_of
from ctwa.report.compare import Comparison, MethodResult
from ctwa.report.curves import Floats, over_own_spans
from ctwa.report.groups import Group, objectives_of
from ctwa.report.targets import FEWEST_STEPS
from ctwa.report.verdict import Verdict, is_apart, verdicts
from ctwa.run.alarms import Episode
from ctwa.run.text import clean, listed, number, table

_MOVED = 0.005  # a weight that changes by a smaller share of itself has stood still


@dataclass(frozen=True)
class Story:
    """What is said of some runs.

    Attributes:
        headline: one sentence that joins verdicts and alarms.
        lost: objective, methods, and since when it is below its start with them: what was sacrificed.
        advice: what to try, for which objective with which method.
        objectives: objective, method, and what became of it.
        methods: method, and something that it did: which weight moved, by which covariance. Several of a method.
        commands: what comes next, and what for.
    """

    headline: str
    lost: tuple[tuple[str, str, str], ...]
    advice: tuple[str, ...]
    objectives: tuple[tuple[str, str, str], ...]
    methods: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]


def tell(groups: Sequence[Group], comparison: Comparison | None = None) -> Story:
    """What happened in the runs of some methods.

    Args:
        groups: the methods; the first is what the others are compared with.
        comparison: of these groups, where there are several that can be compared.
    """
    results = {method.label: method for method in (comparison.methods if comparison else ())}
    methods = [_Method(group, verdicts(group), results.get(group.label)) for group in groups]
    names = [name for name in objectives_of([run for group in groups for run in group.runs]) if _any(methods, name)]
    baseline = comparison.baseline if comparison else ""
    rows = [(name, each, each.sentence(name, baseline)) for name in names for each in methods if name in each.verdicts]
    return Story(
        headline=_headline(methods, names),
        lost=_lost(methods, names),
        advice=_advice(methods),
        objectives=tuple((name, method.group.label, sentence) for name, method, sentence in rows),
        methods=tuple((method.group.label, text) for method in methods for text in _steered(method.group)),
        commands=_commands(methods),
    )


def story_text(story: Story) -> str:
    """The story as lines for a terminal."""
    several = len({method for method, _ in story.methods}) > 1
    return "\n".join(
        [
            clean(story.headline),
            "",
            "What happened:",
            *_aligned([row if several else (row[0], row[2]) for row in once(story.objectives)]),
            "",
            f"What the method{'s' * several} did:",
            *_aligned([row if several else row[1:] for row in once(story.methods)]),
            "",
            "What comes next:",
            *(f"  {clean(line)}" for command, why in story.commands for line in (command, f"    {why}")),
        ]
    )


def once(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows, with what they begin with left out where the row before begins with it too."""
    before = ["", *(row[0] for row in rows)]
    return [("" if row[0] == above else row[0], *row[1:]) for row, above in zip(rows, before, strict=False)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in table(rows[0], rows[1:], left=len(rows[0]))] if rows else []


@dataclass(frozen=True)
class _Method:
    """A method and what became of its objectives."""

    group: Group
    verdicts: dict[str, Verdict]
    result: MethodResult | None  # of a comparison

    def alarms(self, name: str | None) -> str:
        """The alarms of an objective, or of the runs as a whole: those that hold, or else those that are over."""
        episodes = [each for run in self.group.runs for each in run.alarms.episodes if each.alarm.objective == name]
        holding = {each.alarm.kind: each for each in episodes if not each.over}
        return listed([_alarm(each) for each in (holding or {each.alarm.kind: each for each in episodes}).values()])

    def brief(self, name: str) -> str:
        """What became of an objective, as the end of a sentence that it begins."""
        verdict = self.verdicts[name]
        return self._brief(verdict) + (" on training problems" if is_apart(self.group, verdict) else "")

    @staticmethod
    def _brief(verdict: Verdict) -> str:
        if verdict.word == "unknown":
            return f"is unknown ({verdict.text.removeprefix('unknown: ')})"
        if verdict.word != "kept":
            return f"{verdict.word} {number(abs(verdict.summary.change))}"
        if verdict.dip is None:
            return "kept level"
        size, first, last = verdict.dip
        return f"dipped by {number(size)} {_steps(first, last)} and recovered"

    def sentence(self, name: str, baseline: str) -> str:
        """The same with the size of noise, the difference to the baseline, and the alarms."""
        verdict = self.verdicts[name]
        parts = [self.brief(name)]
        if verdict.word in ("gained", "lost"):
            parts[0] += f", more than noise ({number(verdict.margin)})"
        elif verdict.word == "kept":
            parts[0] += f" ({number(verdict.summary.change, sign=True)} is within noise, {number(verdict.margin)})"
        parts += [verdict.seeds] if verdict.seeds else []
        if self.result is not None and name in self.result.gains:
            gain, beyond = self.result.gains[name].mean, self.result.is_beyond_noise(name)
            known = {True: ", more than noise", False: ", within noise", None: ""}[beyond]
            above = f"{number(abs(gain))} {'above' if gain > 0 else 'below'} {baseline}{known}"
            parts.append(above if gain else f"as with {baseline}")
        return "; ".join([*parts, *filter(None, [self.alarms(name)])])


def _any(methods: Sequence[_Method], name: str) -> bool:
    return any(name in method.verdicts for method in methods)


def _alarm(episode: Episode) -> str:
    alarm = episode.alarm
    when = _steps(alarm.since, episode.last) if episode.over else f"since step {alarm.since}"
    return f"alarm {alarm.kind} {when}"


def _steps(first: int, last: int) -> str:
    return f"at step {first}" if first == last else f"at steps {first} to {last}"


def _headline(methods: Sequence[_Method], names: Sequence[str]) -> str:
    """What was lost first, then what was kept, then what was gained; and whether the methods differ."""
    order = ("lost", "unknown", "kept", "gained")
    told: dict[str, list[str]] = {}  # what is said, of which objectives
    for name in sorted(names, key=lambda name: min(order.index(word) for word in _words(methods, name))):
        told.setdefault(_clause(methods, name), []).append(name)
    clauses = [f"{listed(of)} {clause if len(of) == 1 else _of_several(clause)}" for clause, of in told.items()]
    clauses += [alarms + _by(method, methods) for method in methods if (alarms := method.alarms(None))]
    return "; ".join([*clauses, *_differences(methods, names)]) + "."


def _of_several(clause: str) -> str:
    """A clause about one objective as one about several."""
    return clause.replace("is unknown", "are unknown")


def _words(methods: Sequence[_Method], name: str) -> list[str]:
    return [method.verdicts[name].word for method in methods if name in method.verdicts]


def _clause(methods: Sequence[_Method], name: str) -> str:
    own = [method for method in methods if name in method.verdicts]
    alarms = {method.group.label: f" ({text})" if (text := method.alarms(name)) else "" for method in own}
    words = _words(own, name)
    if len(own) > 1 and {*words} == {"gained"} and not any(alarms.values()):
        return f"gained{_by_all(own, methods)}"
    briefs = [method.brief(name) + _by(method, methods) + alarms[method.group.label] for method in own]
    if len({*words}) == 1:  # a verb is said once
        briefs[1:] = [brief.removeprefix(f"{words[0]} ") for brief in briefs[1:]]
    return listed(briefs)


def _by(method: _Method, methods: Sequence[_Method]) -> str:
    return f" with {method.group.label}" if len(methods) > 1 else ""


def _by_all(own: Sequence[_Method], methods: Sequence[_Method]) -> str:
    if len(own) < len(methods):
        return f" with {listed([method.group.label for method in own])}"
    return " with both" if len(methods) == 2 else " with every method"


def _differences(methods: Sequence[_Method], names: Sequence[str]) -> list[str]:
    """Where a method differs from the baseline by more than noise."""
    judged = {
        (method.group.label, name): (method.result.is_beyond_noise(name), method.result.gains[name].mean)
        for method in methods
        for name in names
        if method.result is not None and name in method.result.gains
    }
    baseline = methods[0].group.label
    beyond = [
        f"{label} is {number(abs(gain))} {'above' if gain > 0 else 'below'} {baseline} in {name}"
        for (label, name), (is_beyond, gain) in judged.items()
        if is_beyond
    ]
    if beyond:
        return [f"{listed(beyond)}, more than noise"]
    if not judged or any(is_beyond is None for is_beyond, _ in judged.values()):
        return []
    seeds = " of one seed" if all(len(method.group.runs) == 1 for method in methods) else ""
    return [f"all differences between the methods are within the noise{seeds}: more seeds would tell"]


def _steered(group: Group) -> list[str]:
    """What a method moved: weights, and gates where it has some."""
    gates = {name: curve.values for name in group.objectives if len(curve := group.curve(key_of.gate(name)))}
    said = listed([f"{name} by {1 - values.mean():.0%}" for name, values in gates.items()])
    return _weights(group) + ([f"opened, on average, the gate of {said}"] if gates else [])


def _weights(group: Group) -> list[str]:
    """Which weights moved and by which covariances."""
    curves = {name: over_own_spans([run.curve(key_of.weight(name)) for run in group.runs]) for name in group.objectives}
    moves = {name: _move(curve.values) for name, curve in curves.items() if len(curve)}
    if not moves:
        measured = any(len(run.curve(key_of.covariance(name))) for run in group.runs for name in group.objectives)
        also = "" if measured else ", nor covariances: what an update did for which objective is not known"
        return [f"left no weights in its trace{also}"]
    still = [f"{name}{_reason(group, name)}" for name, move in moves.items() if not move]
    found = [
        f"{verb} the weight of {name} {way}{_reason(group, name)}" for name, move in moves.items() for verb, way in move
    ]
    if still:
        found.append(f"kept the weight{'s' * (len(still) > 1)} of {listed(still)}")
    return found


def _move(weights_S: Floats) -> list[tuple[str, str]]:
    """What became of a weight, as verb and way; nothing where it stood still."""
    first, last = float(weights_S[0]), float(weights_S[-1])
    lowest, highest = float(weights_S.min()), float(weights_S.max())
    least = _MOVED * max(abs(first), abs(last))
    # On the way it was further from both ends than they are from each other.
    far = max(least, abs(last - first))
    by = [f"up to {number(highest)}"] if highest - max(first, last) > far else []
    by += [f"down to {number(lowest)}"] if min(first, last) - lowest > far else []
    if abs(last - first) <= least:
        return [("moved", f"from {number(first)} {listed(by)} and back")] if by else []
    verb = "raised" if last > first else "lowered"
    return [(verb, f"from {number(first)} to {number(last)}" + (f", on the way {listed(by)}" if by else ""))]


def _reason(group: Group, name: str) -> str:
    """How an objective's covariance was, beside its target if it has one."""
    covariances = [curve.values for run in group.runs if len(curve := run.curve(key_of.covariance(name)))]
    if not covariances:
        return ""
    values, target = np.concatenate(covariances), group.runs[0].target(name)
    if target is None:
        return f" (mean covariance {number(float(values.mean()), sign=True)})"
    below = (values < target).mean()
    often = f"in {below:.0%} of the steps" if below else "at no step"
    return f" (its covariance was below its target of {number(target)} {often})"


def _lost(methods: Sequence[_Method], names: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        for method in methods:
            if name in method.verdicts and (verdict := method.verdicts[name]).word == "lost":
                found.setdefault((name, verdict.text.removeprefix("lost: ")), []).append(method.group.label)
    return tuple((name, listed(labels), text) for (name, text), labels in found.items())


def _advice(methods: Sequence[_Method]) -> tuple[str, ...]:
    """What the alarms that hold say; where none does and an objective was lost, what would hold it."""
    found = []
    for method in methods:
        episodes = [each for run in method.group.runs for each in run.alarms.episodes if not each.over]
        for alarm in (each.alarm for each in episodes):
            about = (alarm.objective or alarm.kind) + _by(method, methods)
            found.append(f"{about}: {alarm.advice}")
    lost = dict.fromkeys(name for each in methods for name, verdict in each.verdicts.items() if verdict.word == "lost")
    if not found and lost:
        found = [f"raise the weight of {listed(list(lost))}, or let a method do so: `ctwa methods` lists them."]
    return tuple(dict.fromkeys(found))


def _commands(methods: Sequence[_Method]) -> tuple[tuple[str, str], ...]:
    runs = [run for method in methods for run in method.group.runs]
    paths = [str(run.folder.path) for run in runs]
    out = ["--out", os.path.join(_common(paths), "report.html")] if len(runs) > 1 else []
    found = [(["report", *paths, *out], "why: curves, covariances, weights and samples, on one page")]
    found += [
        (["suggest-targets", *(str(run.folder.path) for run in method.group.runs)], "targets for method=ctwa")
        for method in methods
        if _wants_targets(method)
    ][:1] or [(["methods"], "which other methods there are")]
    saved = [str(run.folder.path) for run in runs if any(run.folder.checkpoints.glob("global_step_*"))]
    if saved:
        found.append((["eval", *saved], "the models beside the one they began with, on held-out prompts"))
    else:
        found.append((["compare", *paths, "ANOTHER_RUN"], "this method beside another one's run"))
    return tuple((shlex.join(["ctwa", *arguments]), why) for arguments, why in found)


def _common(paths: Sequence[str]) -> str:
    """The folder that all are in; as they are written, where it can be."""
    one_kind = len({os.path.isabs(path) for path in paths}) == 1
    return os.path.commonpath(paths if one_kind else [os.path.abspath(path) for path in paths])


def _wants_targets(method: _Method) -> bool:
    """Whether an objective fell short, and as many covariances are there as `ctwa suggest-targets` takes."""
    runs = method.group.runs
    short = any(verdict.word in ("lost", "kept") for verdict in method.verdicts.values())
    names = method.group.objectives
    enough = all(sum(len(run.curve(key_of.covariance(name))) for run in runs) >= FEWEST_STEPS for name in names)
    return short and enough and not any(run.target(name) is not None for run in runs for name in names)
