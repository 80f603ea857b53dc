import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.covariance import Agreement, Progress, backward_probe, diagnostics, forward_probe, mean_rewards
from ctwa.covariance.bandit import tilt
from ctwa.errors import CtwaError
from ctwa.policy_loss import Vanilla

NAMES = ("accuracy", "clarity")
PROBES = pytest.mark.parametrize("probe", [backward_probe, forward_probe])

# Four responses of one to three tokens, the rewards of two objectives for each, and a large step of the policy.
P_OLD_A = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARDS_AM = torch.tensor([[1, 0.3], [0, -2], [1, 5], [0, 0.1]], dtype=torch.float64)
P_NEW_A = tilt(P_OLD_A, torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64), 1.0)
LENGTH_A = torch.tensor([1, 3, 2, 3])
MASK_AT = torch.arange(3) < LENGTH_A[:, None]


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def token_log_probs(p_A: Tensor) -> Tensor:
    """The log-probability of each response in unequal parts on its tokens; rubbish in the padding."""
    share_AT = tensor([[1.0, 0, 0], [0.5, 0.3, 0.2], [0.9, 0.1, 0], [0.1, 0.1, 0.8]])
    return torch.where(MASK_AT, p_A.log()[:, None] * share_AT, math.nan)


def random_batch(seed: int, *, num_prompts: int = 6, num_completions: int = 4, unscored: float = 0.2) -> dict:
    generator = torch.Generator().manual_seed(seed)
    num_rows = num_prompts * num_completions
    return {
        "rewards_NM": torch.randn(num_rows, 2, dtype=torch.float64, generator=generator),
        "scored_NM": torch.rand(num_rows, 2, generator=generator) >= unscored,
        "newer_NT": -torch.rand(num_rows, 5, dtype=torch.float64, generator=generator),
        "older_NT": -torch.rand(num_rows, 5, dtype=torch.float64, generator=generator),
        "mask_NT": torch.arange(5) < torch.randint(1, 6, (num_rows, 1), generator=generator),
        "group_N": torch.arange(num_rows) // num_completions,
    }


def measure(probe, batch: dict, **options) -> Progress:
    return probe(*batch.values(), names=NAMES, **options)


def by_loop(probe, batch: dict) -> list[list[float]]:
    """The groups' values in plain sight: one prompt, one objective after the other."""
    ratio = []
    for newer_T, older_T, mask_T in zip(batch["newer_NT"], batch["older_NT"], batch["mask_NT"], strict=True):
        log_ratio = sum((newer_T - older_T)[mask_T].tolist()) * (1 if probe is forward_probe else -1)
        ratio.append(math.exp(min(max(log_ratio, -3), 3)))
    y = ratio if probe is forward_probe else [1 - value for value in ratio]
    values: list[list[float]] = [[], []]
    for column in range(2):
        for group in batch["group_N"].unique().tolist():
            scored_N = batch["scored_NM"][:, column] & (batch["group_N"] == group)
            rows = scored_N.nonzero().flatten().tolist()
            if len(rows) >= 2:
                x_mean = sum(float(batch["rewards_NM"][row, column]) for row in rows) / len(rows)
                y_mean = sum(y[row] for row in rows) / len(rows)
                products = [(float(batch["rewards_NM"][row, column]) - x_mean) * (y[row] - y_mean) for row in rows]
                values[column].append(sum(products) / (len(rows) - 1))
    return values


@PROBES
@pytest.mark.parametrize("num_completions", [2, 3])
def test_its_expectation_is_what_the_step_did_to_the_expected_reward(probe, num_completions):
    """Exactly: over all the groups that the policy can sample, each with its probability."""
    sampling_A = P_NEW_A if probe is backward_probe else P_OLD_A
    newer_AT, older_AT = token_log_probs(P_NEW_A), token_log_probs(P_OLD_A)
    expectation_M = torch.zeros(2, dtype=torch.float64)
    for arms in itertools.product(range(4), repeat=num_completions):
        arms_K = torch.tensor(arms)
        progress = probe(
            REWARDS_AM[arms_K],
            torch.ones(num_completions, 2, dtype=torch.bool),
            newer_AT[arms_K],
            older_AT[arms_K],
            MASK_AT[arms_K],
            torch.zeros(num_completions, dtype=torch.int64),
            names=NAMES,
        )
        assert progress.clipped_fraction == 0
        expectation_M += sampling_A[arms_K].prod() * progress.gain_M
    torch.testing.assert_close(expectation_M, (P_NEW_A - P_OLD_A) @ REWARDS_AM, rtol=0, atol=1e-14)


def test_it_sees_an_objective_fall_whose_covariance_is_above_zero():
    """A plain gradient step on softmax logits moves common responses more than rare ones; the covariance does not know.

    Ten completions in the policy's own proportions. The reward is paid by a rare response that the update favours and
    by a common one that it discourages.
    """
    arm_N = torch.tensor([0] * 6 + [1] * 3 + [2])
    p_A = tensor([0.6, 0.3, 0.1])
    advantage_A = tensor([-1 / 15, -1.2, 4.0])
    reward_A = tensor([0.0, 1.0, 1.0])
    p_after_A = torch.softmax(p_A.log() + 0.5 * p_A * advantage_A, dim=0)
    assert p_A @ advantage_A == pytest.approx(0, abs=1e-15)
    rewards = RewardMatrix.from_columns({"accuracy": reward_A[arm_N].tolist()})
    group_N, mask_NT = torch.zeros(10, dtype=torch.int64), torch.ones(10, 1)
    before_NT, after_NT = (p.log()[arm_N][:, None] for p in (p_A, p_after_A))

    rollout = Rollout(rewards, group_N, mask_NT)
    shown = diagnostics(Update(rollout, advantage_A[arm_N][:, None], before_NT, after_NT, Vanilla()))
    progress = forward_probe(
        rewards.rewards_NM, rewards.scored_NM, after_NT, before_NT, mask_NT, group_N, names=rewards.names
    )

    true_gain = float((p_after_A - p_A) @ reward_A)
    assert shown["covariance/accuracy"] > 0.02
    assert true_gain < -0.01
    assert progress.gain_M.item() == pytest.approx(10 / 9 * true_gain, rel=1e-12)


@PROBES
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), unscored=st.sampled_from([0.0, 0.3, 0.8]), spread=st.sampled_from([1.0, 8.0]))
def test_equals_the_loop_over_prompts_and_objectives(probe, seed, unscored, spread):
    """Where the policy moved far, log-ratios are clipped."""
    batch = random_batch(seed, unscored=unscored)
    batch |= {key: batch[key] * spread for key in ("newer_NT", "older_NT")}
    progress = measure(probe, batch)
    assert progress.clipped_fraction > 0 or spread == 1
    for column, values in enumerate(by_loop(probe, batch)):
        num = len(values)
        gain = sum(values) / num if num else math.nan
        square_sum = sum((value - gain) ** 2 for value in values)
        error = math.sqrt(square_sum / (num - 1) / num) if num > 1 else math.nan
        assert progress.gain_M[column].item() == pytest.approx(gain, rel=1e-9, abs=1e-14, nan_ok=True)
        assert progress.standard_error_M[column].item() == pytest.approx(error, rel=1e-9, abs=1e-14, nan_ok=True)


def test_by_hand():
    """Two prompts of two completions, one token each: ratios 2 and 1, and 1 and 1/2."""
    half = math.log(0.5)
    arguments = (
        tensor([[1.0], [0.0], [1.0], [0.0]]),
        torch.ones(4, 1, dtype=torch.bool),
        tensor([[0.0], [half], [half], [2 * half]]),
        tensor([[half], [half], [half], [half]]),
        torch.ones(4, 1),
        torch.tensor([7, 7, 3, 3]),
    )
    forward = forward_probe(*arguments, names=["accuracy"])
    assert forward.gain_M.item() == pytest.approx((0.5 + 0.25) / 2)
    assert forward.standard_error_M.item() == pytest.approx(0.125)  # std of .5 and .25 is .25/sqrt 2, over sqrt 2
    backward = backward_probe(*arguments, names=["accuracy"])
    # 1 - old / new: 1/2 and 0, 0 and -1
    assert backward.gain_M.item() == pytest.approx((0.25 + 0.5) / 2)
    assert backward.standard_error_M.item() == pytest.approx(0.125)
    assert forward.num_prompts == backward.num_prompts == 2
    assert forward.metrics() == {
        "probe/gain/accuracy": pytest.approx(0.375),
        "probe/standard_error/accuracy": pytest.approx(0.125),
        "probe/num_prompts": 2,
        "probe/clipped_fraction": 0,
    }


@PROBES
def test_what_is_masked_changes_nothing(probe):
    batch = random_batch(1)
    mask_NT, scored_NM = batch["mask_NT"], batch["scored_NM"]
    dirty = batch | {
        "rewards_NM": torch.where(scored_NM, batch["rewards_NM"], math.nan),
        "newer_NT": torch.where(mask_NT, batch["newer_NT"], math.inf),
        "older_NT": torch.where(mask_NT, batch["older_NT"], math.nan),
    }
    wide = batch | {key: torch.nn.functional.pad(batch[key], (2, 3)) for key in ("newer_NT", "older_NT", "mask_NT")}
    clean, other = measure(probe, batch), measure(probe, dirty)
    assert clean.gain_M.equal(other.gain_M)
    assert clean.standard_error_M.equal(other.standard_error_M)
    torch.testing.assert_close(measure(probe, wide).gain_M, clean.gain_M, rtol=0, atol=1e-15)


@PROBES
def test_order_of_objectives_and_of_rows_does_not_matter(probe):
    batch = random_batch(2)
    progress = measure(probe, batch)
    swapped = batch | {"rewards_NM": batch["rewards_NM"].flip(1), "scored_NM": batch["scored_NM"].flip(1)}
    other = probe(*swapped.values(), names=NAMES[::-1]).select(NAMES)
    assert other.names == NAMES
    assert progress.gain_M.equal(other.gain_M)
    order_N = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    other = measure(probe, {key: values[order_N] for key, values in batch.items()})
    torch.testing.assert_close(other.gain_M, progress.gain_M, rtol=0, atol=1e-15)
    torch.testing.assert_close(other.standard_error_M, progress.standard_error_M, rtol=0, atol=1e-15)


@PROBES
def test_a_policy_that_did_not_move_gained_nothing(probe):
    batch = random_batch(3)
    progress = measure(probe, batch | {"older_NT": batch["newer_NT"]})
    assert progress.gain_M.tolist() == progress.standard_error_M.tolist() == [0, 0]


@PROBES
def test_a_completion_without_a_token_takes_no_part(probe):
    batch = random_batch(4, unscored=0.0)
    mask_NT = batch["mask_NT"].clone()
    mask_NT[0] = False
    without = measure(probe, {key: values[1:] for key, values in batch.items()})
    progress = measure(probe, batch | {"mask_NT": mask_NT})
    torch.testing.assert_close(progress.gain_M, without.gain_M, rtol=0, atol=1e-15)


@PROBES
def test_what_was_not_measured_is_not_a_number_and_no_metric(probe):
    batch = random_batch(5, unscored=0.0)
    scored_NM = batch["scored_NM"].clone()
    scored_NM[:, 0] = False
    scored_NM[::4, 0] = True  # one completion a prompt
    scored_NM[4:, 1] = False  # one prompt
    progress = measure(probe, batch | {"scored_NM": scored_NM})
    assert progress.gain_M.isnan().tolist() == [True, False]
    assert progress.standard_error_M.isnan().tolist() == [True, True]
    assert progress.num_prompts == 1
    assert progress.metrics().keys() == {"probe/gain/clarity", "probe/num_prompts", "probe/clipped_fraction"}
    assert measure(probe, {key: values[:0] for key, values in batch.items()}).gain_M.isnan().all()


@PROBES
def test_log_probs_that_are_not_finite_show(probe):
    batch = random_batch(6, unscored=0.0)
    newer_NT = batch["newer_NT"].clone()
    newer_NT[0, 0] = math.nan
    progress = measure(probe, batch | {"newer_NT": newer_NT})
    assert progress.gain_M.isnan().all()
    assert progress.standard_error_M.isnan().all()


@PROBES
def test_the_bound_on_the_log_ratio_is_counted(probe):
    batch = random_batch(7, unscored=0.0)
    newer_NT = torch.zeros(24, 5, dtype=torch.float64)
    newer_NT[:3, 0] = 50.0
    batch |= {"newer_NT": newer_NT, "older_NT": torch.zeros_like(newer_NT)}
    progress = measure(probe, batch)
    assert progress.clipped_fraction == 3 / 24
    assert progress.gain_M.isfinite().all()
    newer_NT[:3, 0] = 3.0  # at the bound
    at_bound = measure(probe, batch)
    assert at_bound.clipped_fraction == 0
    assert at_bound.gain_M.equal(progress.gain_M)


def test_rows_restrict_it_to_prompts_the_step_did_not_see():
    batch = random_batch(8)
    rows_N = batch["group_N"] >= 3
    held_out = measure(forward_probe, {key: values[rows_N] for key, values in batch.items()})
    progress = measure(forward_probe, batch, rows_N=rows_N)
    torch.testing.assert_close(progress.gain_M, held_out.gain_M, rtol=0, atol=1e-15)
    torch.testing.assert_close(progress.standard_error_M, held_out.standard_error_M, rtol=0, atol=1e-15)
    assert progress.num_prompts == held_out.num_prompts == 3
    assert progress.clipped_fraction == held_out.clipped_fraction
    cut_N = rows_N.clone()
    cut_N[8] = True  # one of the completions of prompt 2, whose others the step was trained on
    assert measure(forward_probe, batch, rows_N=cut_N).gain_M.equal(progress.gain_M)
    assert measure(forward_probe, batch, rows_N=torch.zeros(24, dtype=torch.bool)).gain_M.isnan().all()


def test_select_refuses_other_objectives():
    progress = Progress(NAMES, tensor([0.1, 0.2]), tensor([0.01, 0.02]), 4)
    with pytest.raises(CtwaError, match=r"measured \['accuracy', 'clarity'\] but the objectives are \['accuracy'\]"):
        progress.select(["accuracy"])


def test_mean_rewards_by_hand():
    rewards = RewardMatrix.from_columns({"a": [1, 0, 1, 1, 0, None], "b": [2, None, None, None, None, None]})
    mean_M, error_M = mean_rewards(rewards.rewards_NM, rewards.scored_NM, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert mean_M.tolist() == [0.5, 2.0]  # prompts .5, 1 and 0; one prompt
    assert error_M[0].item() == pytest.approx(0.5 / math.sqrt(3))
    assert error_M[1].isnan()
    mean_M, _ = mean_rewards(rewards.rewards_NM[1:], rewards.scored_NM[1:], torch.tensor([0, 1, 1, 2, 2]))
    assert mean_M[1].isnan()


def test_agreement_counts_what_has_a_sign():
    agreement = Agreement(["clarity", "accuracy"])
    steps = [
        ({"accuracy": 0.1, "clarity": 0.1}, [0.2, -0.2]),
        ({"accuracy": 0.1, "clarity": -0.1}, [-0.2, -0.2]),
        ({"accuracy": -0.1}, [-0.2, 0.2]),
        ({"accuracy": math.nan, "clarity": 0.1}, [0.2, math.nan]),
        ({"accuracy": 0.0, "clarity": 0.1}, [0.2, 0.0]),
    ]
    progresses = [Progress(NAMES, tensor(gain), tensor([0, 0]), 4) for _, gain in steps]
    shares = [agreement.observe(step[0], progress) for step, progress in zip(steps, progresses, strict=True)]
    assert [share["probe/agreement/accuracy"] for share in shares] == [1, 1 / 2, 2 / 3, 2 / 3, 2 / 3]
    assert [share["probe/agreement/clarity"] for share in shares] == [0, 1 / 2, 1 / 2, 1 / 2, 1 / 2]
    restored = Agreement(NAMES)
    assert restored.observe({}, progresses[0]) == {}
    restored.load_state_dict(json.loads(json.dumps(agreement.state_dict())))
    assert restored.observe({}, progresses[0]) == shares[-1]
    assert restored.state_dict() == agreement.state_dict()
