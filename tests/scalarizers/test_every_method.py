"""What every registered method has to do, whichever it is: a method added to the registry is tested here at once."""

import json
import math
from dataclasses import replace

import pytest
import torch

from ctwa.aggregators.registry import GRADIENT_METHODS
from ctwa.errors import CtwaError
from ctwa.objectives.contract import MAX_VALUE
from ctwa.scalarizers import METHODS
from ctwa.scalarizers.group_relative import GroupRelative
from ctwa.scalarizers.registry import SCALARIZERS
from tests.scalarizers.every_method import (
    CASES,
    CONFIG,
    EIGHT,
    assert_sound,
    build,
    columns_of,
    drive,
    drive_steps,
    every_method,
    every_method_and_estimator,
    same,
    unequal,
    with_rewards,
)


@every_method_and_estimator
@pytest.mark.parametrize("num_objectives", [1, 2, 3, 8])
def test_all_numbers_are_finite(make_batch, method, scale_invariant, num_objectives):
    names = EIGHT[:num_objectives]
    if num_objectives < CASES[method].least_objectives:
        with pytest.raises(CtwaError):
            build(method, names, scale_invariant=scale_invariant)
        return
    scalarizer = build(method, names, scale_invariant=scale_invariant)
    batches = [make_batch(names, seed=seed) for seed in range(4)]

    for batch, driven in zip(batches, drive_steps(scalarizer, batches, scale_invariant=scale_invariant), strict=True):
        assert_sound(driven)
        assert driven.advantages_NT.shape == batch.rollout.mask_NT.shape
        assert list(driven.weights) == names


REFUSING = ("compromise", "guard", "gradnorm", "product", "saw")
"""Methods that refuse rewards beyond the bounds that they are told, or scores beyond what can be added up."""


@every_method
@pytest.mark.parametrize("beyond", [1 - 0.9 - 0.1, 1.1 * 1.1 - 0.21])
def test_rounding_is_not_beyond_a_bound(make_batch, method, beyond):
    assert not 0 <= beyond <= 1
    batch = make_batch(EIGHT[:3])
    columns = columns_of(batch)
    one, other = (
        drive(build(method, EIGHT[:3]), with_rewards(batch, {name: column.clone() for name, column in columns.items()}))
        for columns in (
            dict.fromkeys(columns, torch.where(torch.arange(32) < 16, value, columns[EIGHT[0]]))
            for value in (beyond, round(beyond))
        )
    )
    torch.testing.assert_close(one.advantages_NT, other.advantages_NT, rtol=0, atol=1e-6)


@every_method_and_estimator
@pytest.mark.parametrize(("size", "num_large"), [(MAX_VALUE, 1), (MAX_VALUE, 3), (1e154, 1), (1e300, 1), (-1e300, 1)])
def test_numbers_are_finite_of_rewards_of_any_size(make_batch, method, scale_invariant, size, num_large):
    """The engine lets in rewards up to MAX_VALUE; a loop of one's own may have larger ones.

    They are refused where a score is too large for an advantage.
    """
    scalarizer = build(method, EIGHT[:3], scale_invariant=scale_invariant)
    for seed in range(3):
        batch = make_batch(EIGHT[:3], seed=seed)
        sizes = [size if index < num_large else 1.0 for index in range(3)]
        columns = {name: each * column for each, (name, column) in zip(sizes, columns_of(batch).items(), strict=True)}
        try:
            driven = drive(scalarizer, with_rewards(batch, columns), scale_invariant=scale_invariant, step=seed + 1)
        except CtwaError as error:
            told = str(error)
            assert method in REFUSING or (abs(size) == 1e300 and "scale the rewards down" in told)
            return
        assert_sound(driven)


@every_method_and_estimator
def test_large_scores_are_refused_and_no_advantages_that_are_0_or_infinite(make_batch, method, scale_invariant):
    """In single precision the squares of 1e20 are infinite."""
    batch = make_batch(EIGHT[:2])
    for size in (MAX_VALUE, 1e20, 1e200):
        columns = {name: size * column for name, column in columns_of(batch).items()}
        rollout = with_rewards(batch, columns).rollout
        try:
            advantages_NT = build(method, EIGHT[:2], scale_invariant=scale_invariant).advantages(
                rollout, GroupRelative(rollout, standardise=scale_invariant)
            )
        except CtwaError as error:
            told = str(error)
            assert method in REFUSING or (size > MAX_VALUE and "scale the rewards down" in told)
            continue
        assert advantages_NT.isfinite().all()
        assert advantages_NT.any()


def test_shares_of_large_rewards_are_those_of_small_ones_to_the_bit(make_batch):
    """A power of two changes no share; with it the squares of these rewards are not finite."""
    batch = make_batch(EIGHT[:3])
    for size in (2.0**-600, 2.0**511):
        large = with_rewards(batch, {name: size * column for name, column in columns_of(batch).items()})
        assert drive(build("dvao", EIGHT[:3]), large).metrics == drive(build("dvao", EIGHT[:3]), batch).metrics


@pytest.mark.parametrize("method", [name for name in sorted(SCALARIZERS) if SCALARIZERS[name].takes_prompt_weights])
def test_weights_of_prompts_are_those_of_each_prompts_own_run(make_batch, method):
    names, batch = ["alpha", "beta", "gamma"], make_batch(["alpha", "beta", "gamma"])
    told = {
        0: {"alpha": 0.1, "beta": 0.6, "gamma": 0.3},
        1: {"alpha": 0.9, "beta": 0.1, "gamma": 0.0},
    }
    kind_N = batch.rollout.group_N % 2
    weights = {name: torch.where(kind_N == 0, told[0][name], told[1][name]).double() for name in names}
    conditioned = type(batch)(replace(batch.rollout, weights=weights), batch.log_ratio_NT)

    found_NT = drive(build(method, names), conditioned).advantages_NT
    for kind, own in told.items():
        alone_NT = drive(build(method, names, weights=own), batch).advantages_NT
        torch.testing.assert_close(found_NT[kind_N == kind], alone_NT[kind_N == kind])


@pytest.mark.parametrize("method", [name for name in sorted(SCALARIZERS) if SCALARIZERS[name].takes_prompt_weights])
def test_prompts_that_are_told_of_some_objectives_only_are_refused(make_batch, method):
    batch = make_batch(["alpha", "beta"])
    told = replace(batch.rollout, weights={"alpha": torch.ones(32, dtype=torch.float64)})

    with pytest.raises(CtwaError, match=r"weights are of \['alpha'\] and leave out \['beta'\]; give one of each"):
        build(method, ["alpha", "beta"]).advantages(told, batch.estimate())


@every_method
def test_metrics_are_named_by_what_they_are_and_the_objective(make_batch, method):
    """verl takes the greatest or the least over ranks of a metric whose key has such a word in it."""
    names = ["alpha", "beta"]
    for driven in drive_steps(build(method, names), [make_batch(names, seed=seed) for seed in range(2)]):
        for key in driven.metrics:
            assert "max" not in key
            assert "min" not in key
            assert key.count("/") in {1, 2}
            assert key.count("/") == 1 or key.rpartition("/")[2] in names


@every_method_and_estimator
def test_the_order_of_the_objectives_changes_no_bit(make_batch, method, scale_invariant):
    order = [EIGHT[i] for i in (3, 0, 7, 5, 1, 6, 2, 4)]
    batches = [make_batch(EIGHT, seed=seed, unscored=0.1) for seed in range(2)]
    one = drive_steps(build(method, EIGHT, scale_invariant=scale_invariant), batches, scale_invariant=scale_invariant)
    other = drive_steps(
        build(method, order, scale_invariant=scale_invariant),
        [batch.in_order(order) for batch in batches],
        scale_invariant=scale_invariant,
    )

    assert same(one, other)


@every_method_and_estimator
def test_weights_times_a_factor(make_batch, method, scale_invariant):
    """A power of two rounds nothing, so what is proportional is so exactly."""
    names = EIGHT[:3]
    weights = unequal(names)
    batch = make_batch(names)
    one, other = (
        drive(
            build(method, names, scale_invariant=scale_invariant, weights=each), batch, scale_invariant=scale_invariant
        )
        for each in (weights, {name: 4 * weight for name, weight in weights.items()})
    )
    factor = 4 if CASES[method].scaling == "proportional" and not scale_invariant else 1
    # Scale invariance is up to the small number that keeps estimators from dividing by 0.
    atol = 1e-3 if scale_invariant else 1e-12
    torch.testing.assert_close(factor * one.advantages_NT, other.advantages_NT, rtol=0, atol=atol)


@every_method_and_estimator
def test_a_run_that_was_interrupted_goes_on_to_the_last_bit(make_batch, method, scale_invariant):
    names = EIGHT[:3]
    batches = [make_batch(names, seed=seed, unscored=0.1) for seed in range(7)]
    kind = {"scale_invariant": scale_invariant}
    whole = drive_steps(build(method, names, **kind), batches, **kind)
    interrupted = build(method, names, **kind)
    before = drive_steps(interrupted, batches[:3], **kind)
    saved = json.dumps(interrupted.state_dict(), allow_nan=False)
    resumed = build(method, list(reversed(names)), **kind)
    resumed.load_state_dict(json.loads(saved))

    assert json.dumps(resumed.state_dict(), allow_nan=False) == saved
    after = drive_steps(resumed, [batch.in_order(list(reversed(names))) for batch in batches[3:]], first=4, **kind)
    assert same(whole, before + after)


@every_method
def test_saving_is_no_step(make_batch, method):
    """A state that shares its containers with the method would change after it was saved."""
    names = EIGHT[:3]
    scalarizer = build(method, names)
    drive(scalarizer, make_batch(names, seed=0))
    state = scalarizer.state_dict()
    saved = json.dumps(state)
    other = build(method, names)
    other.load_state_dict(state)
    for each in (scalarizer, other):
        drive(each, make_batch(names, seed=1), step=2)

    assert json.dumps(state) == saved
    assert scalarizer.state_dict() == other.state_dict()


@every_method
def test_a_state_of_other_objectives_or_of_another_method_is_refused(method):
    state = build(method, EIGHT[:3]).state_dict()

    with pytest.raises(CtwaError, match="objectives"):
        build(method, EIGHT[1:4]).load_state_dict(state)
    with pytest.raises(CtwaError, match="method"):
        build(method, EIGHT[:3]).load_state_dict(state | {"method": "another"})


@every_method_and_estimator
def test_what_stands_in_an_unscored_entry_has_no_effect(make_batch, method, scale_invariant):
    names = EIGHT[:3]
    kind = {"scale_invariant": scale_invariant}
    runs = []
    for value in (0.0, math.nan, 1e9):
        scalarizer = build(method, names, **kind)
        batches = []
        for seed in range(4):
            batch = make_batch(names, seed=seed)
            scored_NM = torch.rand(32, 3, generator=torch.Generator().manual_seed(seed)) >= 0.2
            scored_NM[8:12, 1] = False  # a prompt without a score
            scored_NM[:, 2] &= seed != 2  # a batch without a score
            columns = columns_of(batch)
            columns = {
                name: torch.where(scored_N, columns[name], value)
                for name, scored_N in zip(names, scored_NM.T, strict=True)
            }
            batches.append(with_rewards(batch, columns, scored_NM))
        runs.append(drive_steps(scalarizer, batches, **kind))
        for driven in runs[-1]:
            assert_sound(driven)

    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


@every_method_and_estimator
def test_nothing_scored_at_all(make_batch, method, scale_invariant):
    """No advantage has a reason to differ, and the next batch is as good as ever."""
    names = EIGHT[:3]
    kind = {"scale_invariant": scale_invariant}
    scalarizer = build(method, names, **kind)
    empty, driven = drive_steps(scalarizer, [make_batch(names, unscored=1.1), make_batch(names)], **kind)

    assert_sound(empty)
    assert_sound(driven)
    assert not empty.advantages_NT.any()
    assert driven.advantages_NT.any()


@every_method_and_estimator
def test_the_value_of_a_constant_objective_does_not_matter(make_batch, method, scale_invariant):
    names = EIGHT[:3]
    kind = {"scale_invariant": scale_invariant}
    batch = make_batch(names)
    runs = []
    for constant in (0.25, 0.75):
        columns = columns_of(batch) | {names[1]: torch.full((32,), constant, dtype=torch.float64)}
        scalarizer = build(method, names, **kind)
        runs.append(drive_steps(scalarizer, [with_rewards(batch, columns)] * 3, **kind))
        for driven in runs[-1]:
            assert_sound(driven)

    if not scalarizer.has_zero:
        torch.testing.assert_close(runs[0][0].advantages_NT, runs[1][0].advantages_NT, rtol=0, atol=1e-9)


@every_method_and_estimator
def test_all_objectives_constant_leave_nothing_to_learn(make_batch, method, scale_invariant):
    """0.1 is not exact in binary: what a mean leaves of it must not be blown up."""
    names = EIGHT[:3]
    kind = {"scale_invariant": scale_invariant}
    batch = make_batch(names)
    constant = with_rewards(batch, {name: torch.full((32,), 0.1, dtype=torch.float64) for name in names})
    for driven in drive_steps(build(method, names, **kind), [constant] * 3, **kind):
        assert_sound(driven)
        assert driven.advantages_NT.abs().max() < 1e-6


@every_method_and_estimator
def test_identical_objectives_keep_the_order_of_their_rewards(make_batch, method, scale_invariant):
    names = EIGHT[:3]
    kind = {"scale_invariant": scale_invariant}
    batch = make_batch(names)
    reward_N = columns_of(batch)[names[0]]
    identical = with_rewards(batch, dict.fromkeys(names, reward_N))
    for driven in drive_steps(build(method, names, **kind), [identical] * 3, **kind):
        assert_sound(driven)
        assert driven.advantages_NT.any()
        for group in batch.rollout.group_N.unique():
            rows = batch.rollout.group_N == group
            order = reward_N[rows].argsort()
            assert (driven.advantages_NT[rows, 0][order].diff() >= -1e-12).all()


@every_method_and_estimator
def test_opposite_objectives(make_batch, method, scale_invariant):
    names = EIGHT[:2]
    kind = {"scale_invariant": scale_invariant}
    batch = make_batch(names)
    reward_N = columns_of(batch)[names[0]]
    opposite = with_rewards(batch, {names[0]: reward_N, names[1]: 1 - reward_N})
    for driven in drive_steps(build(method, names, **kind), [opposite] * 4, **kind):
        assert_sound(driven)
        assert driven.advantages_NT.abs().max() < 10


@every_method
def test_the_order_of_completions_does_not_matter(make_batch, method):
    names = EIGHT[:3]
    batch = make_batch(names, unscored=0.1)
    order_N = torch.randperm(32, generator=torch.Generator().manual_seed(5))
    one, other = (drive(build(method, names), each) for each in (batch, batch.with_rows(order_N)))

    torch.testing.assert_close(one.advantages_NT[order_N], other.advantages_NT, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((method, {}) for method in sorted(set(METHODS) - set(GRADIENT_METHODS))),
        *((method, {"batch_normalize": on}) for method in ("dvao", "gd2po", "gdpo", "rvpo") for on in (True, False)),
        ("saw", {"apply_to": "advantages"}),
    ],
)
def test_tokens_that_the_loss_does_not_see_have_no_advantage(make_batch, method, options):
    """Nor have others of a completion different ones: what is shown of it is its advantage."""
    names = EIGHT[:3]
    rollout = make_batch(names, unscored=0.1).rollout
    lengths_N = 1 + torch.arange(32) % rollout.mask_NT.shape[1]
    mask_NT = torch.arange(rollout.mask_NT.shape[1]) < lengths_N[:, None]
    rollout = replace(rollout, mask_NT=mask_NT)
    advantages_NT = build(method, names, **options).advantages(rollout, GroupRelative(rollout))
    assert bool(advantages_NT.any())
    assert torch.equal(advantages_NT, advantages_NT[:, :1] * mask_NT)


@every_method
def test_an_unknown_option_is_refused(method):
    with pytest.raises(ValueError, match="bananas"):
        CONFIG.validate_python({"type": method, **CASES[method].config(EIGHT[:3]), "bananas": 1})


def test_methods_that_combine_rewards_estimate_the_advantages_of_one_score(make_batch):
    """So what is paid beside the score, as a KL penalty, counts once."""
    batch = make_batch(EIGHT[:3])
    for name, method in METHODS.items():
        calls = []

        def estimate(scores_N, *rows, calls=calls):
            calls.append(scores_N)
            return batch.estimate()(scores_N, *rows)

        estimate.scale_invariant = True
        build(name, EIGHT[:3]).advantages(batch.rollout, estimate)
        assert (len(calls) == 1) == (method.info.level == "reward"), name
