"""The rules on the rewards themselves: one that drowns the others, teaches nothing, jumps, or is being gamed."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

from ctwa import metrics as key_of
from ctwa.run.rules import Finding, Rule, Watched
from ctwa.run.trace import Record


def _dominance(watched: Watched, record: Record) -> Iterator[Finding]:
    """The completions' weights in the update follow one objective alone, though others that have a weight vary."""
    metrics, limits = record["metrics"], watched.limits
    correlations = {
        name: value
        for name, key, weight in watched.keyed(key_of.correlation, key_of.weight)
        if (value := metrics.get(key)) is not None and (metrics.get(weight) or 0) > 0
    }
    for name, value in correlations.items():
        others = [other for one, other in correlations.items() if one != name]
        wrong = bool(others) and value >= limits.dominance and max(map(abs, others)) <= limits.dominated
        if wrong or name in watched.tracked:
            yield Finding(name, wrong, (value, max(others, key=abs, default=0.0)))


def _saturation(watched: Watched, record: Record) -> Iterator[Finding]:
    metrics = record["metrics"]
    for name, key, mean in watched.keyed(key_of.no_signal, key_of.objective_mean):
        value = metrics.get(key)
        average = None if value is None else watched.average(key, value)
        if average is None:
            continue
        wrong = average >= watched.limits.saturation
        if wrong or name in watched.tracked:
            yield Finding(name, wrong, (f"{average:.0%}", metrics.get(mean) or 0.0))


def _lost_spread(watched: Watched, record: Record) -> Iterator[Finding]:
    for name, key in watched.keyed(_std):
        value = record["metrics"].get(key)
        start = None if value is None else watched.of_the_first_steps(key, value)
        if value is None or start is None:
            continue
        wrong = start > 0 and value < watched.limits.collapse * start
        if wrong or name in watched.tracked:
            yield Finding(name, wrong, (value, start))


def _jump(watched: Watched, record: Record) -> Iterator[Finding]:
    """The mean leaves the line that it was on, by many standard errors and by much of the completions' spread."""
    metrics, limits = record["metrics"], watched.limits
    for name, key, spread_key in watched.keyed(key_of.objective_mean, _std):
        value = metrics.get(key)
        if value is None:
            continue
        # The spread of the time before: a reward that is being gamed may have none any more.
        spread = watched.average(f"{spread_key} (jump)", metrics.get(spread_key) or 0.0) or 0.0
        before = watched.last(f"{key} (jump)", value, limits.jump_steps + _JUMPED)
        if before is None:
            continue
        line = _Line.through(before[:-_JUMPED])
        change = line.change(before[-_JUMPED:])
        rounding = _ROUNDING * max(map(abs, before))
        wrong = abs(change) > max(limits.jump_size * spread, limits.jump * line.error(_JUMPED), rounding)
        if wrong or name in watched.tracked:
            yield Finding(name, wrong, ("risen" if change > 0 else "fallen", abs(change), str(limits.jump_steps)))


_ROUNDING = 1e-9  # of a mean, to its size
_JUMPED = 5  # steps whose mean is compared with what the line before them says


class _Line(NamedTuple):
    """The least-squares line of some values, one a step."""

    values: list[float]
    centre: float  # the middle of their steps
    squares: float  # of the steps' distances from it
    mean: float
    slope: float

    @classmethod
    def through(cls, values: list[float]) -> _Line:
        centre = (len(values) - 1) / 2
        squares = len(values) * (len(values) ** 2 - 1) / 12
        slope = sum((step - centre) * value for step, value in enumerate(values)) / squares
        return cls(values, centre, squares, fmean(values), slope)

    def change(self, after: list[float]) -> float:
        """How far the mean of the next values is from the line."""
        return fmean(after) - self.mean - self.slope * self._ahead(len(after))

    def error(self, num_after: int) -> float:
        """The standard error of `change`, if values scatter around the line independently."""
        residuals = (value - self.mean - self.slope * (step - self.centre) for step, value in enumerate(self.values))
        of_one = sum(residual**2 for residual in residuals) / (len(self.values) - 2)
        return (of_one * (1 / num_after + 1 / len(self.values) + self._ahead(num_after) ** 2 / self.squares)) ** 0.5

    def _ahead(self, num_after: int) -> float:
        return len(self.values) + (num_after - 1) / 2 - self.centre


def _hacking(watched: Watched, record: Record) -> Iterator[Finding]:
    """Rewards rise in training, and held-out problems say otherwise: of the same one, or of one that only judges."""
    metrics, limits = record["metrics"], watched.limits
    risen: dict[str, float] = {}
    for name, key, weight in watched.keyed(_mean_in_training, key_of.weight):
        watched.trained |= {name} if metrics.get(weight) else set()
        value = metrics.get(key_of.objective_mean(name))
        if value is not None:
            start, recent = watched.of_the_first_steps(key, value), watched.last(key, value, limits.average_steps)
            noise = _error_of_a_difference(watched.first[key], recent or [])
            watched.rise[name] = 0.0 if start is None or recent is None else max(fmean(recent) - start - 3 * noise, 0.0)
        if name in watched.trained and watched.rise.get(name, 0.0) > 0:
            risen[name] = watched.rise[name]
    for name, key, error_key in watched.keyed(key_of.validation, key_of.validation_error):
        value, error = metrics.get(key), metrics.get(error_key) or 0.0
        if value is None:
            continue
        start, error_at_start = watched.at_start.setdefault(name, (value, error))
        means = watched.held_out[name]  # the rule on drops comes before, and has taken in this one
        noise = 3 * means.error_between(error, error_at_start)
        by = name if name in watched.trained else max(risen, key=lambda each: risen[each], default=None)
        wrong = by in risen and start - value > max(watched.least_fall(name, means, start), noise)
        if wrong or name in watched.tracked:
            yield Finding(name, wrong, (value, start, "it" if by == name else by or ""))


def _error_of_a_difference(first: list[float], last: list[float]) -> float:
    """The standard error of the difference of two means."""
    return float(sum(_variance(values) / len(values) for values in (first, last) if len(values) > 1) ** 0.5)


def _variance(values: list[float]) -> float:
    mean = fmean(values)  # statistics.variance calculates with fractions, thirty times as long
    return sum((value - mean) * (value - mean) for value in values) / (len(values) - 1)  # inf, where ** would raise


# Each metric may be remembered for several rules: under names of their own.
def _mean_in_training(name: str) -> str:
    return f"{key_of.objective_mean(name)} (hacking)"


def _std(name: str) -> str:
    return key_of.objective(name, "std")


HEALTH_RULES = (
    Rule(
        "dominance",
        lambda limits: limits.dominance_steps,
        _dominance,
        "The updates have followed {name} alone for {steps}: the completions' weights correlate with it by {0}, and"
        " with no other objective that has a weight by more than {1}.",
        "Compare the spreads of the rewards (objective/<name>/std): scale {name} down, or bring all to one spread with"
        " ctwa.rewards.standardise=running, where the method takes such rewards (docs/rewards.md).",
    ),
    Rule(
        "saturation",
        lambda limits: limits.saturation_steps,
        _saturation,
        "{name} has told the completions of a prompt apart in too few prompts for {steps}: in {0} of them all are"
        " equal; its mean is {1}.",
        "If it is solved, lower its weight or take harder problems; if nothing solves it, take easier ones or a finer"
        " reward.",
        often=True,
    ),
    Rule(
        "lost-spread",
        lambda limits: limits.collapse_steps,
        _lost_spread,
        "The rewards of {name} have lost their spread: a standard deviation of {0}, from {1} in the first steps.",
        "If it is solved, lower its weight; else read the samples: completions that are all alike, or one trick that"
        " always pays.",
        often=True,
    ),
    Rule(
        "jump",
        lambda _: 1,
        _jump,
        "{name} has {0} by {1} within a few steps, off the line of the {2} steps before.",
        "Read the samples of these steps: a trick that was found pays at once. Try it with ctwa check-reward --attack.",
    ),
    Rule(
        "hacking",
        lambda limits: limits.hacking_steps,
        _hacking,
        "{name} has fallen on held-out problems for {steps}, {0} after {1}, while {2} rose in training.",
        "Read the samples for what the reward pays and people would not; try it with ctwa check-reward --attack, and go"
        " back to an earlier checkpoint.",
    ),
)
