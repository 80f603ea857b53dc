"""What the methods that look at each objective by itself share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ctwa.batch import EQUAL, RewardMatrix, Rollout
from ctwa.errors import CtwaError
from ctwa.scalarizers.base import Estimate

REWARD_CEILING = 1.0
"""The reward that losses and shortfalls are counted from: the most that a 0/1 reward can be."""

_SMALL = 2.0**-6  # as of the largest score of a batch


def trained_objectives(weights: Mapping[str, float]) -> tuple[str, ...]:
    """The objectives of weight above 0 in alphabetical order; the others are measured, and train nothing."""
    return tuple(sorted(name for name, weight in weights.items() if weight > 0))


def unit_of(values: Tensor) -> float:
    """A power of two by which values, divided, are less than 2 in size, without a bit lost: squares of them are finite.

    Args:
        values: finite ones.
    """
    exponent = math.frexp(float(values.abs().max()))[1] if values.numel() else 0
    return 2.0 ** min(max(exponent, -1000), 1023)


def magnified(scores_N: Tensor, estimate: Estimate) -> Tensor:
    """Scores whose largest is below 2^-6, times the power of two that brings it to [1/2, 1); others to the bit.

    The more objectives a product has, the smaller it is. An estimator that standardises divides by the standard
    deviation plus a constant (1e-6 in verl, 1e-4 in TRL), beside which the scores' own would be nothing. For any other
    estimator the size of the scores counts, and stays.

    Args:
        scores_N: 0 or more; NaN for a completion that has none.
        estimate: what they are for.
    """
    largest_N = scores_N.nan_to_num(nan=0.0)
    # What says nothing of it is no estimate, and refused where the advantages are asked for.
    if not getattr(estimate, "scale_invariant", False) or float(largest_N.max()) >= _SMALL:
        return scores_N
    return scores_N / unit_of(largest_N)


def no_signal_frac(scores_N: Tensor, group_N: Tensor) -> float:
    """The share of prompts in which all scores are equal, which train nothing; NaN where there is no score.

    Args:
        scores_N: 0 or more; NaN for a completion that has none.
        group_N: the prompt of each.
    """
    has_one_N = scores_N.isfinite()
    scores, groups = scores_N[has_one_N], group_N[has_one_N]
    prompts = [scores[groups == group] for group in groups.unique()]
    without = [bool(of_prompt.max() - of_prompt.min() <= EQUAL * of_prompt.max()) for of_prompt in prompts]
    return sum(without) / len(without) if without else float("nan")


def check_names(option: str, named: Iterable[str], objectives: Mapping[str, float]) -> None:
    """Raise CtwaError where an option names what is not an objective.

    Args:
        option: the option as the user wrote it, for the message.
        named: the names it has.
        objectives: the objectives, by name.
    """
    if unknown := sorted(set(named) - set(objectives), key=str):
        raise CtwaError(f"{option} names {unknown}, which are not objectives; write some of {sorted(objectives)}")


def check_trained(option: str, named: Iterable[str], objectives: Mapping[str, float]) -> None:
    """Raise CtwaError where an option names what is not an objective, or one of weight 0, for which it does nothing.

    Args:
        option: the option as the user wrote it, for the message.
        named: the names it has.
        objectives: the objectives' weights, by name.
    """
    named = list(named)
    check_names(option, named, objectives)
    if without := sorted(name for name in named if objectives[name] == 0):
        raise CtwaError(f"{option} names {without}, which have the weight 0 and train nothing: leave them out")


def batch_means(rewards: RewardMatrix, names: Sequence[str]) -> dict[str, float]:
    """The mean reward of each objective over the completions it scored; an objective that scored none is left out."""
    means = {}
    for name in names:
        rewards_N, scored_N = rewards.column(name)
        if scored_N.any():
            means[name] = float(rewards_N.sum() / scored_N.sum())
    return means


def told_weights(rollout: Rollout, names: Sequence[str]) -> dict[str, Tensor] | None:
    """What the prompts were told to weigh some objectives with, (N,) each; None where they were told nothing.

    Raises:
        CtwaError: they were told nothing of one of the objectives.
    """
    if not rollout.weights:
        return None
    if missing := [name for name in names if name not in rollout.weights]:
        raise CtwaError(
            f"the rollout's weights are of {sorted(rollout.weights)} and leave out {missing}; give one of each "
            "objective, 0 where it does not count"
        )
    return {name: rollout.weights[name] for name in names}


def taking_part(rewards: RewardMatrix) -> Tensor:
    """Bool (N, M), where an objective has a say: it applies to the completion, and has a score in the batch."""
    return rewards.applicable_NM & rewards.scored_NM.any(0)


def judged_rows(rewards: RewardMatrix, takes_part_NM: Tensor) -> Tensor:
    """Bool (N,), the completions that were scored by all the objectives that take part, of which there are some.

    What is no sum leaves the others out, for nothing is neutral there in the place of a reward that is missing
    (``RewardMatrix.filled_NM``): to fail the scorer would pay.
    """
    return takes_part_NM.any(1) & (rewards.scored_NM | ~takes_part_NM).all(1)


def weights_in_score(rollout: Rollout, names: Sequence[str], weights_M: Tensor) -> Tensor:
    """What each objective weighs in the score of each completion, float64 (N, M); 0 where it takes no part in it.

    Args:
        rollout: with its prompts' weights, where they were told any.
        names: the objectives, in the order of ``weights_M``. One without a scored entry in the batch takes no part.
        weights_M: the objectives' own.

    Raises:
        CtwaError: as ``told_weights``.
    """
    rewards = rollout.rewards.select(names)
    told = told_weights(rollout, names)
    weights_NM = weights_M if told is None else torch.stack(list(told.values()), dim=1)
    return taking_part(rewards) * weights_NM


def token_mean(values_NT: Tensor, mask_NT: Tensor) -> float:
    """The mean over all response tokens of the batch; 0 where there are none."""
    mask_NT = mask_NT.bool()
    return float(torch.where(mask_NT, values_NT, 0.0).double().sum() / mask_NT.sum().clamp(min=1))
