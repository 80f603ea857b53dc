"""The figures of a report, section by section, from the runs' traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ctwa import metrics as key_of
from ctwa.report.compare import Comparison
from ctwa.report.groups import Group, objectives_of
from ctwa.report.html.curves import Curve, Floats, averaged, averaging_window, curve, of_group, over_seeds
from ctwa.report.html.panels import Bars, Figure, Line, Mark, Panel
from ctwa.report.summary import RunTrace
from ctwa.statistics import Interval, hypervolume

_RAW_UP_TO = 3  # groups: with more, curves as measured would hide the averages
_MOST_PAIRS = 10  # cosines of pairs of objectives
_MOST_PLANES = 6
_MOST_VOLUMES = 200  # steps


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, what to see in it, figures."""

    name: str
    title: str
    text: str
    figures: tuple[Figure, ...] = field(default=())


class Sections:
    """Makes the sections of some groups of runs."""

    def __init__(self, groups: Sequence[Group]):
        self.groups = groups
        self.runs = [run for group in groups for run in group.runs]
        self.objectives = objectives_of(self.runs)
        self.window = averaging_window(max(run.last_step for run in self.runs))

    def all(self, comparison: Comparison | None) -> list[Section]:
        """Every section that has something to show."""
        found = [
            self.side_by_side(comparison) if comparison else None,
            self.rewards(),
            self.control(),
            self.probes(),
            self.gradients(),
            self.update(),
            self.time(),
        ]
        return [section for section in found if section and section.figures]

    def rewards(self) -> Section:
        """Each objective on held-out and training problems."""
        figures = []
        for name in self.objectives:
            held_out = self._lines(f"val/{name}", kind="marked")
            training = self._lines(f"objective/{name}/mean", average=True)
            bounds = _unit([*held_out, *training])
            figures += [
                Panel(f"held-out-{name}", f"{name}, held-out problems", "mean reward", held_out, y_range=bounds),
                Panel(f"training-{name}", f"{name}, training problems", "mean reward", training, y_range=bounds),
            ]
        text = (
            f"Training curves are moving averages over {self.window} steps{self._thin()}{self._band()}."
            " Held-out results are as measured."
        )
        return Section("objectives", "Objectives", text, _drawn(figures))

    def control(self) -> Section:
        """Covariance against its target, deficit, log-weight."""
        covariances, deficits, weights = [], [], []
        for name in self.objectives:
            lines = self._lines(key_of.covariance(name), average=True, instead=f"ctwa/ema/{name}")
            targets = dict.fromkeys(target for run in self.runs if (target := run.target(name)) is not None)
            levels = [(0.0, ""), *((target, f"target {target:g}") for target in targets)]
            covariances.append(
                Panel(f"covariance-{name}", f"{name}: covariance with the update", "covariance", lines, levels=levels)
            )
            deficits.append(
                Panel(f"deficit-{name}", f"{name}: deficit", "deficit", self._lines(f"ctwa/deficit/{name}"))
            )
            logs = [Line(group.label, self._log_weight(group, name), index) for index, group in enumerate(self.groups)]
            weights.append(Panel(f"log-weight-{name}", f"{name}: log-weight", "log-weight", logs))
        text = (
            "How each objective's reward goes together with the update: below 0 the step works against the objective."
            " The curve is the method's own moving average where it keeps one, else the average over"
            f" {self.window} steps{self._thin()}. The deficit is what the covariance lacks of its target; the"
            " controller raises the weight by it."
        )
        return Section("control", "Covariances and weights", text, _drawn([*covariances, *deficits, *weights]))

    def probes(self) -> Section:
        """What each step did to each objective's expected reward, with its standard error."""
        figures = []
        for name in self.objectives:
            lines = [
                Line(group.label, over_seeds([self._gain(run, name) for run in group.runs]), index)
                for index, group in enumerate(self.groups)
            ]
            figures.append(Panel(f"gain-{name}", f"{name}: gain of a step", "gain", lines, levels=[(0.0, "")]))
        text = (
            f"What one step did to the objective's expected reward, averaged over {self.window} steps. The band is 1.96"
            " standard errors of that average to each side; of several seeds, their range."
        )
        return Section("probes", "Measured gains", text, _drawn(figures))

    def gradients(self) -> Section:
        """Norms of the objectives' gradients and the angles between them."""
        prefix = "gradient/cosine/"
        keys = dict.fromkeys(key for run in self.runs for key in run.columns if key.startswith(prefix))
        pairs = sorted(keys, key=lambda key: float(np.mean([curve(run, key).values.mean() for run in self._with(key)])))
        chosen = [key for key in keys if key in pairs[:_MOST_PAIRS]]
        figures = [
            Panel(
                f"gradient-norm-{name}",
                f"{name}: norm of its gradient",
                "norm",
                self._lines(f"gradient/norm/{name}", average=True),
            )
            for name in self.objectives
        ]
        figures += [
            Panel(
                f"gradient-cosine-{key.removeprefix(prefix)}",
                f"{key.removeprefix(prefix)}: cosine",
                "cosine",
                self._lines(key, average=True),
                levels=[(0.0, "")],
            )
            for key in chosen
        ]
        text = f"Averages over {self.window} steps. Below 0 two objectives pull against each other."
        if len(chosen) < len(keys):
            text += f" Of {len(keys)} pairs the {len(chosen)} with the lowest cosines are shown."
        return Section("gradients", "Gradients", text, _drawn(figures))

    def update(self) -> Section:
        """Feasibility, clipping, unscored completions, and how the policy moves."""
        figures = [
            Panel(
                "feasibility",
                "feasibility of the targets",
                "v*",
                self._lines("ctwa/feasibility", average=True),
                levels=[(1.0, "cannot be met above")],
            ),
            Panel("clip-fraction", "clipped tokens", "share", self._lines("clip/fraction", average=True)),
            Panel("clip-distortion", "clipping distortion", "spread", self._lines("clip/distortion", average=True)),
        ]
        figures += [
            Panel(
                f"clip-bound-{name}",
                f"{name}: least covariance clipping can have left",
                "covariance",
                self._lines(f"clip/bound/{name}", average=True),
                levels=[(0.0, "")],
            )
            for name in self.objectives
        ]
        for name in self.objectives:
            lines = [
                Line(line.label, _unscored(line.curve), line.color, line.kind)
                for line in self._lines(f"objective/{name}/scored_frac")
                if (line.curve.values < 1).any()
            ]
            figures.append(Panel(f"unscored-{name}", f"{name}: completions that could not be scored", "share", lines))
        figures += [
            Panel(key.replace("/", "-"), title, label, self._lines(key, average=True))
            for key, title, label in (
                ("actor/entropy", "entropy of the policy", "nats"),
                ("actor/ppo_kl", "divergence from the sampling policy", "KL"),
                ("actor/grad_norm", "norm of the gradient", "norm"),
                ("response_length/mean", "length of the responses", "tokens"),
            )
        ]
        text = (
            f"Averages over {self.window} steps. Targets with a feasibility above 1 cannot be met together by any"
            " weights. Where the least covariance that clipping can have left is below 0, clipping may have turned the"
            " update against the objective."
        )
        return Section("update", "The update: feasibility, clipping, scoring", text, _drawn(figures))

    def time(self) -> Section:
        """Where the time of a run went."""
        totals = [self._seconds(group) for group in self.groups]
        phases = dict.fromkeys(phase for each in totals for phase in each)
        parts = {phase: [each.get(phase, 0.0) for each in totals] for phase in phases}
        bars = Bars("time", "time of a run by phase", "seconds", [group.label for group in self.groups], parts)
        steps = Panel("step-time", "time of a step", "seconds", self._lines("time/step", average=True))
        text = "Sums over the run, the mean of a method's seeds. Validation (testing) is not part of a step."
        return Section("time", "Where the time went", text, _drawn([bars, steps]))

    def side_by_side(self, comparison: Comparison) -> Section:
        """Pareto fronts of the end results, and hypervolumes over the steps."""
        means = np.array(
            [
                [method.results[name].mean if name in method.results else np.nan for name in self.objectives]
                for method in comparison.methods
            ]
        )
        planes = [
            (first, second)
            for first, second in combinations(range(len(self.objectives)), 2)
            if np.isfinite(means[:, [first, second]]).any(axis=0).all()
        ]
        figures: list[Figure] = [
            self._plane(comparison, *pair, means) for pair in sorted(planes, key=_conflict(means))[:_MOST_PLANES]
        ]
        lines = [
            Line(group.label, over_seeds([self._volume(run, comparison) for run in group.runs]), index, "marked")
            for index, group in enumerate(self.groups)
        ]
        figures.append(Panel("hypervolume", "hypervolume of the results", "hypervolume", lines))
        text = (
            f"At {comparison.at}, {comparison.result}: large marks are methods with their"
            " bootstrap intervals, small ones their runs, the dashed line the front of the plane."
        )
        if len(planes) > _MOST_PLANES:
            text += f" Of {len(planes)} pairs the {_MOST_PLANES} that conflict most are shown."
        return Section("front", "Pareto fronts", text, _drawn(figures))

    def _plane(self, comparison: Comparison, first: int, second: int, means: Floats) -> Panel:
        x_name, y_name = self.objectives[first], self.objectives[second]
        marks = []
        for index, (group, method) in enumerate(zip(self.groups, comparison.methods, strict=True)):
            if x_name not in method.results or y_name not in method.results:
                continue
            if len(group.runs) > 1:
                for run, step in zip(group.runs, method.steps, strict=True):
                    at = _value_at(run.results(x_name), step), _value_at(run.results(y_name), step)
                    marks.append(Mark(run.label, index, *at, large=False))
            x, y = method.results[x_name], method.results[y_name]
            marks.append(Mark(group.label, index, x.mean, y.mean, _range(x), _range(y)))
        points = means[:, [first, second]]
        points = points[np.isfinite(points).all(axis=1)]
        order = np.lexsort((-points[:, 1], -points[:, 0]))
        front: list[tuple[float, float]] = []
        for x_value, y_value in points[order]:
            if not front or y_value > front[-1][1]:
                front.append((x_value, y_value))
        title = f"{x_name} and {y_name}"
        return Panel(f"front-{x_name}-{y_name}", title, y_name, marks=marks, front=np.array(front), x_label=x_name)

    def _volume(self, run: RunTrace, comparison: Comparison) -> Curve:
        curves = [_as_curve(run.results(name)) for name in comparison.objectives]
        if not all(len(each) for each in curves):
            return Curve(np.zeros(0, np.int64), np.zeros(0))
        steps = curves[0].steps
        for each in curves[1:]:
            steps = np.intersect1d(steps, each.steps)
        if len(steps) > _MOST_VOLUMES:
            steps = steps[np.linspace(0, len(steps) - 1, _MOST_VOLUMES).round().astype(int)]
        values_SM = np.array([each.values[np.isin(each.steps, steps)] for each in curves]).T
        reference = np.array(list(comparison.reference.values()))
        return Curve(steps, np.array([hypervolume(value_M[None], reference) for value_M in values_SM]))

    def _lines(self, key: str, *, average: bool = False, kind: str = "line", instead: str = "") -> list[Line]:
        """A line for each group; with `average`, of the averages over steps, and what was measured behind them.

        With `instead`, of that metric in its place for the groups all of whose runs have it.
        """
        lines = []
        for index, group in enumerate(self.groups):
            if average and len(group.runs) == 1 and len(self.groups) <= _RAW_UP_TO:
                lines.append(Line(group.label, curve(group.runs[0], key), index, "thin"))
            if instead and all(instead in run.columns for run in group.runs):
                lines.append(Line(group.label, of_group(group, instead), index))
            else:
                found = of_group(group, key, self.window if average else 1)
                lines.append(Line(group.label, found, index, kind))  # type: ignore[arg-type]
        return lines

    def _log_weight(self, group: Group, name: str) -> Curve:
        curves = []
        for run in group.runs:
            logs = curve(run, f"ctwa/log_weight/{name}")
            weights = curve(run, key_of.weight(name))
            positive = weights.values > 0
            curves.append(logs if len(logs) else Curve(weights.steps[positive], np.log(weights.values[positive])))
        return over_seeds(curves)

    def _gain(self, run: RunTrace, name: str) -> Curve:
        gains = curve(run, f"probe/gain/{name}")
        errors = curve(run, f"probe/standard_error/{name}")
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
                key.removeprefix("time/"): float(curve(run, key).values.sum())
                for key in run.columns
                if key.startswith("time/")
            }
            step = phases.pop("step", None)
            if step is not None:
                inside = sum(seconds for phase, seconds in phases.items() if phase != "testing")
                phases["other"] = max(step - inside, 0.0)
            for phase, seconds in phases.items():
                found[phase] = found.get(phase, 0.0) + seconds / len(group.runs)
        return found

    def _with(self, key: str) -> list[RunTrace]:
        return [run for run in self.runs if key in run.columns]

    def _thin(self) -> str:
        return ", thin as measured" if self._shows_raw() else ""

    def _shows_raw(self) -> bool:
        return len(self.groups) <= _RAW_UP_TO and any(len(group.runs) == 1 for group in self.groups)

    def _band(self) -> str:
        return "; the band is the range over seeds" if any(len(group.runs) > 1 for group in self.groups) else ""


def _drawn(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if not figure.empty)


def _unit(lines: Sequence[Line]) -> tuple[float, float] | None:
    """The range 0 to 1 for rewards of that kind, so that figures compare at a glance."""
    curves = [line.curve.values for line in lines if len(line.curve)]
    if not curves:
        return None
    low, high = min(values.min() for values in curves), max(values.max() for values in curves)
    return (-0.03, 1.03) if low >= 0 and 0.25 < high <= 1 else None


def _unscored(found: Curve) -> Curve:
    high = None if found.low is None else 1 - found.low
    low = None if found.high is None else 1 - found.high
    return Curve(found.steps, 1 - found.values, low, high)


def _as_curve(points: Sequence[tuple[int, float]]) -> Curve:
    points = [point for point in points if np.isfinite(point[1])]
    return Curve(np.array([step for step, _ in points], np.int64), np.array([value for _, value in points]))


def _value_at(points: Sequence[tuple[int, float]], step: int) -> float:
    return [value for at, value in points if at <= step][-1]


def _range(interval: Interval) -> tuple[float, float] | None:
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)


def _conflict(means: Floats) -> Callable[[tuple[int, int]], float]:
    """The correlation of two objectives over methods: the lower, the more one costs the other."""

    def correlation(pair: tuple[int, int]) -> float:
        points = means[:, list(pair)]
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) < 2 or (points.std(axis=0) == 0).any():
            return 0.0
        return float(np.corrcoef(points[:, 0], points[:, 1])[0, 1])

    return correlation
