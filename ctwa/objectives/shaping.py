"""From what the reward functions returned to what is trained on: clips, transforms, scales, gates, standardisation.

What was measured stays what it was: the trace, the samples and the validation show both. In this order, each step on
the result of the one before it; a gate looks at what the other objective's function returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import EQUAL, RewardMatrix, slack
from ctwa.errors import CtwaError
from ctwa.objectives.config import Gate, ObjectiveConfig, Transform
from ctwa.objectives.contract import MAX_VALUE

Standardise = Literal["none", "batch", "running"]

_POINTWISE: dict[Transform, Callable[[Tensor], Tensor]] = {
    "log": lambda values: values.sign() * values.abs().log1p(),
    "sqrt": lambda values: values.sign() * values.abs().sqrt(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Shaped:
    """A batch's rewards as the method sees them.

    Attributes:
        matrix: the shaped rewards. An entry that was not scored stays so. One behind a gate is not scored where the
            gate's objective was not, and does not apply where that one does not.
        open_NM: bool, where the objective's gate was open; True for an objective without one.
    """

    matrix: RewardMatrix
    open_NM: Tensor


class Shaping:
    """The shaping of all objectives, and the running moments where standardisation wants them.

    Args:
        objectives: name -> configuration.
        standardise: ``batch`` subtracts each objective's mean over the batch's scored completions and divides by their
            (population) standard deviation; ``running`` does so with the moments of all training batches up to this
            one. An objective that is the same everywhere becomes 0. Held-out rewards are left as they are: their mean
            is what is looked at.
    """

    def __init__(self, objectives: Mapping[str, ObjectiveConfig], standardise: Standardise = "none") -> None:
        self._objectives = dict(objectives)
        self._standardise = standardise
        self._moments = {name: _Moments() for name in objectives} if standardise == "running" else {}
        self._of_batch = {name: _Moments() for name in objectives}
        """What the last batch of training was standardised by."""

    @property
    def changes(self) -> tuple[str, ...]:
        """The objectives whose rewards in training may be others than their functions returned."""
        return tuple(self._objectives) if self._standardise != "none" else self.changes_held_out

    @property
    def changes_held_out(self) -> tuple[str, ...]:
        """The same of held-out rewards, which are not standardised."""
        return tuple(name for name, objective in self._objectives.items() if objective.shaping)

    def described(self) -> list[str]:
        """What is done to each objective's rewards, in words."""
        words = [f"{name} {self._objectives[name].shaping}" for name in self.changes_held_out]
        over = {"batch": ["a step's completions"], "running": ["all completions so far"]}.get(self._standardise, [])
        return words + [f"standardised over {completions}" for completions in over]

    def shape(self, raw: RewardMatrix, group_N: Tensor, *, train: bool, further: bool = False) -> Shaped:
        """Shape a batch.

        Args:
            raw: what the reward functions returned.
            group_N: int64, the prompt each row belongs to.
            train: whether the batch is one of training, which is standardised. Running moments learn from it first.
            further: whether it is more of the batch before, in the place of some of it: it is standardised as that was,
                and nothing is learnt from it.

        Raises:
            CtwaError: a shaped reward is too large to make statistics of.
        """
        if not self.changes:
            return Shaped(raw, torch.ones_like(raw.scored_NM))
        rewards_NM, scored_NM, applicable_NM = (
            each.clone() for each in (raw.rewards_NM, raw.scored_NM, raw.applicable_NM)
        )
        open_NM = torch.ones_like(scored_NM)
        for column, name in enumerate(raw.names):
            objective, values_N, scored_N = self._objectives[name], rewards_NM[:, column], scored_NM[:, column]
            values_N[scored_N] = _shaped(objective, values_N[scored_N], group_N[scored_N])
            _check_size(name, values_N[scored_N])
            if objective.gate is not None:
                by = raw.select([objective.gate.by])
                open_NM[:, column] = _opened(objective.gate, by)
                values_N[~open_NM[:, column]] = objective.gate.otherwise
                scored_N &= by.scored_NM[:, 0]
                applicable_NM[:, column] &= by.applicable_NM[:, 0]
            if train and self._standardise != "none":
                values_N[scored_N] = self._standardised(name, values_N[scored_N], further=further)
        return Shaped(RewardMatrix(raw.names, rewards_NM, scored_NM, applicable_NM), open_NM)

    def metrics(self, shaped: Shaped) -> dict[str, float]:
        """Of each shaped objective: mean and (population) std of what is trained on; how often its gate was open."""
        metrics: dict[str, float] = {}
        for name in [name for name in self.changes if name in shaped.matrix.names]:
            values_N, scored_N = shaped.matrix.column(name)
            values = values_N[scored_N]
            if len(values):
                metrics[key_of.objective(name, "shaped_mean")] = float(values.mean())
                metrics[key_of.objective(name, "shaped_std")] = float(values.std(correction=0))
            if self._objectives[name].gate is not None and len(values):
                open_N = shaped.open_NM[:, shaped.matrix.names.index(name)]
                metrics[key_of.objective(name, "gate_open_frac")] = float(open_N[scored_N].double().mean())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The running moments as plain numbers."""
        moments = {name: [each.num, each.mean, each.squares] for name, each in self._moments.items()}
        return {"standardise": self._standardise, "moments": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; an objective that it does not know starts anew.

        Raises:
            CtwaError: the moments are missing that this run standardises by.
        """
        if self._standardise != "running":
            return
        if (before := state["standardise"]) != "running":
            raise CtwaError(
                "the checkpoint has no running moments of the rewards, for it was made with "
                f"ctwa.rewards.standardise={before}; write that, or start a new run"
            )
        self._moments = {name: _Moments(*state["moments"].get(name, ())) for name in self._moments}

    def _standardised(self, name: str, values: Tensor, *, further: bool) -> Tensor:
        if not (further and self._of_batch[name].num):
            self._of_batch[name] = self._moments.get(name, _Moments()).with_batch(values)
            if self._standardise == "running":
                self._moments[name] = self._of_batch[name]
        return self._of_batch[name].standardise(values)


def _shaped(objective: ObjectiveConfig, values: Tensor, group: Tensor) -> Tensor:
    """Values of one objective after clip, transform and scale."""
    if objective.clip is not None:
        values = values.clamp(*objective.clip)
    if objective.transform == "rank":
        values = _ranked(values, group)
    elif objective.transform is not None:
        values = _POINTWISE[objective.transform](values)
    return values * objective.scale


def _check_size(name: str, values: Tensor) -> None:
    """Of shaped values, as the contract has it of those that a function returns."""
    if len(values) and float(values.abs().max()) > MAX_VALUE:
        largest = float(values[values.abs().argmax()])
        raise CtwaError(
            f"objective '{name}' has a reward of {largest:g} after its clip, transform and scale, and there are no "
            f"statistics of numbers above {MAX_VALUE:g} in size: write a smaller scale, or a clip"
        )


def _ranked(values: Tensor, group: Tensor) -> Tensor:
    """Each value's rank among those of its prompt, from 0 for the lowest to 1; equal values share the middle."""
    ranks = torch.full_like(values, 0.5)
    for each in group.unique():
        of_prompt = group == each
        members = values[of_prompt]
        if len(members) > 1:
            below, equal = (members[:, None] > members).sum(1), (members[:, None] == members).sum(1) - 1
            ranks[of_prompt] = (below + equal / 2).double() / (len(members) - 1)
    return ranks


def _opened(gate: Gate, by: RewardMatrix) -> Tensor:
    """(N,) bool, where a gate is open; the rewards are those of its objective alone."""
    open_N, values_N = by.scored_NM[:, 0].clone(), by.rewards_NM[:, 0]
    if gate.at_least is not None:
        open_N &= values_N >= gate.at_least - slack(gate.at_least)
    if gate.at_most is not None:
        open_N &= values_N <= gate.at_most + slack(gate.at_most)
    return open_N


@dataclass(frozen=True)
class _Moments:
    """Number, mean and sum of squared deviations of some values."""

    num: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def with_batch(self, values: Tensor) -> _Moments:
        """The moments of these values as well (Chan, Golub and LeVeque 1983)."""
        if not len(values):
            return self
        mean = float(values.mean())
        squares = float((values - mean).square().sum())
        num, difference = self.num + len(values), mean - self.mean
        return _Moments(
            num,
            self.mean + difference * len(values) / num,
            self.squares + squares + difference * difference * self.num * len(values) / num,
        )

    def standardise(self, values: Tensor) -> Tensor:
        """Values in standard deviations from the mean."""
        if not self.num:
            return values
        deviations = values - self.mean
        std = (self.squares / self.num) ** 0.5
        # Rewards that cancel, as 0.3 - 0.1 - 0.2 and 0, differ by the rounding of numbers about 1.
        return deviations / std if std > EQUAL * max(1.0, abs(self.mean)) else torch.zeros_like(values)
