"""Every registered method: how it is built, driven and compared.

``CASES`` says what is special: options without a default, what a method cannot do.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ctwa.aggregators.registry import GRADIENT_METHODS
from ctwa.batch import RewardMatrix, Rollout
from ctwa.covariance.probe import Progress
from ctwa.scalarizers import METHODS, MethodConfig, Scalarizer, build_scalarizer
from ctwa.scalarizers.registry import takes_targets

CONFIG: TypeAdapter = TypeAdapter(MethodConfig)
EIGHT = [f"objective-{i}" for i in range(8)]


def unequal(names: list[str]) -> dict[str, float]:
    """Different numbers, each belonging to its name and not to its place."""
    return {name: 1 / (3 + index) for index, name in enumerate(sorted(names))}


@dataclass(frozen=True)
class Case:
    """What the tests have to know of one method.

    Attributes:
        config: its config for objectives of these names, but for ``type``.
        estimators: the kinds of advantage estimator it works with: scale invariant or not.
        scaling: what all weights times a factor do to the first advantages where the estimator is not scale invariant:
            they are ``proportional`` to the factor, or ``invariant``.
        least_objectives: with fewer it is a CtwaError.
    """

    config: Callable[[list[str]], dict] = lambda _: {}
    estimators: tuple[bool, ...] = (True, False)
    scaling: str = "proportional"
    least_objectives: int = 1


def lagrangian(names: list[str]) -> dict:
    main, *others = sorted(names)
    # Targets out of reach, so that multipliers move.
    return {"objective": main, "targets": {name: 2 + value for name, value in unequal(others).items()}, "eta": 0.1}


def schedule(names: list[str]) -> dict:
    end = {name: 1 - value for name, value in unequal(names).items()}
    return {"points": [{"step": 0, "weights": unequal(names)}, {"step": 5, "weights": end}]}


CASES = defaultdict(
    Case,
    ctwa=Case(lambda _: {"eta": 0.5}),
    schedule=Case(schedule, scaling="invariant"),
    lagrangian=Case(lagrangian, scaling="invariant", least_objectives=2),
    cgpo=Case(lambda names: {"constraints": {min(names): 0.3}}),
    pama=Case(scaling="invariant"),
    product=Case(scaling="invariant"),
    guard=Case(lambda _: {"warmup": 2}, scaling="invariant"),
    compromise=Case(lambda _: {"warmup": 2}),
    gdpo=Case(estimators=(True,)),
    gd2po=Case(estimators=(True,)),
    rvpo=Case(lambda _: {"anneal_steps": 5}, estimators=(True,)),
    dvao=Case(estimators=(True,)),
    **{name: Case(scaling="invariant") for name in GRADIENT_METHODS if name != "torchjd"},
    torchjd=Case(lambda _: {"weighting": "MGDA"}, scaling="invariant"),
)

every_method = pytest.mark.parametrize("method", sorted(METHODS))
every_method_and_estimator = pytest.mark.parametrize(
    ("method", "scale_invariant"),
    [(method, kind) for method in sorted(METHODS) for kind in CASES[method].estimators],
)


def build(
    method: str,
    names: list[str],
    *,
    scale_invariant: bool | None = None,
    weights: Mapping[str, float] | None = None,
    **options: object,
) -> Scalarizer:
    case = CASES[method]
    config = CONFIG.validate_python({"type": method, **case.config(names), **options})
    kind = case.estimators[0] if scale_invariant is None else scale_invariant
    weights = {name: (weights or unequal(names))[name] for name in names}
    targets = unequal(names) if takes_targets(config) else None
    return build_scalarizer(config, weights, targets=targets, scale_invariant=kind)


@dataclass(frozen=True)
class Driven:
    """What came of one step of a method."""

    advantages_NT: Tensor
    metrics: dict[str, float]
    weights: dict[str, float]


def drive(scalarizer: Scalarizer, batch, *, scale_invariant: bool | None = None, step: int = 1) -> Driven:
    """One whole step as the trainer makes it: advantages, what the update did, a measurement, a validation."""
    method = scalarizer.method if scalarizer.aggregator is None else scalarizer.aggregator.method
    kind = CASES[method].estimators[0] if scale_invariant is None else scale_invariant
    estimate = batch.estimate(scale_invariant=kind)
    advantages_NT = scalarizer.advantages(batch.rollout, estimate)
    metrics: dict[str, float] = {}
    if scalarizer.aggregator is not None:
        advantages_NT = combine(scalarizer, batch, scalarizer.objective_advantages(batch.rollout, estimate), metrics)
    metrics |= scalarizer.observe_update(batch.update(advantages_NT))
    means = {name: float(column.mean()) for name, column in columns_of(batch).items()}
    applies = {name: bool(batch.rollout.rewards.applicable(name).any()) for name in means}
    gains = [mean - 0.5 if applies[name] else math.nan for name, mean in means.items()]
    gains_M = torch.tensor(gains, dtype=torch.float64)
    metrics |= scalarizer.observe_probe(Progress(tuple(means), gains_M, torch.full_like(gains_M, 0.01), 8))
    scalarizer.observe_validation(step, {name: mean for name, mean in means.items() if applies[name]})
    return Driven(advantages_NT, metrics, scalarizer.weights)


def combine(scalarizer: Scalarizer, batch, advantages_MNT: Tensor, metrics: dict[str, float]) -> Tensor:
    """What the engine does for a gradient method, for a policy whose log-probabilities are linear in 20 parameters."""
    assert scalarizer.aggregator is not None
    # A token's features belong to its completion, wherever that stands in the batch.
    features_NTD = (batch.log_ratio_NT[..., None] * (1 + torch.arange(20.0, dtype=torch.float64))).sin()
    gradients_MD = torch.einsum("mnt,ntd->md", advantages_MNT.double(), features_NTD)
    solution = scalarizer.aggregator.solve(
        gradients_MD @ gradients_MD.T, losses_M=scalarizer.losses(batch.rollout), learning_rate=1e-6
    )
    metrics |= solution.metrics
    return torch.einsum("m,mnt->nt", solution.weights_M, advantages_MNT)


def drive_steps(scalarizer: Scalarizer, batches: list, *, first: int = 1, **options) -> list[Driven]:
    return [drive(scalarizer, batch, step=first + index, **options) for index, batch in enumerate(batches)]


def columns_of(batch) -> dict[str, Tensor]:
    rewards = batch.rollout.rewards
    return {name: rewards.column(name)[0] for name in rewards.names}


def with_rewards(batch, columns: Mapping[str, Tensor], scored_NM: Tensor | None = None):
    """The same batch with other rewards."""
    rewards_NM = torch.stack(list(columns.values()), dim=1)
    scored_NM = torch.ones_like(rewards_NM, dtype=torch.bool) if scored_NM is None else scored_NM
    matrix = RewardMatrix(tuple(columns), rewards_NM, scored_NM)
    return type(batch)(Rollout(matrix, batch.rollout.group_N, batch.rollout.mask_NT), batch.log_ratio_NT)


def assert_sound(driven: Driven) -> None:
    assert driven.advantages_NT.isfinite().all()
    assert all(math.isfinite(value) for value in driven.metrics.values()), driven.metrics
    assert all(math.isfinite(weight) and weight >= 0 for weight in driven.weights.values())


def same(one: list[Driven], other: list[Driven]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.advantages_NT, b.advantages_NT) and a.metrics == b.metrics and a.weights == b.weights
        for a, b in zip(one, other, strict=True)
    )
