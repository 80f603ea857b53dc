"""What several reward functions make of the same completions: their signal, their conflicts, targets to start from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ctwa.batch import RewardMatrix
from ctwa.covariance.feasibility import reward_covariance, target_feasibility, weighted_covariance
from ctwa.objectives.check import Checked, CheckResult

SHARE_OF_REACH = 0.5  # of the largest covariances that can be met together
_FEW_PROMPTS = 20


@dataclass(frozen=True)
class RewardSignal:
    """A reward's part in a training step on such completions.

    Attributes:
        mean: over what was scored.
        std: within prompts: the root of the mean of the prompts' population variances.
        no_signal: share of prompts whose completions all have one value, and so teach nothing.
        expected: the covariance with the update that equal weights would give, on-policy, with GRPO's advantages.
        target: a covariance target to start from; NaN where no prompt has a signal.
    """

    mean: float
    std: float
    no_signal: float
    expected: float
    target: float


@dataclass(frozen=True)
class Conflict:
    """How two rewards go together within prompts: their correlation, and the share of prompts where it is negative."""

    correlation: float
    conflicts: float


@dataclass(frozen=True)
class Together:
    """Rewards on the same completions.

    Attributes:
        num_prompts: with several completions.
        rewards: by name.
        pairs: by the two names.
    """

    num_prompts: int
    rewards: dict[str, RewardSignal]
    pairs: dict[tuple[str, str], Conflict]


def together(results: Mapping[str, CheckResult]) -> Together | None:
    """How rewards differ within prompts; None where no prompt has two completions.

    The targets are half of the largest covariances that can be met together in proportion to the rewards' standard
    deviations (`target_feasibility`): each reward is asked for its share, and there is room to move.

    Args:
        results: what each function gave, for the same completions.
    """
    first, *_ = results.values()
    group_N, groups = _groups(first.checked)
    several = [rows for rows in groups if len(rows) > 1]
    if not several:
        return None
    matrix = RewardMatrix.from_columns(
        {name: [item.outcome.reward for item in result.checked] for name, result in results.items()}
    )
    names, scored_NM = list(matrix.names), matrix.scored_NM
    rewards_NM = torch.where(scored_NM, matrix.rewards_NM, 0.0).double()
    covariance_MM = reward_covariance(rewards_NM, scored_NM, group_N)
    std_M = covariance_MM.diagonal().clamp(min=0).sqrt()
    expected_M = weighted_covariance(covariance_MM, torch.ones_like(std_M))
    reach = target_feasibility(covariance_MM, std_M).value ** 0.5
    target_M = torch.where(std_M > 0, SHARE_OF_REACH * std_M / reach, torch.nan)  # none without any signal
    signals = {
        name: RewardSignal(
            mean=float(rewards_NM[scored_NM[:, m], m].mean()),
            std=float(std_M[m]),
            no_signal=_no_signal(rewards_NM[:, m], scored_NM[:, m], matrix.applicable_NM[:, m], several),
            expected=float(expected_M[m]),
            target=float(target_M[m]),
        )
        for m, name in enumerate(names)
    }
    pairs = {
        (names[i], names[j]): Conflict(
            float(covariance_MM[i, j] / (std_M[i] * std_M[j])),
            _negative(rewards_NM[:, [i, j]], scored_NM[:, i] & scored_NM[:, j], several),
        )
        for i, j in combinations(range(len(names)), 2)
    }
    return Together(len(several), signals, pairs)


def _groups(checked: Sequence[Checked]) -> tuple[Tensor, list[list[int]]]:
    rows: dict[int, list[int]] = {}
    for at, item in enumerate(checked):
        rows.setdefault(item.row, []).append(at)
    return torch.tensor([item.row for item in checked]), list(rows.values())


def _no_signal(rewards_N: Tensor, scored_N: Tensor, applicable_N: Tensor, groups: Sequence[list[int]]) -> float:
    """The share of the prompts that the reward applies to in which its values do not differ."""
    own = [rows for rows in groups if applicable_N[rows].any()]
    return sum(_is_constant(rewards_N[rows], scored_N[rows]) for rows in own) / max(len(own), 1)


def _is_constant(values_K: Tensor, scored_K: Tensor) -> bool:
    known = values_K[scored_K]
    return len(known) < 2 or bool((known == known[0]).all())


def _negative(rewards_N2: Tensor, scored_N: Tensor, groups: Sequence[list[int]]) -> float:
    """The share of the prompts, of those where both rewards vary, whose completions have a negative covariance."""
    found = []
    for rows in groups:
        values_K2 = rewards_N2[rows][scored_N[rows]]
        centred_K2 = values_K2 - values_K2.mean(0)
        if len(values_K2) > 1 and bool((centred_K2 != 0).any(0).all()):
            found.append(float(centred_K2[:, 0] @ centred_K2[:, 1]) < 0)
    return sum(found) / len(found) if found else float("nan")


def render_together(found: Together) -> RenderableType:
    """As tables: reward by reward, then the pairs, the one that conflicts most first."""
    title = f"within the completions of {found.num_prompts} prompts"
    signals = Table("reward", *_COLUMNS, title=title, title_justify="left")
    for name, each in found.rewards.items():
        numbers = (each.mean, each.std, each.expected, each.target)
        mean, std, expected, target = map(_shown, numbers)
        signals.add_row(Text(name), mean, std, f"{each.no_signal:.0%}", expected, target)
    parts: list[RenderableType] = [signals]
    if found.pairs:
        pairs = Table("rewards", "correlation", "prompts in conflict")
        for (one, other), pair in sorted(found.pairs.items(), key=lambda each: each[1].correlation):
            conflicts = "-" if math.isnan(pair.conflicts) else f"{pair.conflicts:.0%}"
            pairs.add_row(Text(f"{one}, {other}"), _shown(pair.correlation), conflicts)
        parts.append(pairs)
    notes = [
        "std: within prompts, which is all that a step learns from; no signal: prompts whose completions all have one"
        " value",
        "expected: the covariance with the update that equal weights would give; target: for method=ctwa, half of what"
        " all rewards can reach together, to be taken until a run with method=linear says more (ctwa suggest-targets)",
    ]
    silent = [name for name, each in found.rewards.items() if each.std == 0]
    if silent:
        notes.append(f"{', '.join(silent)}: one value within every prompt, so that nothing of it can be learnt yet")
    if found.num_prompts < _FEW_PROMPTS:
        notes.append(f"{found.num_prompts} prompts tell little: --limit takes more")
    return Group(*parts, *(Text(f"- {note}") for note in notes))


def overrides(found: Together) -> str:
    """The targets as one line to paste; those of rewards with a signal and a name that a key can have."""
    targets = {name: each.target for name, each in found.rewards.items() if math.isfinite(each.target)}
    return " ".join(
        f"ctwa.objectives.{name}.target={each:.2g}" for name, each in targets.items() if name.isidentifier()
    )


_COLUMNS = ("mean", "std", "no signal", "expected", "target")


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 6):.3g}"
