"""Other trainers' names of metrics, and what ctwa calls the same numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from statistics import fmean

from ctwa import metrics as key_of
from ctwa.errors import CtwaError
from ctwa.imports.history import History, differ

_TRAINING = (
    re.compile(r"(?:train/)?rewards/(?P<name>[^/]+)/(?P<what>mean|std)"),  # TRL
    re.compile(r"(?:train/)?rewards/(?P<name>[^/]+)"),  # TRL until 0.15
    re.compile(r"(?:train/)?reward/(?P<name>[^/]+)(?:/(?P<what>mean|std))?"),  # verl, by a reward function of one's own
    re.compile(r"gdpo/(?P<name>[^/]+)/(?P<what>mean|std)"),  # verl's gdpo
)
_HELD_OUT = (
    re.compile(r"eval[_/]rewards/(?P<name>[^/]+)(?:/mean)?"),  # TRL
    re.compile(r"eval[_/]reward/(?P<name>[^/]+)(?:/mean)?"),
    re.compile(r"val-(?:core|aux)/(?P<source>.+)/(?P<name>[^/]+)/mean@\d+"),  # verl
)
_NO_OBJECTIVES = frozenset(
    (
        *("reward", "score", "total", "mean", "std", "min", "max"),  # sums over all rewards, and their statistics
        *("chosen", "rejected", "accuracies", "margins"),  # what DPO calls rewards
        "acc_success_only",  # verl's count beside "acc"
    )
)
_SAME = {
    key_of.ENTROPY: ("entropy", "actor/entropy"),
    key_of.GRADIENT_NORM: ("grad_norm", "actor/grad_norm"),
    key_of.KL: ("actor/ppo_kl",),
    key_of.RESPONSE_LENGTH: ("completions/mean_length", "completion_length", "response_length/mean"),
    key_of.STEP_SECONDS: ("step_time", "timing_s/step"),
}
"""What means the same elsewhere, by its name here."""
_MOST_CANDIDATES = 30


@dataclass(frozen=True)
class Naming:
    """Which metrics of another trainer are which of ctwa's.

    Attributes:
        objectives: their names.
        origins: by a name of ctwa's, the metrics that it is: several where validation files each have one, or where
            two loggers call one number differently.
    """

    objectives: tuple[str, ...]
    origins: dict[str, tuple[str, ...]]

    def renamed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of a step by ctwa's names. What several metrics are is their mean."""
        found = {}
        for name, keys in self.origins.items():
            values = [metrics[key] for key in keys if key in metrics]
            if values:
                found[name] = fmean(values)
        return found


def find_names(history: History, objectives: Mapping[str, str], held_out: Mapping[str, str]) -> Naming:
    """Which metrics of a run are the rewards of which objective, and which are known otherwise.

    Args:
        history: the run.
        objectives: objective -> the metric that is its mean reward in training, beside those that are known by name.
        held_out: objective -> the metric that is its mean reward on held-out problems.

    Raises:
        CtwaError: no metric is known to be a reward, one that was named is not there, or two that are known by name
            for the same reward differ.
    """
    keys = history.keys
    for option, given in (("--objective", objectives), ("--held-out", held_out)):
        for name, key in given.items():
            _see(option, name, key, keys)
    by_ctwa = any(re.fullmatch(r"objective/.+/mean", key) for key in keys)  # which wrote them, by way of a logger
    named = {*objectives.values(), *held_out.values()}  # what the user gives a name has that one alone
    others = [key for key in keys if key not in named]
    origins = _as_they_are(others) if by_ctwa else _by_pattern(others)
    origins |= {key_of.objective_mean(name): (key,) for name, key in objectives.items()}
    origins |= {key_of.validation(name): (key,) for name, key in held_out.items()}
    names = list(dict.fromkeys([*key_of.objectives_in(origins), *held_out]))
    if not names:
        raise CtwaError(
            "no metric is known to be the mean of one reward: name each by --objective NAME=METRIC (training) or"
            f" --held-out NAME=METRIC; {_candidates(keys)}"
        )
    for name, found in origins.items():
        if key_of.parse(name).family == "objective":
            _see_that_they_agree(name, found, history)
    return Naming(tuple(names), {key: of for key, of in origins.items() if _is_of(key, names)})


def _is_of(key: str, names: Sequence[str]) -> bool:
    """Whether a metric is not of what is no objective: verl's accuracy may be validated and not trained on."""
    metric = key_of.parse(key)
    is_rewards = metric.family in ("objective", "val", "val_source") and key != key_of.VALIDATION_LENGTH
    return not is_rewards or metric.objective in names


def _see_that_they_agree(name: str, keys: Sequence[str], history: History) -> None:
    """Refuse several metrics for one number that differ."""
    for step, metrics in history.steps.items():
        first, *others = [key for key in keys if key in metrics] or [""]
        for other in others:
            if differ(metrics[first], metrics[other]):
                objective = key_of.parse(name).objective
                raise CtwaError(
                    f"both {first} and {other} look like the reward {objective}, and at step {step} they are "
                    f"{metrics[first]:g} and {metrics[other]:g}: choose one by --objective {objective}=METRIC"
                )


def _see(option: str, name: str, key: str, keys: Sequence[str]) -> None:
    try:
        key_of.check_name(name)
    except CtwaError as error:
        raise CtwaError(f"{option}: {error}") from error
    if key not in keys:
        near = get_close_matches(key, keys, n=5, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else _candidates(keys)
        raise CtwaError(f"{option} {name}={key}: no such metric was logged; {hint}")


def _as_they_are(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {key: (key,) for key in keys}


def _by_pattern(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    training: dict[str, list[str]] = {}
    held_out: dict[str, dict[str, list[str]]] = {}
    other: dict[str, tuple[str, ...]] = {}
    for key in keys:
        if (match := _match(_TRAINING, key)) is not None:
            training.setdefault(key_of.objective(match["name"], match.groupdict().get("what") or "mean"), []).append(
                key
            )
        elif (match := _match(_HELD_OUT, key)) is not None:
            # Several of one source are verl's of prompts with fewer or more completions: mean@1, mean@4.
            held_out.setdefault(match["name"], {}).setdefault(match.groupdict().get("source") or "", []).append(key)
        else:
            plain = key.removeprefix("train/")
            other |= {name: (key,) for name, same in _SAME.items() if plain in same}
    validated: dict[str, tuple[str, ...]] = {}
    for name, by_source in held_out.items():
        validated[key_of.validation(name)] = tuple(chain.from_iterable(by_source.values()))
        if len(by_source) > 1:
            validated |= {key_of.validation_of_source(name, source): tuple(of) for source, of in by_source.items()}
    return {name: tuple(same) for name, same in training.items()} | validated | other


def _match(patterns: Iterable[re.Pattern[str]], key: str) -> re.Match[str] | None:
    found = next((match for pattern in patterns if (match := pattern.fullmatch(key)) is not None), None)
    return found if found is not None and found["name"] not in _NO_OBJECTIVES else None


def _candidates(keys: Sequence[str]) -> str:
    likely = sorted(keys, key=lambda key: not re.search(r"reward|score|acc|val|eval", key, re.IGNORECASE))
    more = f" and {len(keys) - _MOST_CANDIDATES} more" if len(keys) > _MOST_CANDIDATES else ""
    return f"there are {', '.join(likely[:_MOST_CANDIDATES])}{more}"
