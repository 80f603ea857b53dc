"""What every registered method does with rewards that could not be scored, and where nothing varies."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout
from ctwa.scalarizers import METHODS
from tests.scalarizers.every_method import (
    CASES,
    EIGHT,
    assert_sound,
    build,
    columns_of,
    drive_steps,
    with_rewards,
)

NO_SUM = ("gd2po", "guard", "pama", "product", "rvpo", "smooth_tchebycheff", "tchebycheff")
"""Methods that leave out a completion that lacks the reward of an objective that applies to it."""

OTHERWISE = (
    ("cgpo", {"constraints": {EIGHT[1]: 0.5, EIGHT[2]: 0.5}}),
    ("dvao", {"batch_normalize": True}),
    ("gd2po", {"batch_normalize": False}),
    ("gd2po", {"threshold": 1.0}),
    ("gdpo", {"batch_normalize": False}),
    ("guard", {"warmup": 1, "margin": 0.01}),
    ("lagrangian", {"at_least": {EIGHT[1]: 0.5}, "targets": {EIGHT[1]: 1.0, EIGHT[2]: 0.5}, "one_sided": True}),
    ("pama", {"variant": "objective"}),
    ("pama", {"variant": "published-code"}),
    ("product", {"power": 0.5}),
    ("product", {"power": -1.0, "offset": 0.1}),
    ("rvpo", {"batch_normalize": False}),
    ("saw", {"apply_to": "advantages"}),
    ("tchebycheff", {"reference": "batch"}),
)
"""Methods with options that make others of them."""

every_variant_and_estimator = pytest.mark.parametrize(
    ("method", "options", "scale_invariant"),
    [
        pytest.param(method, options, kind, id="-".join([method, *options, "standardised" if kind else "plain"]))
        for method, options in (*((method, {}) for method in sorted(METHODS)), *OTHERWISE)
        for kind in CASES[method].estimators
        if kind or options.get("apply_to") != "advantages"
    ],
)


def many(make_batch, *, seed: int, fails: Callable[[Tensor], Tensor]):
    """64 prompts of eight completions with rewards of 0 and 1, which are not scored where ``fails`` says."""
    generator = torch.Generator().manual_seed(seed)
    rewards_NM = torch.rand(512, 3, dtype=torch.float64, generator=generator) < torch.tensor([0.3, 0.6, 0.8])
    scored_NM = ~fails(torch.rand(512, 3, generator=generator))
    log_ratio_NT = 0.2 * torch.randn(512, 2, dtype=torch.float64, generator=generator)
    rollout = Rollout(
        RewardMatrix(tuple(EIGHT[:3]), rewards_NM.double(), scored_NM), torch.arange(512) // 8, torch.ones(512, 2)
    )
    return type(make_batch(EIGHT[:3]))(rollout, log_ratio_NT)


@every_variant_and_estimator
def test_a_completion_that_nothing_scored_earns_nothing(make_batch, method, options, scale_invariant):
    """Not in a prompt of which no completion was scored, either."""

    def fails(chance_NM: Tensor) -> Tensor:
        return (chance_NM[:, :1] < 0.2).expand(512, 3) | (torch.arange(512) < 16)[:, None]

    batches = [many(make_batch, seed=seed, fails=fails) for seed in range(3)]
    scalarizer = build(method, EIGHT[:3], scale_invariant=scale_invariant, **options)
    for batch, driven in zip(batches, drive_steps(scalarizer, batches, scale_invariant=scale_invariant), strict=True):
        assert_sound(driven)
        failed_N = ~batch.rollout.rewards.scored_NM.any(1)
        assert driven.advantages_NT[failed_N].abs().max() < 1e-6
        assert driven.advantages_NT[~failed_N].any()


@every_variant_and_estimator
def test_to_fail_one_objective_does_not_pay(make_batch, method, options, scale_invariant):
    """What fails has nothing to do with the rewards: its mean advantage is no more than chance."""
    batches = [
        many(make_batch, seed=seed, fails=lambda chance_NM, lost=seed: (chance_NM < 0.2) & (torch.arange(3) == lost))
        for seed in range(3)
    ]
    scalarizer = build(method, EIGHT[:3], scale_invariant=scale_invariant, **options)
    runs = drive_steps(scalarizer, batches, scale_invariant=scale_invariant)
    failed = torch.cat(
        [
            driven.advantages_NT[~batch.rollout.rewards.scored_NM.all(1), 0]
            for batch, driven in zip(batches, runs, strict=True)
        ]
    ).double()
    assert failed.mean() <= 3 * failed.std() / len(failed) ** 0.5
    assert (method in NO_SUM) == (not failed.any())


@every_variant_and_estimator
def test_prompts_in_which_nothing_varies_train_nothing(make_batch, method, options, scale_invariant):
    """Whatever the others of the batch have in common; .1 is not exact in binary."""
    if options.get("variant") == "published-code":
        pytest.skip("it gives all completions one advantage, whatever their rewards are")
    batches = []
    for seed in range(3):
        batch = many(make_batch, seed=seed, fails=lambda chance_NM: chance_NM < 0)
        alike_N = batch.rollout.group_N % 3 == 0
        columns = {name: torch.where(alike_N, 0.1, column) for name, column in columns_of(batch).items()}
        batches.append(with_rewards(batch, columns))
    scalarizer = build(method, EIGHT[:3], scale_invariant=scale_invariant, **options)
    for driven in drive_steps(scalarizer, batches, scale_invariant=scale_invariant):
        assert driven.advantages_NT[alike_N].abs().max() < 1e-6
        assert driven.advantages_NT[~alike_N].any()
