"""Intervals over prompts: ratios of sums, resampled together for all models, so that differences are paired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctwa.statistics import CONFIDENCE, Interval

Floats = NDArray[np.float64]
NUM_DRAWS = 10_000
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
        total = self.denominators_P.sum()
        if self.num < 2:
            return None
        ratio = self.numerators_P.sum() / total
        residuals_P = self.numerators_P - ratio * self.denominators_P
        error = np.sqrt(self.num / (self.num - 1) * (residuals_P**2).sum()) / total
        # The delta method: the transform's slope, taken over a step that is small against any error of interest.
        step = 1e-6
        slope = (self.transform(ratio + step) - self.transform(ratio - step)) / (2 * step)
        return float(error * slope)


@dataclass(frozen=True)
class Measured:
    """One number of one model. `difference` is to the baseline, over the prompts both have; None for the baseline."""

    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    num_prompts: int
    difference: Interval | None


def measure(metrics: Mapping[str, Sequence[Ratio]]) -> dict[str, list[Measured]]:
    """Every metric's numbers with percentile bootstrap intervals, one a model, the first model's the baseline.

    Prompts are resampled in the same way for all models and metrics, and in every evaluation of as many prompts.

    Args:
        metrics: by name, one ratio a model, over the same prompts for all models. Metrics may differ in their prompts.
    """
    by_size: dict[int, list[str]] = {}
    for name, ratios in metrics.items():
        by_size.setdefault(len(ratios[0].numerators_P), []).append(name)
    found = {}
    for names in by_size.values():
        parts = [
            part for name in names for ratio in metrics[name] for part in (ratio.numerators_P, ratio.denominators_P)
        ]
        sums_DC = resampled_sums(np.stack(parts, axis=1))  # all at once: drawing the prompts is what takes the time
        column = 0
        for name in names:
            width = 2 * len(metrics[name])
            found[name] = _measure(metrics[name], sums_DC[:, column : column + width])
            column += width
    return {name: found[name] for name in metrics}


def _measure(ratios: Sequence[Ratio], sums_DC: Floats) -> list[Measured]:
    draws, measured = [], []
    for index, ratio in enumerate(ratios):
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have nothing to count
            draws.append(ratio.transform(sums_DC[:, 2 * index] / sums_DC[:, 2 * index + 1]))
        low, high = _interval(draws[-1]) if ratio.num > 1 else (None, None)
        difference = None
        baseline = ratios[0].value
        if index and ratio.value is not None and baseline is not None:
            num = int(((ratio.denominators_P > 0) & (ratios[0].denominators_P > 0)).sum())
            from_, to = _interval(draws[index] - draws[0]) if num > 1 else (None, None)
            difference = Interval(ratio.value - baseline, from_, to, num)
        measured.append(Measured(ratio.value, ratio.standard_error, low, high, ratio.num, difference))
    return measured


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


def _interval(draws_D: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(draws_D, (tail, 1 - tail), method="inverted_cdf")
    return float(low), float(high)
