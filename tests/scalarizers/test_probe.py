import json
import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout
from ctwa.covariance import Progress
from ctwa.errors import CtwaError
from ctwa.scalarizers import Requirements, build_scalarizer
from ctwa.scalarizers.linear import Linear, LinearConfig
from ctwa.scalarizers.probe import Probe, ProbeConfig

WEIGHTS = {"accuracy": 0.333, "conciseness": 0.333, "clarity": 0.334}
NAMES = list(WEIGHTS)


def probe(*, weights: dict = WEIGHTS, **options) -> Probe:
    return Probe(ProbeConfig(**options), weights)


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def progress_of(gains: dict, *, error: float = 0.001, num_prompts: int = 16) -> Progress:
    return Progress(tuple(gains), tensor(list(gains.values())), tensor([error] * len(gains)), num_prompts)


def random_progress(names, seed: int) -> Progress:
    """Gains and errors by name: another order of the names is another order of the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    gain_M, error_M = 0.01 * torch.randn(2, len(names), dtype=torch.float64, generator=generator)
    return Progress(tuple(names), gain_M, error_M.abs(), 16)


def step(method: Probe, batch, progress: Progress) -> dict[str, float]:
    """One whole step of an engine with the backward probe: advantages and update, then the probe on the next batch."""
    return batch.step(method) | method.observe_probe(progress)


def test_the_defaults_are_the_constants_that_were_tried():
    assert ProbeConfig().model_dump() == {
        "type": "probe",
        "signal": "probe",
        "source": "backward",
        "tau": 0.1,
        "theta": 0.1,
        "eta": 0.1,
        "kappa": 0.03,
        "clip": 1.2,
        "gate": 0.95,
        "gate_tau": 0.2,
        "warmup": 3,
    }


def test_its_config_builds_it():
    method = build_scalarizer(ProbeConfig(source="minibatch"), WEIGHTS, scale_invariant=False)
    assert type(method) is Probe
    assert method.weights == WEIGHTS


def test_steps_by_hand(make_batch):
    """After three measurements to warm up, the objective that falls gains weight, the others lose it alike."""
    method, batch = probe(), make_batch(NAMES)
    progress = progress_of({"accuracy": -0.004, "conciseness": 0.008, "clarity": 0.001})
    for _ in range(3):
        metrics = step(method, batch, progress)
        assert method.weights == WEIGHTS
        assert metrics["probe/deficit/accuracy"] == 0
    metrics = step(method, batch, progress)
    assert metrics["probe/deficit/accuracy"] == pytest.approx(0.6)
    assert metrics["probe/relative_gain/accuracy"] == pytest.approx(-0.5)
    assert metrics["probe/gain/accuracy"] == -0.004
    assert metrics["probe/standard_error/accuracy"] == 0.001
    assert metrics["probe/ema/accuracy"] == pytest.approx(-0.004)
    assert metrics["probe/log_weight/accuracy"] == pytest.approx(math.log(0.333) + 0.04)
    assert metrics["probe/num_prompts"] == 16
    scale = 0.333 * math.exp(0.04) + 0.667 * math.exp(-0.02)
    assert method.weights == {
        "accuracy": pytest.approx(0.333 * math.exp(0.04) / scale),
        "conciseness": pytest.approx(0.333 * math.exp(-0.02) / scale),
        "clarity": pytest.approx(0.334 * math.exp(-0.02) / scale),
    }
    assert all(metrics[f"probe/weight/{name}"] == method.weights[name] for name in NAMES)


@pytest.mark.parametrize("scale_invariant", [True, False])
def test_weights_of_one_step_score_the_next(make_batch, scale_invariant):
    method, batch = probe(warmup=0), make_batch(NAMES)
    estimate = batch.estimate(scale_invariant=scale_invariant)
    before_NT = method.advantages(batch.rollout, estimate)
    method.observe_probe(progress_of({"accuracy": -0.01, "conciseness": 0.01, "clarity": 0.01}))
    after_NT = method.advantages(batch.rollout, estimate)
    linear = Linear(LinearConfig(), method.weights)
    assert after_NT.equal(linear.advantages(batch.rollout, estimate))
    assert not torch.allclose(before_NT, after_NT)
    assert sum(method.weights.values()) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("signal", ["probe", "slope"])
def test_without_step_size_it_is_linear_to_the_last_bit(make_batch, signal):
    still, linear = probe(eta=0.0, signal=signal), Linear(LinearConfig(), WEIGHTS)
    for seed in range(6):
        batch = make_batch(NAMES, seed=seed, unscored=0.1)
        assert still.advantages(batch.rollout, batch.estimate()).equal(
            linear.advantages(batch.rollout, batch.estimate())
        )
        step(still, batch, random_progress(NAMES, seed))
        assert still.weights == WEIGHTS


@pytest.mark.parametrize("signal", ["probe", "slope"])
def test_order_of_objectives_permutes_the_weights_and_changes_no_bit(make_batch, signal):
    names = [f"objective-{i}" for i in range(8)]
    order = [names[i] for i in (5, 2, 7, 0, 1, 6, 3, 4)]
    weights = {name: 1 / (3 + i) for i, name in enumerate(names)}
    one = probe(weights=weights, signal=signal)
    other = probe(weights={name: weights[name] for name in order}, signal=signal)
    for seed in range(8):
        batch, progress = make_batch(names, seed=seed, unscored=0.1), random_progress(names, seed)
        metrics = step(one, batch, progress)
        assert metrics == step(other, batch.in_order(order), progress.select(order))
    assert one.weights != weights
    assert list(other.weights) == order
    assert one.weights == other.weights
    assert one.state_dict() == other.state_dict()


@pytest.mark.parametrize("signal", ["probe", "slope"])
def test_state_round_trip_is_exact(make_batch, signal):
    options = {"signal": signal, "warmup": 1}
    method = probe(**options)
    for seed in range(4):
        step(method, make_batch(NAMES, seed=seed, unscored=0.5), random_progress(NAMES, seed))
    restored = probe(**options)
    restored.load_state_dict(json.loads(json.dumps(method.state_dict(), allow_nan=False)))
    assert restored.weights == method.weights != WEIGHTS
    assert restored.state_dict() == method.state_dict()
    for seed in range(4, 8):
        batch, progress = make_batch(NAMES, seed=seed, unscored=0.5), random_progress(NAMES, seed)
        assert step(restored, batch, progress) == step(method, batch, progress)
    assert restored.weights == method.weights


def test_state_before_the_first_step_is_a_fresh_start(make_batch):
    method, restored = probe(signal="slope"), probe(signal="slope")
    restored.load_state_dict(json.loads(json.dumps(method.state_dict(), allow_nan=False)))
    for seed in range(5):
        batch = make_batch(NAMES, seed=seed)
        assert batch.step(method) == batch.step(restored)


def test_state_of_another_method_or_of_other_objectives_is_refused():
    with pytest.raises(CtwaError, match="method 'linear' where this run has 'probe'"):
        probe().load_state_dict(Linear(LinearConfig(), WEIGHTS).state_dict())
    with pytest.raises(CtwaError, match="objectives"):
        probe().load_state_dict(probe(weights={"a": 1.0}).state_dict())


def test_an_objective_that_was_not_measured_is_held():
    method = probe(warmup=0)
    method.observe_probe(progress_of({"accuracy": -0.01, "conciseness": 0.01, "clarity": 0.01}))
    before = method.state_dict()
    metrics = method.observe_probe(progress_of({"accuracy": math.nan, "conciseness": 0.01, "clarity": -0.02}))
    after = method.state_dict()
    for key in ("growth", "average", "variance", "num_measured"):
        assert after[key]["accuracy"] == before[key]["accuracy"]
        assert after[key]["clarity"] != before[key]["clarity"]
    assert metrics["probe/num_held/accuracy"] == 1
    assert "probe/gain/accuracy" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_no_metric_is_made_up_before_anything_is_measured(make_batch):
    method = probe()
    nothing = progress_of(dict.fromkeys(NAMES, math.nan), num_prompts=0)
    metrics = step(method, make_batch(NAMES, unscored=1.1), nothing)
    assert {key.split("/")[1] for key in metrics} == {
        "num_prompts", "clipped_fraction", "standard_error", "deficit", "weight", "log_weight", "num_held",
    }  # fmt: skip
    assert all(math.isfinite(value) for value in metrics.values())
    assert method.weights == WEIGHTS


def with_means(batch, means: dict):
    """Rewards of one value in each of the batch's eight prompts, half of them .1 above the mean, half below."""
    prompt_N = batch.rollout.group_N
    columns = {name: (mean + 0.2 * (prompt_N % 2).double() - 0.1).tolist() for name, mean in means.items()}
    return replace(batch, rollout=Rollout(RewardMatrix.from_columns(columns), prompt_N, batch.rollout.mask_NT))


def test_slope_is_the_difference_of_the_mean_rewards(make_batch):
    method, batch = probe(signal="slope", warmup=0), make_batch(NAMES)
    first = with_means(batch, {"accuracy": 0.5, "conciseness": 0.4, "clarity": 0.3}).step(method)
    assert {key.split("/")[1] for key in first} == {"mean_reward"}
    assert method.weights == WEIGHTS
    metrics = with_means(batch, {"accuracy": 0.46, "conciseness": 0.48, "clarity": 0.31}).step(method)
    error = math.sqrt(2 * 0.1**2 / 7)  # of two means of eight prompts at +-.1
    for name, slope in {"accuracy": -0.04, "conciseness": 0.08, "clarity": 0.01}.items():
        assert metrics[f"probe/slope/{name}"] == pytest.approx(slope)
        assert metrics[f"probe/slope_error/{name}"] == pytest.approx(error)
        assert metrics[f"probe/ema/{name}"] == pytest.approx(slope)
    assert metrics["probe/deficit/accuracy"] == pytest.approx(0.1 + 0.04 / 0.08)
    assert method.weights["accuracy"] > 0.34
    assert metrics["probe/weight/accuracy"] == method.weights["accuracy"]


def test_slope_is_steered_as_the_probe_is(make_batch):
    """The control differs in its signal alone."""
    batch = make_batch(NAMES)
    slope, steered = probe(signal="slope"), probe()
    means = {"accuracy": 0.5, "conciseness": 0.4, "clarity": 0.3}
    with_means(batch, means).step(slope)
    for seed in range(8):
        gains = random_progress(NAMES, seed).gain_M.tolist()
        means = {name: means[name] + gain for name, gain in zip(NAMES, gains, strict=True)}
        metrics = with_means(batch, means).step(slope)
        slopes = {name: metrics[f"probe/slope/{name}"] for name in NAMES}
        steered.observe_probe(progress_of(slopes, error=metrics["probe/slope_error/accuracy"]))
    assert slope.weights == pytest.approx(steered.weights, rel=1e-12)
    assert slope.weights != WEIGHTS


def test_a_slope_over_a_batch_without_rewards_is_held(make_batch):
    """The next batch that has some is compared with the last one that had."""
    method, batch = probe(signal="slope", warmup=0), make_batch(NAMES)
    scored = {"accuracy": 0.5, "conciseness": 0.4, "clarity": 0.3}
    with_means(batch, scored).step(method)
    for means, slope in ((scored | {"accuracy": math.nan}, None), (scored | {"accuracy": 0.75}, 0.25)):
        metrics = with_means(batch, means).step(method)
        assert metrics.get("probe/slope/accuracy") == (None if slope is None else pytest.approx(slope))
        method.load_state_dict(json.loads(json.dumps(method.state_dict(), allow_nan=False)))
    assert metrics["probe/num_held/accuracy"] == 1
    assert metrics["probe/num_held/clarity"] == 0


def test_slope_asks_for_no_probe_and_takes_none():
    method = probe(signal="slope", warmup=0)
    assert method.probe_source is None
    assert method.observe_probe(random_progress(NAMES, 0)) == {}
    assert method.state_dict() == probe(signal="slope").state_dict()


@pytest.mark.parametrize("source", ["backward", "minibatch", "held_out"])
def test_it_asks_for_the_probe_it_was_told_to_use(source):
    method = probe(source=source)
    assert method.probe_source == source
    assert method.requirements == Requirements(probe=source)


@pytest.mark.parametrize(
    ("gate", "solved"),
    [
        (0.95, {"accuracy", "clarity"}),
        ({"clarity": 0.9}, {"clarity"}),
        ({}, set()),
        (None, set()),
        (2.0, set()),
    ],
)
def test_the_gate_stops_objectives_that_are_solved(make_batch, gate, solved):
    method = probe(gate=gate, warmup=0)
    batch = with_means(make_batch(NAMES), {"accuracy": 0.96, "conciseness": 0.8, "clarity": 1.0})
    metrics = step(method, batch, progress_of(dict.fromkeys(NAMES, -0.01)))
    assert {name for name in NAMES if metrics[f"probe/deficit/{name}"] == 0} == solved
    assert metrics["probe/mean_reward/accuracy"] == pytest.approx(0.96)


@pytest.mark.parametrize("num_objectives", [1, 8])
def test_any_number_of_objectives(make_batch, num_objectives):
    names = [f"objective-{i}" for i in range(num_objectives)]
    method = probe(weights=dict.fromkeys(names, 1.0))
    for seed in range(6):
        step(method, make_batch(names, seed=seed), random_progress(names, seed))
    assert sum(method.weights.values()) == pytest.approx(num_objectives)
    assert (method.weights == dict.fromkeys(names, 1.0)) is (num_objectives == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": WEIGHTS | {"clarity": 0.0}}, r"\['clarity'\] have the weight 0"),
        ({"gate": {"style": 0.9}}, r"the method's gate names \['style'\], which are not objectives"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(CtwaError, match=message):
        probe(**options)


@pytest.mark.parametrize(
    "option",
    [
        {"tau": 0.0},
        {"tau": 1.5},
        {"theta": 2.0},
        {"eta": -0.1},
        {"eta": math.inf},
        {"kappa": 1.1},
        {"clip": 0.0},
        {"gate": math.nan},
        {"gate": {"accuracy": math.nan}},
        {"gate_tau": 0.0},
        {"warmup": -1},
        {"source": "forward"},
        {"signal": "covariance"},
        {"targets": {"accuracy": 0.1}},
    ],
)
def test_values_that_cannot_be_are_refused_by_name(option):
    with pytest.raises(ValidationError, match=next(iter(option))):
        ProbeConfig(**option)


def test_a_probe_of_other_objectives_is_refused():
    with pytest.raises(CtwaError, match="measure the same objectives"):
        probe().observe_probe(progress_of({"accuracy": 0.1, "style": 0.1}))
