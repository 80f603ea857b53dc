import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctwa.batch import RewardMatrix
from ctwa.covariance import diagnostics, target_feasibility
from ctwa.covariance.feasibility import reward_covariance
from ctwa.errors import CtwaError
from ctwa.scalarizers import Requirements, Scalarizer, build_scalarizer
from ctwa.scalarizers.ctwa import CtwaConfig
from ctwa.scalarizers.linear import Linear, LinearConfig

WEIGHTS = {"accuracy": 0.333, "conciseness": 0.333, "clarity": 0.334}
TARGETS = {"accuracy": 0.15, "conciseness": 0.08, "clarity": 0.08}
NAMES = list(WEIGHTS)


def ctwa(*, weights: dict = WEIGHTS, targets: dict = TARGETS, scale_invariant: bool = True, **options) -> Scalarizer:
    return build_scalarizer(CtwaConfig(**options), weights, targets=targets, scale_invariant=scale_invariant)


@pytest.mark.parametrize("scale_invariant", [True, False])
@pytest.mark.parametrize("options", [{}, {"measure": "correlation"}, {"ema_init": "zero"}, {"renormalize": True}])
def test_without_step_size_it_is_linear_to_the_last_bit(make_batch, scale_invariant, options):
    still = ctwa(eta=0.0, scale_invariant=scale_invariant, **options)
    linear = Linear(LinearConfig(), WEIGHTS)
    for seed in range(5):
        batch = make_batch(NAMES, seed=seed, unscored=0.1)
        estimate = batch.estimate(scale_invariant=scale_invariant)
        assert torch.equal(still.advantages(batch.rollout, estimate), linear.advantages(batch.rollout, estimate))
        batch.step(still, scale_invariant=scale_invariant)
        assert still.weights == linear.weights


def test_one_step_by_hand(make_batch):
    batch = make_batch(NAMES)
    scalarizer = ctwa()
    metrics = batch.step(scalarizer)
    for name in NAMES:
        covariance = metrics[f"covariance/{name}"]
        deficit = max(TARGETS[name] - covariance, 0)
        assert metrics[f"ctwa/ema/{name}"] == covariance
        assert metrics[f"ctwa/deficit/{name}"] == deficit
        assert metrics[f"ctwa/target/{name}"] == TARGETS[name]
        assert metrics[f"weight/{name}"] == pytest.approx(WEIGHTS[name] * math.exp(0.05 * deficit), rel=1e-14)
        assert metrics[f"ctwa/log_weight/{name}"] == pytest.approx(math.log(metrics[f"weight/{name}"]))
        assert metrics[f"ctwa/num_held/{name}"] == 0
        assert scalarizer.weights[name] == metrics[f"weight/{name}"]
    assert "ctwa/feasibility" in metrics


def test_the_statistic_is_the_one_of_the_diagnostics(make_batch):
    batch = make_batch(NAMES, unscored=0.1)
    scalarizer = ctwa()
    update = batch.update(scalarizer.advantages(batch.rollout, batch.estimate()))
    metrics, shown = scalarizer.observe_update(update), diagnostics(update)
    for name in NAMES:
        assert metrics[f"covariance/{name}"] == shown[f"covariance/{name}"]


def test_weights_of_one_step_score_the_next(make_batch):
    scalarizer = ctwa(eta=1.0, targets={"accuracy": 1.0, "conciseness": 0.0, "clarity": 0.0})
    batch = make_batch(NAMES)
    before = scalarizer.advantages(batch.rollout, batch.estimate())
    batch.step(scalarizer)
    after = scalarizer.advantages(batch.rollout, batch.estimate())
    linear = Linear(LinearConfig(), scalarizer.weights)
    torch.testing.assert_close(after, linear.advantages(batch.rollout, batch.estimate()), rtol=0, atol=1e-4)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("scale_invariant", [True, False])
def test_order_of_objectives_permutes_the_weights_and_changes_no_bit(make_batch, scale_invariant):
    names = [f"objective-{i}" for i in range(8)]
    weights = {name: 1 / (3 + i) for i, name in enumerate(names)}
    targets = {name: 0.01 * i for i, name in enumerate(names)}
    order = [names[i] for i in (5, 2, 7, 0, 1, 6, 3, 4)]
    one = ctwa(weights=weights, targets=targets, eta=0.5, scale_invariant=scale_invariant)
    other = ctwa(
        weights={name: weights[name] for name in order},
        targets={name: targets[name] for name in order},
        eta=0.5,
        scale_invariant=scale_invariant,
    )
    for seed in range(4):
        batch = make_batch(names, seed=seed, unscored=0.1)
        metrics = batch.step(one, scale_invariant=scale_invariant)
        assert metrics == batch.in_order(order).step(other, scale_invariant=scale_invariant)
    assert list(other.weights) == order
    assert one.weights == other.weights
    assert one.state_dict() == other.state_dict()


def test_order_of_rows_does_not_matter(make_batch):
    """The driver gathers all ranks: another number of ranks is another order of the same rows."""
    one, other = ctwa(eta=1.0), ctwa(eta=1.0)
    for seed in range(4):
        batch = make_batch(NAMES, seed=seed, unscored=0.1)
        order_N = torch.randperm(32, generator=torch.Generator().manual_seed(seed))
        batch.step(one)
        batch.with_rows(order_N).step(other)
    for name in NAMES:
        assert one.weights[name] == pytest.approx(other.weights[name], abs=1e-12)


def test_scale_of_the_initial_weights_is_free_where_advantages_are_scale_invariant(make_batch):
    one, other = ctwa(), ctwa(weights={name: 1000 * weight for name, weight in WEIGHTS.items()})
    for seed in range(4):
        batch = make_batch(NAMES, seed=seed)
        metrics, scaled = batch.step(one), batch.step(other)
        for name in NAMES:
            assert metrics[f"covariance/{name}"] == pytest.approx(scaled[f"covariance/{name}"], abs=1e-5)


def test_renormalisation_changes_no_advantage_where_they_are_scale_invariant(make_batch):
    paper, renormalised = ctwa(eta=1.0), ctwa(eta=1.0, renormalize=True)
    for seed in range(6):
        batch = make_batch(NAMES, seed=seed)
        advantages = [scalarizer.advantages(batch.rollout, batch.estimate()) for scalarizer in (paper, renormalised)]
        torch.testing.assert_close(*advantages, rtol=0, atol=1e-5)
        batch.step(paper)
        batch.step(renormalised)
    assert sum(renormalised.weights.values()) == pytest.approx(1.0, abs=1e-12)
    assert sum(paper.weights.values()) > 1.01


def test_renormalisation_is_automatic_where_it_is_needed_and_cannot_be_off(make_batch):
    scalarizer = ctwa(eta=1.0, scale_invariant=False)
    batch = make_batch(NAMES)
    metrics = batch.step(scalarizer, scale_invariant=False)
    assert sum(scalarizer.weights.values()) == pytest.approx(1.0, abs=1e-12)
    assert "ctwa/feasibility" not in metrics
    with pytest.raises(CtwaError, match="write renormalize: auto"):
        ctwa(scale_invariant=False, renormalize=False)


def test_state_round_trip_is_exact(make_batch):
    scalarizer, restored = ctwa(eta=0.7, ema_init="debiased"), ctwa(eta=0.7, ema_init="debiased")
    for seed in range(3):
        make_batch(NAMES, seed=seed, unscored=0.5).step(scalarizer)
    restored.load_state_dict(json.loads(json.dumps(scalarizer.state_dict())))
    assert restored.weights == scalarizer.weights
    assert restored.state_dict() == scalarizer.state_dict()
    for seed in range(3, 6):
        batch = make_batch(NAMES, seed=seed, unscored=0.5)
        assert batch.step(scalarizer) == batch.step(restored)
    assert restored.weights == scalarizer.weights


def test_state_before_the_first_step_is_a_fresh_start(make_batch):
    scalarizer, restored = ctwa(), ctwa()
    restored.load_state_dict(json.loads(json.dumps(scalarizer.state_dict())))
    batch = make_batch(NAMES)
    assert batch.step(scalarizer) == batch.step(restored)


def test_state_of_another_method_or_of_other_objectives_is_refused():
    with pytest.raises(CtwaError, match="method 'linear' where this run has 'ctwa'"):
        ctwa().load_state_dict(Linear(LinearConfig(), WEIGHTS).state_dict())
    other = ctwa(weights={"a": 1.0}, targets={"a": 0.1})
    with pytest.raises(CtwaError, match="objectives"):
        ctwa().load_state_dict(other.state_dict())


def test_an_objective_that_could_not_be_scored_is_held_and_counted(make_batch):
    scalarizer = ctwa()
    batch = make_batch(NAMES)
    batch.step(scalarizer)
    before = (scalarizer.weights, scalarizer.state_dict())
    rewards = batch.rollout.rewards
    scored_NM = rewards.scored_NM.clone()
    scored_NM[:, 1] = False
    unscored = replace(
        batch, rollout=replace(batch.rollout, rewards=RewardMatrix(rewards.names, rewards.rewards_NM, scored_NM))
    )
    metrics = unscored.step(scalarizer)
    assert "covariance/conciseness" not in metrics
    assert metrics["ctwa/num_held/conciseness"] == 1
    assert metrics["ctwa/deficit/conciseness"] == 0
    assert scalarizer.weights["conciseness"] == before[0]["conciseness"]
    assert scalarizer.state_dict()["average"]["conciseness"] == before[1]["average"]["conciseness"]
    assert metrics["ctwa/num_held/accuracy"] == 0


def test_log_probs_that_are_not_finite_hold_everything(make_batch):
    scalarizer = ctwa()
    batch = make_batch(NAMES)
    update = batch.update(torch.ones(32, 6))
    broken = replace(update, log_probs_new_NT=torch.full_like(update.log_probs_new_NT, math.nan))
    metrics = scalarizer.observe_update(broken)
    assert scalarizer.weights == WEIGHTS
    assert all(metrics[f"ctwa/num_held/{name}"] == 1 for name in NAMES)
    assert all(math.isfinite(value) for value in metrics.values())
    assert not any(key.startswith("ctwa/ema") for key in metrics)


def test_padding_content_changes_nothing(make_batch):
    clean, dirty = ctwa(), ctwa()
    batch = make_batch(NAMES)
    update = batch.update(clean.advantages(batch.rollout, batch.estimate()))
    dirty.advantages(batch.rollout, batch.estimate())
    mask_NT = batch.rollout.mask_NT
    padded = replace(
        update,
        log_probs_new_NT=torch.where(mask_NT, update.log_probs_new_NT, math.nan),
        log_probs_old_NT=torch.where(mask_NT, update.log_probs_old_NT, -math.inf),
        advantages_NT=torch.where(mask_NT, update.advantages_NT, 1e30),
    )
    assert clean.observe_update(update) == dirty.observe_update(padded)


def test_a_constant_objective_gains_weight_at_the_pace_of_its_target(make_batch):
    batch = make_batch(NAMES)
    rewards = batch.rollout.rewards
    rewards_NM = rewards.rewards_NM.clone()
    rewards_NM[:, 0] = 1
    batch = replace(
        batch, rollout=replace(batch.rollout, rewards=RewardMatrix(rewards.names, rewards_NM, rewards.scored_NM))
    )
    scalarizer = ctwa()
    metrics = batch.step(scalarizer)
    assert metrics["covariance/accuracy"] == 0
    assert metrics["ctwa/log_weight/accuracy"] == pytest.approx(math.log(0.333) + 0.05 * 0.15)
    # It is saturated, which is no conflict between the targets: they are those of the others.
    others = rewards.select(["clarity", "conciseness"])
    covariance_MM = reward_covariance(others.rewards_NM, others.scored_NM, batch.rollout.group_N)
    targets_M = torch.tensor([TARGETS[name] for name in others.names], dtype=torch.float64)
    assert metrics["ctwa/feasibility"] == pytest.approx(target_feasibility(covariance_MM, targets_M).value)
    by_correlation = ctwa(measure="correlation")
    metrics = batch.step(by_correlation)
    assert "ctwa/correlation/accuracy" not in metrics
    assert by_correlation.weights["accuracy"] == 0.333


def test_the_gate_stops_objectives_that_are_solved(make_batch):
    batch = make_batch(NAMES)
    mean = batch.rollout.rewards.column("clarity")[0].mean().item()
    targets = dict.fromkeys(NAMES, 1.0)
    free, gated = ctwa(targets=targets), ctwa(targets=targets, gate_targets={"accuracy": 2.0, "clarity": mean})
    free_metrics, gated_metrics = batch.step(free), batch.step(gated)
    assert free_metrics["ctwa/deficit/clarity"] > 0
    assert gated_metrics["ctwa/deficit/clarity"] == 0
    assert gated.weights["clarity"] == WEIGHTS["clarity"]
    for name in ("accuracy", "conciseness"):
        assert gated.weights[name] == free.weights[name]


def test_a_solved_objective_behind_its_gate_makes_no_targets_infeasible(make_batch):
    batch = make_batch(NAMES)
    means = {name: batch.rollout.rewards.column(name)[0].mean().item() for name in NAMES}
    targets = TARGETS | {"clarity": 100.0}  # no weights reach it
    assert batch.step(ctwa(targets=targets))["ctwa/feasibility"] > 1
    gated = batch.step(ctwa(targets=targets, gate_targets={"clarity": means["clarity"]}))
    assert gated["ctwa/feasibility"] < 1
    assert batch.step(ctwa(targets=targets, gate_targets=means))["ctwa/feasibility"] == 0  # nothing is asked for


def test_options_reach_the_statistic(make_batch):
    batch = make_batch(NAMES)
    paper, sample, total = ctwa(), ctwa(ddof=1), ctwa(length="sum")
    covariance = batch.step(paper)["covariance/accuracy"]
    assert batch.step(sample)["covariance/accuracy"] == pytest.approx(4 / 3 * covariance)
    assert batch.step(total)["covariance/accuracy"] != pytest.approx(covariance)


def test_feasibility_of_a_correlation_is_that_of_the_correlation_matrix(make_batch):
    batch = make_batch(NAMES)
    rewards_KBM = batch.rollout.rewards.select(sorted(NAMES)).rewards_NM.view(8, 4, 3)
    centred_NM = (rewards_KBM - rewards_KBM.mean(1, keepdim=True)).view(32, 3)
    targets_M = torch.tensor([TARGETS[name] for name in sorted(NAMES)], dtype=torch.float64)
    for measure, matrix_MM in {
        "covariance": centred_NM.T @ centred_NM / 32,
        "correlation": centred_NM.T @ centred_NM / (centred_NM.norm(dim=0)[:, None] * centred_NM.norm(dim=0)),
    }.items():
        metrics = batch.step(ctwa(measure=measure))
        assert metrics["ctwa/feasibility"] == pytest.approx(target_feasibility(matrix_MM, targets_M).value, rel=1e-9)


@pytest.mark.parametrize("statistic", ["post_update", "in_update"])
def test_it_asks_for_the_log_probs_it_was_told_to_use(statistic):
    assert ctwa(statistic=statistic).requirements == Requirements(log_probs=statistic, token_weights=True)


def test_the_paper_is_the_default():
    assert ctwa().requirements == Requirements(log_probs="post_update", token_weights=True)
    assert CtwaConfig().model_dump(exclude={"type"}) == {
        "preset": "paper",
        "eta": 0.05,
        "tau": 0.1,
        "ema_init": "first",
        "renormalize": "auto",
        "gate_targets": None,
        "statistic": "post_update",
        "measure": "covariance",
        "ddof": 0,
        "length": "mean",
        "weight_floor": None,
    }


@pytest.mark.parametrize("num_objectives", [1, 8])
def test_any_number_of_objectives(make_batch, num_objectives):
    names = [f"objective-{i}" for i in range(num_objectives)]
    scalarizer = ctwa(weights=dict.fromkeys(names, 1.0), targets=dict.fromkeys(names, 0.1))
    metrics = make_batch(names).step(scalarizer)
    assert {key.rsplit("/", 1)[1] for key in metrics} == {*names, "feasibility", "num_fallback"}
    assert all(weight >= 1.0 for weight in scalarizer.weights.values())


@settings(max_examples=25)
@given(covariances=st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=20))
def test_weights_never_fall(covariances):
    controller = ctwa()._controller
    for covariance in covariances:
        before_M = controller.weights_M
        controller.step(torch.tensor(covariance, dtype=torch.float64))
        assert (controller.weights_M >= before_M).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": {"accuracy": 0.1}}, "wants a covariance target of every objective, and .* have none: .*suggest-t"),
        ({"targets": TARGETS | {"style": 0.1}}, r"targets names \['style'\], which are not objectives; write some of"),
        ({"gate_targets": {"style": 0.9}}, r"\['style'\], which are not objectives"),
        ({"preset": "published-code"}, "add gate_targets"),
        ({"preset": "published-code", "gate_targets": {"accuracy": 1.0}}, "gates every objective"),
        ({"weights": WEIGHTS | {"clarity": 0.0}}, r"\['clarity'\] have the weight 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(CtwaError, match=message):
        ctwa(**options)
