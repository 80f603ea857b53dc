"""Intervals over prompts: of ratios of sums, and of their differences between models, which are paired.

Letters: P prompts, D resamples, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import scipy  # it imports `special` when that is first asked for
from numpy.typing import NDArray

from ctwa.statistics import CONFIDENCE, Interval

Floats = NDArray[np.float64]
NUM_DRAWS = 10_000
FEW = 20
"""Of fewer prompts intervals are Student's: however wide percentiles are taken, resamples of so few have no tails."""
_AT_ONCE = 2**22  # counts of a chunk of resamples: 32 MB


@dataclass(frozen=True)
class Ratio:
    """A number that is a ratio of sums over P prompts (or texts): a mean over what was scored, a loss a token, ...

    Attributes:
        numerators_P: what is summed.
        denominators_P: how many there were: of a prompt with nothing to count, both are 0.
        transform: of the ratio, increasing: exp for a perplexity.
    """

    numerators_P: Floats
    denominators_P: Floats
    transform: Callable[[Floats], Floats] = np.positive

    @property
    def value(self) -> float | None:
        """The number; None where there was nothing to count."""
        total = self.denominators_P.sum()
        return float(self.transform(self.numerators_P.sum() / total)) if total else None

    @property
    def num(self) -> int:
        """How many prompts had something to count."""
        return int((self.denominators_P > 0).sum())

    @property
    def standard_error(self) -> float | None:
        """By linearisation, prompts being independent; with one value a prompt that of a mean. None for one prompt."""
        return _error(self.influence_P, self.num) if self.num > 1 else None

    @property
    def influence_P(self) -> Floats:
        """How far each prompt moves the number from what the others say, linearised; they add up to 0."""
        total = self.denominators_P.sum()
        ratio = self.numerators_P.sum() / total
        # The delta method: the transform's slope, taken over a step that is small against any error of interest.
        step = 1e-6
        slope = (self.transform(ratio + step) - self.transform(ratio - step)) / (2 * step)
        return np.asarray((self.numerators_P - ratio * self.denominators_P) / total * slope)


@dataclass(frozen=True)
class Measured:
    """One number of one model.

    Attributes:
        value: over the prompts that the model has; None where it has none.
        standard_error: over prompts; None of one prompt.
        low: of the interval; None of one prompt.
        high: likewise.
        num_prompts: how many the model has.
        difference: to the baseline, over the prompts that both have; None for the baseline, and without such prompts.
    """

    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    num_prompts: int
    difference: Interval | None


def measure(metrics: Mapping[str, Sequence[Ratio]]) -> dict[str, list[Measured]]:
    """Every metric's numbers with 95 % intervals, one a model, the first model's the baseline.

    Of 20 prompts and more an interval is of percentiles of resamples, at the levels at which they agree with Student's
    (Hesterberg 2015, What Teachers Should Know About the Bootstrap, "expanded percentile"). Of fewer it is Student's
    own: of two to five prompts, plain percentiles tell one of two to one of six differences that are none from 0.
    Prompts are resampled in the same way for all models and metrics, and in every evaluation of as many prompts.

    Args:
        metrics: by name, one ratio a model, over the same prompts for all models. Metrics may differ in their prompts.
    """
    pairs = {name: [on_common_prompts([ratio, ratios[0]]) for ratio in ratios[1:]] for name, ratios in metrics.items()}
    by_size: dict[int, list[str]] = {}
    for name, ratios in metrics.items():
        by_size.setdefault(len(ratios[0].numerators_P), []).append(name)
    found = {}
    for names in by_size.values():
        # All at once, for drawing the prompts is what takes the time.
        draws = resampled_values([ratio for name in names for ratio in (*metrics[name], *chain(*pairs[name]))])
        for name in names:
            intervals = [_interval(ratio, next(draws)) for ratio in metrics[name]]
            differences = [_difference(own, other, next(draws) - next(draws)) for own, other in pairs[name]]
            found[name] = [
                Measured(ratio.value, ratio.standard_error, low, high, ratio.num, difference)
                for ratio, (low, high), difference in zip(metrics[name], intervals, [None, *differences], strict=True)
            ]
    return {name: found[name] for name in metrics}


def on_common_prompts(ratios: Sequence[Ratio]) -> list[Ratio]:
    """The same numbers over the prompts in which each of them has something to count."""
    common_P = np.all([ratio.denominators_P > 0 for ratio in ratios], axis=0)
    return [
        replace(ratio, numerators_P=ratio.numerators_P * common_P, denominators_P=ratio.denominators_P * common_P)
        for ratio in ratios
    ]


def resampled_values(ratios: Sequence[Ratio]) -> Iterator[Floats]:
    """Each ratio's values over 10,000 resamples of the prompts, (D,); NaN of one with nothing to count."""
    parts = [part for ratio in ratios for part in (ratio.numerators_P, ratio.denominators_P)]
    sums_DC = resampled_sums(np.stack(parts, axis=1))
    for index, ratio in enumerate(ratios):
        with np.errstate(invalid="ignore", divide="ignore"):
            yield ratio.transform(sums_DC[:, 2 * index] / sums_DC[:, 2 * index + 1])


def resampled_sums(values_PC: Floats) -> Floats:
    """The columns' sums over 10,000 resamples of the P rows with replacement, (D, C)."""
    num = len(values_PC)
    rng = np.random.default_rng(0)
    sums = []
    per_chunk = max(1, _AT_ONCE // num)
    for start in range(0, NUM_DRAWS, per_chunk):
        size = min(per_chunk, NUM_DRAWS - start)
        rows_DP = rng.integers(num, size=(size, num)) + num * np.arange(size)[:, None]
        counts_DP = np.bincount(rows_DP.ravel(), minlength=size * num).reshape(size, num)
        sums.append(counts_DP.astype(np.float64) @ values_PC)
    return np.concatenate(sums)


def _interval(ratio: Ratio, draws_D: Floats) -> tuple[float | None, float | None]:
    if ratio.num >= FEW:
        return _percentiles(draws_D, ratio.num)
    linear = replace(ratio, transform=np.positive)  # whose ends are transformed: no perplexity is below 1
    middle, error = linear.value, linear.standard_error
    if middle is None or error is None:
        return None, None
    low, high = ratio.transform(middle + _students(ratio.num) * error).tolist()
    return low, high


def _difference(own: Ratio, other: Ratio, draws_D: Floats) -> Interval | None:
    """Of two ratios over the same prompts."""
    if own.value is None or other.value is None:
        return None
    mean, num = own.value - other.value, own.num
    if num < 2:
        return Interval(mean, None, None, num)
    if num >= FEW:
        return Interval(mean, *_percentiles(draws_D, num), num)
    low, high = (mean + _students(num) * _error(own.influence_P - other.influence_P, num)).tolist()
    return Interval(mean, low, high, num)


def _error(influence_P: Floats, num: int) -> float:
    return float(np.sqrt(num / (num - 1) * (influence_P**2).sum()))


def _students(num: int) -> Floats:
    """The ends of Student's interval of a mean of so many values, in standard errors."""
    tail = (1 - CONFIDENCE) / 2
    return np.asarray(scipy.special.stdtrit(num - 1, [tail, 1 - tail]))


def _percentiles(draws_D: Floats, num: int) -> tuple[float, float]:
    """Of resamples, whose spread is too small by the root of (num - 1) / num: further out, by that and Student's."""
    shares = scipy.special.ndtr(math.sqrt(num / (num - 1)) * _students(num))
    low, high = np.nanquantile(draws_D, shares, method="inverted_cdf")
    return float(low), float(high)
