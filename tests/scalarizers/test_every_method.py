"""What every registered method has to do, whichever it is: a method added to the registry is tested here at once.

``CASES`` says what is special: options without a default, what a method cannot do.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ctwa.aggregators.registry import GRADIENT_METHODS
from ctwa.batch import RewardMatrix, Rollout
from ctwa.covariance.probe import Progress
from ctwa.errors import CtwaError
from ctwa.objectives.contract import MAX_VALUE
from ctwa.scalarizers import METHODS, MethodConfig, Scalarizer, build_scalarizer
from ctwa.scalarizers.registry import SCALARIZERS, takes_targets

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
    **options,
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
    """The engine lets in rewards up to MAX_VALUE; a loop of one's own may have larger ones."""
    scalarizer = build(method, EIGHT[:3], scale_invariant=scale_invariant)
    for seed in range(3):
        batch = make_batch(EIGHT[:3], seed=seed)
        sizes = [size if index < num_large else 1.0 for index in range(3)]
        columns = {name: each * column for each, (name, column) in zip(sizes, columns_of(batch).items(), strict=True)}
        try:
            driven = drive(scalarizer, with_rewards(batch, columns), scale_invariant=scale_invariant, step=seed + 1)
        except CtwaError:
            assert method in REFUSING
            return
        assert_sound(driven)


def test_shares_of_large_rewards_are_those_of_small_ones_to_the_bit(make_batch):
    """A power of two changes no share; with it the squares of these rewards are not finite."""
    batch = make_batch(EIGHT[:3])
    for size in (2.0**-600, 2.0**1000):
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


@every_method
def test_an_unknown_option_is_refused(method):
    with pytest.raises(ValueError, match="bananas"):
        CONFIG.validate_python({"type": method, **CASES[method].config(EIGHT[:3]), "bananas": 1})


# -- rewards that could not be scored ----------------------------------------------------------------------------------

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


# -- objectives that apply to some completions -------------------------------------------------------------------------

TASKS_N = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]).repeat_interleave(4)
"""Eight prompts of three tasks."""
DISJOINT_NM = TASKS_N[:, None] == torch.arange(3)
LIKE_ALONE = (
    "compromise",
    "ctwa",
    "guard",
    "hypervolume",
    "linear",
    "pama",
    "probe",
    "product",
    "schedule",
    "smooth_tchebycheff",
    "tchebycheff",
)
"""At the first step, where each completion has one objective, a batch is to them what its tasks are alone."""


def applied(batch, applicable_NM: Tensor):
    """The same batch, with objectives that apply to some completions alone."""
    rewards = batch.rollout.rewards
    matrix = RewardMatrix(rewards.names, rewards.rewards_NM, rewards.scored_NM & applicable_NM, applicable_NM)
    return type(batch)(Rollout(matrix, batch.rollout.group_N, batch.rollout.mask_NT), batch.log_ratio_NT)


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


@every_method_and_estimator
def test_three_tasks_with_objectives_of_their_own(make_batch, method, scale_invariant):
    names = EIGHT[:3]
    kind = {"scale_invariant": scale_invariant}
    batch = applied(make_batch(names), DISJOINT_NM)
    scalarizer = build(method, names, **kind)

    each_MNT = scalarizer.objective_advantages(batch.rollout, batch.estimate(**kind))
    first_NT = scalarizer.advantages(batch.rollout, batch.estimate(**kind))

    for m, name in enumerate(names):
        alone = batch.with_rows(DISJOINT_NM[:, m].nonzero()[:, 0])
        rewards_N = columns_of(alone)[name]
        own_NT = alone.estimate(**kind)(rewards_N)
        torch.testing.assert_close(each_MNT[m][DISJOINT_NM[:, m]], own_NT, rtol=0, atol=1e-12)
        assert not each_MNT[m][~DISJOINT_NM[:, m]].any()
        if method in LIKE_ALONE:
            scores_N = rewards_N if method in {"guard", "pama", "product"} else scalarizer.weights[name] * rewards_N
            own_NT = alone.estimate(**kind)(scores_N)
            own_NT = own_NT.clamp(min=0) if method == "pama" else own_NT
            torch.testing.assert_close(first_NT[DISJOINT_NM[:, m]], own_NT, rtol=0, atol=1e-4)

    for driven in drive_steps(scalarizer, [applied(make_batch(names, seed=s), DISJOINT_NM) for s in range(4)], **kind):
        assert_sound(driven)
        assert driven.advantages_NT.any()


@every_method_and_estimator
def test_a_batch_without_an_objective_leaves_what_is_known_of_it(make_batch, method, scale_invariant):
    """But for counts of such batches, and for weights that are shares of one sum."""
    names, kind = EIGHT[:3], {"scale_invariant": scale_invariant}
    scalarizer = build(method, names, **kind)
    drive_steps(scalarizer, [make_batch(names, seed=seed) for seed in range(3)], **kind)
    before = scalarizer.state_dict()
    without_NM = torch.tensor([True, False, True]).expand(32, 3)

    driven = drive(scalarizer, applied(make_batch(names, seed=3), without_NM), step=4, **kind)

    def kept(state: dict) -> dict:
        own = {}
        for key, value in state.items():
            if isinstance(value, dict) and "objectives" in value:  # a state within the state
                own |= kept(value)
            elif isinstance(value, dict) and names[1] in value and not key.startswith("num_held"):
                own[key] = value[names[1]]
        return {} if state.get("method") == "dynamic" else own

    assert_sound(driven)
    assert driven.advantages_NT.any()
    assert kept(scalarizer.state_dict()) == kept(before)
    assert_sound(drive(scalarizer, make_batch(names, seed=4), step=5, **kind))


@every_method_and_estimator
def test_nothing_applies_at_all(make_batch, method, scale_invariant):
    names, kind = EIGHT[:3], {"scale_invariant": scale_invariant}
    scalarizer = build(method, names, **kind)
    nothing = applied(make_batch(names), torch.zeros(32, 3, dtype=torch.bool))
    empty, driven = drive_steps(scalarizer, [nothing, make_batch(names)], **kind)

    assert_sound(empty)
    assert_sound(driven)
    assert not empty.advantages_NT.any()
    assert driven.advantages_NT.any()


@every_method_and_estimator
def test_what_applies_to_no_completion_changes_nothing_for_the_others(make_batch, method, scale_invariant):
    """Completions that no objective applies to get no advantage, and give the others none."""
    names, kind = EIGHT[:3], {"scale_invariant": scale_invariant}
    applicable_NM = DISJOINT_NM & (TASKS_N != 2)[:, None]
    batch = applied(make_batch(names), applicable_NM)
    with_them = drive(build(method, names, **kind), batch, **kind).advantages_NT
    rows_N = (TASKS_N != 2).nonzero()[:, 0]
    without = drive(build(method, names, **kind), batch.with_rows(rows_N), **kind).advantages_NT

    assert not with_them[TASKS_N == 2].any()
    torch.testing.assert_close(with_them[rows_N], without, rtol=0, atol=1e-9)
