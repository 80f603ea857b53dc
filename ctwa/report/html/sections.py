"""The figures of a report, section by section, from the runs' traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ctwa import metrics as key_of
from ctwa.report.compare import Comparison
from ctwa.report.curves import Curve, averaged, averaging_window, over_seeds
from ctwa.report.groups import Group, objectives_of
from ctwa.report.html.fronts import side_by_side
from ctwa.report.html.panels import Bars, Kind, Line, Panel, Section, drawn
from ctwa.report.trace import RunTrace

_RAW_UP_TO = 3  # groups: with more, curves as measured would hide the averages
_MOST_PAIRS = 10  # cosines of pairs of objectives
_LEAST_SPAN = 0.1  # of an axis of rewards
_ZERO = (0.0, "")  # a level
_BESIDE_STEPS = ("testing", "save_checkpoint")  # phases of a run that are not in time/step
_FEW_POINTS = 10  # each is marked: a curve of one point would not be seen


class Sections:
    """Makes the sections of some groups of runs.

    A section names the metrics it draws, and `_lines` and `_gain` note them: `method` draws the methods' own that are
    left. So no metric of a method is hidden, whichever method it is.
    """

    def __init__(self, groups: Sequence[Group]):
        self.groups = groups
        self.runs = [run for group in groups for run in group.runs]
        self.objectives = objectives_of(self.runs)
        self.window = averaging_window(max(run.last_step for run in self.runs))
        self._keys = dict.fromkeys(key for run in self.runs for key in run.keys)
        self._shown: set[str] = set()

    def all(self, comparison: Comparison | None) -> list[Section]:
        """Every section that has something to show."""
        front = [side_by_side(comparison, self.groups, self.objectives)] if comparison else []
        first = [self.rewards(), self.sources(), self.control()]
        last = [self.probes(), self.gradients(), self.update(), self.time()]
        method = self.method()  # after the others: it draws what they do not
        return [section for section in [*front, *first, method, *last] if section.figures]

    def overview(self) -> list[list[Panel]]:
        """For each objective its results, its covariance and its weight."""
        return [[self._results(name), self._covariance(name), self._weight(name)] for name in self.objectives]

    def rewards(self) -> Section:
        """Each objective on held-out and training problems."""
        figures = [panel for name in self.objectives for panel in self._rewards(name)]
        text = (
            f"Training curves are moving averages over {self.window} steps{self._thin()}{self._band()}."
            " Held-out results are as measured. Training completions are sampled and held-out ones as"
            " rollout.val_kwargs says, by default greedily, so the two need not be at one level."
        )
        return Section("objectives", "Objectives", text, drawn(figures))

    def _rewards(self, name: str) -> tuple[Panel, Panel]:
        held_out = self._panel(
            key_of.validation(name), f"{name}, held-out problems", "mean reward", average=False, kind="marked"
        )
        training = self._panel(key_of.objective_mean(name), f"{name}, training problems", "mean reward")
        bounds = _bounds([*held_out.lines, *training.lines])
        return replace(held_out, y_range=bounds), replace(training, y_range=bounds)

    def _results(self, name: str) -> Panel:
        held_out, training = self._rewards(name)
        return training if held_out.empty else held_out

    def sources(self) -> Section:
        """Each objective by where the rows are from."""
        figures = []
        for name in self.objectives:
            for kind, key_for, average in (
                ("held-out", key_of.validation_of_source, False),
                ("training", key_of.objective_of_source, True),
            ):
                keys = {source: key_for(name, source) for source in key_of.sources_in(self._keys)}
                for group in self.groups:
                    title = f"{name}, {kind} problems" + f", {group.label}" * (len(self.groups) > 1)
                    lines = _by_name(group, keys, self.window if average else 1)
                    figures.append(Panel(f"{name}-{kind}-by-source-{group.label}", title, "mean reward", lines))
        text = (
            "The same by data source, or by validation file where these have names: each objective on the sources that"
            f" it applies to. Training curves are moving averages over {self.window} steps{self._thin()}."
        )
        return Section("sources", "By data source", text, drawn(figures))

    def control(self) -> Section:
        """Covariances against their targets, and weights."""
        text = (
            "How each objective's reward goes together with the update: below 0 the step works against the objective."
            f" Averages over {self.window} steps{self._thin()}. Beside it the weight, which is that of the next step: a"
            " method with targets raises it while the covariance is below its dashed line."
        )
        figures = [panel(name) for name in self.objectives for panel in (self._covariance, self._weight)]
        return Section("control", "Covariances and weights", text, drawn(figures))

    def _covariance(self, name: str) -> Panel:
        targets = dict.fromkeys(target for run in self.runs if (target := run.target(name)) is not None)
        levels = (_ZERO, *((target, f"target {target:g}") for target in targets))
        return self._panel(key_of.covariance(name), f"{name}: covariance with the update", "covariance", levels=levels)

    def _weight(self, name: str) -> Panel:
        return self._panel(key_of.weight(name), f"{name}: weight", "weight", average=False)

    def method(self) -> Section:
        """Every metric that is a method's own and has no place in another section."""
        parts: dict[tuple[str, str], dict[str, str]] = {}
        for name in key_of.of_methods(self._keys, self._shown):
            family, key, objective = key_of.parse(name)
            if key == "log_weight":  # the weight is drawn beside the covariance
                continue
            parts.setdefault((family, key), {})[objective] = name
        figures = []
        for (family, key), by_objective in parts.items():
            label, name = key.replace("_", " "), f"{family}-{key}"
            title = f"{family}: {label}"
            if whole := by_objective.pop("", ""):
                figures.append(self._panel(whole, title, label, average=False))
            panels = [
                Panel(f"{name}-{group.label}", f"{title}, {group.label}", label, _by_name(group, by_objective))
                for group in self.groups
            ]
            panels = [panel for panel in panels if not panel.empty]
            figures += panels if len(panels) > 1 else [replace(panel, name=name, title=title) for panel in panels]
        text = "What the methods say of themselves, as measured; docs/methods tells what each metric means."
        return Section("method", "The method", text, drawn(figures))

    def probes(self) -> Section:
        """What each step did to each objective's expected reward, with its standard error."""
        figures = []
        for name in self.objectives:
            lines = [
                Line(group.label, over_seeds([self._gain(run, name) for run in group.runs]), index)
                for index, group in enumerate(self.groups)
            ]
            figures.append(Panel(f"gain-{name}", f"{name}: gain of a step", "gain", lines, levels=[_ZERO]))
        text = (
            f"What one step did to the objective's expected reward, averaged over {self.window} steps. The band is 1.96"
            " standard errors of that average to each side; of several seeds, their range."
        )
        return Section("probes", "Measured gains", text, drawn(figures))

    def gradients(self) -> Section:
        """Norms of the objectives' gradients and the angles between them: plain and cross-fitted."""
        words = {key_of.GRADIENT_COSINE: "cosine", key_of.CONFLICT_COSINE: "cosine, cross-fitted"}
        keys = [key for key in self._keys if key.startswith(tuple(words))]
        pairs = sorted(keys, key=self._mean)[:_MOST_PAIRS]
        norms = [
            self._panel(norm_of(name), f"{name}: norm of its gradient{how}", "norm")
            for name in self.objectives
            for norm_of, how in ((key_of.gradient_norm, ""), (key_of.conflict_norm, ", cross-fitted"))
        ]
        cosines = [
            self._panel(key, f"{key.removeprefix(prefix)}: {word}", "cosine", levels=[_ZERO])
            for key in keys
            for prefix, word in words.items()
            if key in pairs and key.startswith(prefix)
        ]
        text = f"Averages over {self.window} steps. Below 0 two objectives pull against each other."
        if any(key.startswith(key_of.CONFLICT_COSINE) for key in keys):
            text += " What is cross-fitted is without the noise that the gradients of one mini-batch share."
        if len(pairs) < len(keys):
            text += f" Of {len(keys)} pairs the {len(pairs)} with the lowest cosines are shown."
        return Section("gradients", "Gradients", text, drawn([*norms, *cosines]))

    def update(self) -> Section:
        """Feasibility, clipping, unscored completions, which prompts were drawn, and how the policy moves."""
        impossible = [(1.0, "cannot be met above")]
        figures = [
            self._panel(key_of.FEASIBILITY, "feasibility of the targets", "v*", levels=impossible),
            self._panel(key_of.CLIP_FRACTION, "clipped tokens", "share"),
            self._panel(key_of.CLIP_DISTORTION, "clipping distortion", "spread"),
        ]
        for name in self.objectives:
            title = f"{name}: least covariance clipping can have left"
            figures.append(self._panel(key_of.clip_bound(name), title, "covariance", levels=[_ZERO]))
        for name in self.objectives:
            title = f"{name}: completions that could be scored"
            scored = self._panel(key_of.objective(name, "scored_frac"), title, "share", average=False)
            incomplete = [line for line in scored.lines if (line.curve.values < 1).any()]
            figures.append(replace(scored, lines=incomplete))
        figures.append(self._panel(key_of.NO_SIGNAL, "prompts in which no objective varies", "share"))
        figures += [
            self._panel(key_of.no_signal(name), f"{name}: prompts in which it does not vary", "share")
            for name in self.objectives
        ]
        figures += [
            self._panel(key_of.SOLVE_RATE, "solve rate of the prompts drawn", "share"),
            self._panel(key_of.NEVER_SAMPLED, "training prompts never sampled", "share"),
            self._panel(key_of.ENTROPY, "entropy of the policy", "nats"),
            self._panel(key_of.KL, "divergence from the sampling policy", "KL"),
            self._panel(key_of.GRADIENT_NORM, "norm of the gradient", "norm"),
            self._panel(key_of.RESPONSE_LENGTH, "length of the responses", "tokens"),
        ]
        text = (
            f"Averages over {self.window} steps. Targets with a feasibility above 1 cannot be met together by any"
            " weights. Where the least covariance that clipping can have left is below 0, clipping may have turned the"
            " update against the objective."
        )
        return Section("update", "The update: feasibility, clipping, scoring", text, drawn(figures))

    def time(self) -> Section:
        """Where the time of a run went."""
        totals = [self._seconds(group) for group in self.groups]
        phases = dict.fromkeys(phase for each in totals for phase in each)
        parts = {phase: [each.get(phase, 0.0) for each in totals] for phase in phases}
        bars = Bars("time", "time of a run by phase", "seconds", [group.label for group in self.groups], parts)
        steps = self._panel(key_of.STEP_SECONDS, "time of a step", "seconds")
        text = "Sums over the run, the mean of a method's seeds. Validating (testing) and saving are no part of a step."
        if hidden := self._mean(key_of.HIDDEN_SECONDS):
            text += (
                f" Rewards ran for {hidden:.3g} s a step while completions were written, which costs nothing, and were "
                f"waited for {self._mean(key_of.WAITED_SECONDS):.3g} s."
            )
        return Section("time", "Where the time went", text, drawn([bars, steps]))

    def _panel(
        self,
        key: str,
        title: str,
        y_label: str,
        *,
        average: bool = True,
        kind: Kind | None = None,
        levels: Sequence[tuple[float, str]] = (),
    ) -> Panel:
        """One metric of all groups; its file is named like it."""
        lines = self._lines(key, average=average, kind=kind)
        return Panel(key.replace("/", "-"), title, y_label, lines, levels=levels)

    def _lines(self, key: str, *, average: bool = False, kind: Kind | None = None) -> list[Line]:
        """A line for each group; with `average`, of the averages over steps, and what was measured behind them."""
        self._shown.add(key)
        lines = []
        for index, group in enumerate(self.groups):
            if average and len(group.runs) == 1 and len(self.groups) <= _RAW_UP_TO:
                lines.append(Line(group.label, group.runs[0].curve(key), index, "thin"))
            found = group.curve(key, self.window if average else 1)
            lines.append(Line(group.label, found, index, kind or _kind(found)))
        return lines

    def _mean(self, key: str) -> float:
        return float(np.mean([curve.values.mean() for run in self.runs if len(curve := run.curve(key))] or [0.0]))

    def _gain(self, run: RunTrace, name: str) -> Curve:
        self._shown |= {key_of.probe_gain(name), key_of.probe_error(name)}
        gains, errors = run.curve(key_of.probe_gain(name)), run.curve(key_of.probe_error(name))
        mean = averaged(gains, self.window)
        if len(errors) != len(gains) or not len(gains):
            return mean
        # Independent steps: the variance of a mean of n is the mean of the variances over n.
        num = np.minimum(np.arange(1, len(gains) + 1), self.window)
        variance = averaged(Curve(errors.steps, errors.values**2), self.window).values / num
        around = 1.96 * np.sqrt(variance)
        return Curve(mean.steps, mean.values, mean.values - around, mean.values + around)

    def _seconds(self, group: Group) -> dict[str, float]:
        found: dict[str, float] = {}
        for run in group.runs:
            phases = {
                key.removeprefix("time/"): float(run.curve(key).values.sum())
                for key in run.keys
                if key.startswith("time/")
            }
            step = phases.pop("step", None)
            if step is not None:
                inside = sum(seconds for phase, seconds in phases.items() if phase not in _BESIDE_STEPS)
                phases["other"] = max(step - inside, 0.0)
            for phase, seconds in phases.items():
                found[phase] = found.get(phase, 0.0) + seconds / len(group.runs)
        return found

    def _thin(self) -> str:
        return ", thin as measured" if self._shows_raw() else ""

    def _shows_raw(self) -> bool:
        return len(self.groups) <= _RAW_UP_TO and any(len(group.runs) == 1 for group in self.groups)

    def _band(self) -> str:
        return "; the band is the range over seeds" if any(len(group.runs) > 1 for group in self.groups) else ""


def _kind(curve: Curve) -> Kind:
    return "marked" if len(curve) <= _FEW_POINTS else "line"


def _by_name(group: Group, keys: Mapping[str, str], window: int = 1) -> list[Line]:
    """A line for each of some metrics, by the name of what it is of: an objective, a data source."""
    curves = {name: group.curve(key, window) for name, key in keys.items()}
    return [
        Line(name, curve, index, _kind(curve), grouped=False)
        for index, (name, curve) in enumerate(curves.items())
        if len(curve)
    ]


def _bounds(lines: Sequence[Line]) -> tuple[float, float] | None:
    """One range for the figures of an objective, so that they compare at a glance; noise is not blown up to fill it."""
    curves = [line.curve.values for line in lines if len(line.curve)]
    if not curves:
        return None
    low, high = min(values.min() for values in curves), max(values.max() for values in curves)
    margin = max(0.06 * (high - low), (_LEAST_SPAN - (high - low)) / 2)
    return (float(low - margin), float(high + margin))
