"""The seam between the engine and a method: what the engine hands over, and what a method answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.aggregators.base import Aggregator
from ctwa.arguments import check_tensor
from ctwa.batch import Rollout, Update
from ctwa.covariance.probe import Progress
from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo
from ctwa.state import Stateful
from ctwa.weights import check_weights


class Estimate(Protocol):
    """The engine's advantage estimator (GRPO, REINFORCE++, RLOO, ...), bound to the current batch."""

    @property
    def scale_invariant(self) -> bool:
        """True where ``estimate(alpha * scores_N)`` equals ``estimate(scores_N)`` for every alpha > 0."""
        ...

    def __call__(self, scores_N: Tensor, rows_N: Tensor = ...) -> Tensor:
        """Turn one score a completion, float64 (N,), into advantages (N, T).

        Args:
            scores_N: the scores.
            rows_N: bool, the completions that take part, where not all do: the advantages of the others are 0, and no
                mean and no spread knows of them. A completion that is left alone of those that the estimator compares
                it with has the advantage 0, too.
        """
        ...


@dataclass(frozen=True)
class Requirements:
    """What a method asks of the engine; the engine pays for nothing else.

    Attributes:
        log_probs: where ``Update.log_probs_new_NT`` comes from. ``none``: the method does not look at it.
            ``post_update``: one more pass of the whole batch through the updated policy. ``in_update``: the
            log-probabilities that the update's own forward passes computed, at no extra cost.
        token_weights: whether it looks at how the loss weighs a token (``Update.loss``), which not every loss lets on.
        probe: how the progress that ``Scalarizer.observe_probe`` is told of is measured; see docs/methods/probe.md.
        validation: whether it goes by the validations in the course of a run, and does nothing without any.
    """

    log_probs: Literal["none", "post_update", "in_update"] = "none"
    token_weights: bool = False
    probe: Literal["none", "backward", "minibatch", "held_out"] = "none"
    validation: bool = False


class Scalarizer(Stateful, ABC):
    """A method that turns M rewards a completion into the advantages of one policy update.

    Args:
        config: the method's own options. ``build_scalarizer`` fits them to the advantage estimator.
        weights: the initial weight of every objective, by name.

    Raises:
        CtwaError: there is no objective, or one that no metric can be named after; a weight is no number, negative or
            not finite, all of them are 0, or their sum is not finite.
    """

    info: ClassVar[MethodInfo]
    goes_by_weights: ClassVar[bool] = True
    """Whether it matters how large the objectives' own weights are, beyond which of them are 0."""
    takes_targets: ClassVar[bool] = False
    """Whether it steers by the objectives' covariance targets, which its constructor is then given as ``targets``."""
    has_zero: ClassVar[bool] = False
    """Whether it goes by where a reward's zero is: a constant that is added to a reward then changes the update."""
    takes_prompt_weights: ClassVar[bool] = False
    """Whether it scores a completion with the weights that its prompt was told, where it was told any."""
    requirements: Requirements = Requirements()
    aggregator: Aggregator | None = None
    """What combines the objectives' gradients, for methods of that level. The engine hands it to the workers before an
    update and puts back the one that comes from them, its state moved on."""

    def __init__(self, config: Any, weights: Mapping[str, float]) -> None:
        check_weights(weights)
        for name in weights:
            key_of.check_name(name)
        self.config = config
        self.initial_weights = dict(weights)
        self.names = tuple(sorted(weights))

    @property
    def method(self) -> str:
        """The method's name, in its state."""
        return self.info.name

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every objective in the next rollout's score, by name: the objectives' own, if none changes."""
        return dict(self.initial_weights)

    @property
    def covariance_targets(self) -> dict[str, float]:
        """The covariances with the update that the method steers by, by name; whatever else it aims at is none."""
        return {}

    @property
    def mean_targets(self) -> dict[str, float]:
        """The mean rewards that the method waits for, by name: what an objective cannot reach is waited for forever."""
        return {}

    @property
    def in_units(self) -> dict[str, str]:
        """What of it is in the units of the rewards and held against those of other batches, with how to do without.

        ``{"gate": "gate=null"}``: the gate, and the option to write. The text is empty where there is no such option.
        """
        return {}

    @property
    def followed_means(self) -> tuple[str, ...]:
        """The objectives by whose mean reward over a batch it goes: where that never moves, the method stands still."""
        return ()

    @abstractmethod
    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages (N, T) of this rollout."""

    def observe_update(self, update: Update) -> dict[str, float]:
        """Learn from what the update did; return metrics."""
        del update
        return {}

    def observe_probe(self, progress: Progress) -> dict[str, float]:
        """Learn what the last step did to each objective, before the next rollout's advantages; return metrics."""
        del progress
        return {}

    def observe_validation(self, step: int, scores: Mapping[str, float]) -> None:
        """Learn the mean held-out reward of every objective that any held-out row has; step 0 is before training."""
        del step, scores

    def objective_advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        """The advantages of each objective by itself, (M, N, T), in alphabetical order of the names."""
        return torch.stack(objective_advantages(rollout, estimate, sorted(self.initial_weights)))

    def losses(self, rollout: Rollout) -> Tensor | None:
        """A loss of each objective for the aggregator, 0 or more, (M,), in alphabetical order; None for none."""
        del rollout
        return None

    def identity(self) -> dict[str, Any]:
        """Version, method and objectives."""
        return {"version": 1, "method": self.method, "objectives": sorted(self.initial_weights)}

    def _in_order(self, weights_M: Tensor) -> dict[str, float]:
        """Weights by name, in the order of the config."""
        weights = self.named(weights_M)
        return {name: weights[name] for name in self.initial_weights}


def objective_advantages(rollout: Rollout, estimate: Estimate, names: Sequence[str]) -> list[Tensor]:
    """The advantages (N, T) of each objective alone, in the order of ``names``.

    Each is estimated over the completions that it applies to, and 0 on the others. Among the former, entries that were
    not scored have the prompt's mean (``RewardMatrix.filled_NM``), and no part in a sum of advantages.
    """
    rewards = rollout.rewards.select(names)
    filled_NM = rewards.filled_NM(rollout.group_N)
    return [
        _over_rows(rollout, estimate, scores_N, rows_N)
        for scores_N, rows_N in zip(filled_NM.T, rewards.applicable_NM.T, strict=True)
    ]


def score_advantages(rollout: Rollout, estimate: Estimate, names: Sequence[str], scores_N: Tensor) -> Tensor:
    """The advantages (N, T) of scores that were made of the rewards of some objectives.

    A completion that none of them applies to, or whose score is NaN, has no score: it takes no part.

    Raises:
        CtwaError: a score is too large for the precision of the advantages.
    """
    rows_N = rollout.rewards.select(names).applicable_NM.any(1) & ~scores_N.isnan()
    return _over_rows(rollout, estimate, torch.where(rows_N, scores_N, 0.0), rows_N)


def weighted_advantages(rollout: Rollout, estimate: Estimate, weights: Mapping[str, float | Tensor]) -> Tensor:
    """The advantages (N, T) of the weighted sum of the rewards (``weighted_scores``)."""
    return score_advantages(rollout, estimate, list(weights), weighted_scores(rollout, weights))


def _over_rows(rollout: Rollout, estimate: Estimate, scores_N: Tensor, rows_N: Tensor) -> Tensor:
    if not hasattr(estimate, "scale_invariant"):
        raise CtwaError(
            f"the estimate is of type {type(estimate).__name__}; pass a callable with an attribute scale_invariant, "
            "such as GroupRelative(rollout)"
        )
    advantages_NT = estimate(scores_N) if bool(rows_N.all()) else estimate(scores_N, rows_N)
    num_N, num_T = rollout.mask_NT.shape
    advantages_NT = check_tensor("advantages_NT", advantages_NT, N=num_N, T=num_T)
    # Beyond it their squares are infinite, and standardised advantages 0; not standardised they soon are infinite.
    most = torch.finfo(torch.promote_types(advantages_NT.dtype, torch.float32)).max ** 0.5
    if float(scores_N.abs().max()) > most:
        row = int(scores_N.abs().argmax())
        raise CtwaError(
            f"row {row} has the score {float(scores_N[row]):g}, and there are no advantages of scores above {most:.1e} "
            "in size: scale the rewards down, or clip them"
        )
    return advantages_NT


def weighted_scores(rollout: Rollout, weights: Mapping[str, float | Tensor]) -> Tensor:
    """The weighted sum of the rewards, float64 (N,).

    Entries that were not scored, or that the objective does not apply to, have their prompt's mean
    (``RewardMatrix.filled_NM``): a completion is judged by the objectives that apply to it. The sum runs in
    alphabetical order of the names, so that the order of the objectives in the config does not change the last bit.

    Args:
        rollout: the completions and their rewards.
        weights: by objective, one for all completions or one for each, (N,).

    Raises:
        CtwaError: the rewards and the weights do not name the same objectives.
    """
    names = sorted(weights)
    if names != sorted(rollout.rewards.names):
        raise CtwaError(
            f"the rewards are of {sorted(rollout.rewards.names)} but the weights of {names}; name the same objectives"
        )
    rewards_NM = rollout.rewards.select(names).filled_NM(rollout.group_N)
    scores_N = rewards_NM.new_zeros(len(rewards_NM))
    for column, name in enumerate(names):
        scores_N = scores_N + weights[name] * rewards_NM[:, column]
    return scores_N
