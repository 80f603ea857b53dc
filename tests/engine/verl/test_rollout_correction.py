"""A rollout correction reaches the loss, the estimator and the statistic alike: rejected tokens are not trained."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.covariance.diagnostics import diagnostics
from ctwa.covariance.weights import completion_weights, update_weights
from ctwa.engine.settings import DynamicSampling
from ctwa.engine.verl.columns import ROW_COLUMN
from ctwa.engine.verl.estimate import VerlEstimate
from ctwa.engine.verl.transfer import correct, padding_columns
from ctwa.policy_loss import GeoMean, Gspo, PolicyLoss, Vanilla
from ctwa.scalarizers import build_scalarizer
from ctwa.scalarizers.ctwa import CtwaConfig
from ctwa.scalarizers.linear import Linear, LinearConfig

LENGTHS = [3, 2, 4, 1]
MASK_NT = (torch.arange(4) < torch.tensor(LENGTHS)[:, None]).long()
# log(pi_old / pi_rollout): within 1.1 but for the second row's, and one token of the third.
LOG_RATIO_NT = torch.tensor([[0.05, -0.02, 0.01, 0], [1.0, 0.8, 0, 0], [0.02, -0.9, 0.03, 0.01], [0.04, 0, 0, 0]])
ADVANTAGES_NT = torch.tensor([[1.0] * 4, [-2.0] * 4, [0.5] * 4, [1.5] * 4])
CLIP = Vanilla(0.2, 0.2, dual=3.0)


def nested(values_NT: Tensor) -> Tensor:
    rows = [row[:length] for row, length in zip(values_NT, LENGTHS, strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def rows() -> Any:
    old_NT = torch.full((4, 4), -1.0)
    columns = {"response_mask": MASK_NT, "old_log_probs": old_NT, "rollout_log_probs": old_NT - LOG_RATIO_NT}
    data = TensorDict({name: nested(values) for name, values in columns.items()}, batch_size=4)
    return SimpleNamespace(read=lambda *names: data.select(*names))


def rollout() -> Rollout:
    rewards = RewardMatrix.from_columns({"accuracy": [1.0, 0.0, 1.0, 0.0], "clarity": [0.2, 0.9, 0.4, 0.1]})
    return Rollout(rewards, torch.tensor([0, 0, 1, 1]), MASK_NT)


def corrected(**options: object) -> tuple[Rollout, dict[str, Tensor], dict[str, float]]:
    return correct(OmegaConf.create(options), rows(), rollout())


def update(of: Rollout) -> Update:
    old_NT = torch.zeros(4, 4)
    new_NT = torch.tensor([[0.1, 0.5, -0.1, 0], [0.1, -0.1, 0, 0], [0.05, 0.3, -0.5, 0.1], [0.0, 0, 0, 0]])
    return Update(of, ADVANTAGES_NT, old_NT, new_NT, CLIP)


def weights_of(of: Rollout, loss: PolicyLoss = CLIP) -> Any:
    return update_weights(update(of), loss)


def test_a_rejected_completion_weighs_nothing_and_stays_in_the_covariance() -> None:
    of, columns, metrics = corrected(rollout_rs="seq_mean_k1", rollout_rs_threshold=1.5)
    weights, plain = completion_weights(weights_of(of)), completion_weights(weights_of(rollout()))
    assert weights.valid_N.all()
    assert weights.weight_N[1] == 0 != plain.weight_N[1]
    assert torch.equal(weights.weight_N[[0, 2, 3]], plain.weight_N[[0, 2, 3]])
    assert [row.tolist() for row in columns["response_mask"].unbind()] == [[1] * 3, [0] * 2, [1] * 4, [1]]
    assert columns["response_mask"].dtype == MASK_NT.dtype  # as it was in the queue
    assert any(key.startswith("rollout_corr/rollout_rs") for key in metrics)
    # What the method learns from is what the diagnostics show: both without the rejected completion's weight.
    targets = {"accuracy": 0.1, "clarity": 0.1}
    method = build_scalarizer(CtwaConfig(), dict.fromkeys(targets, 0.5), targets=targets, scale_invariant=True)
    learnt, shown = method.observe_update(update(of)), diagnostics(update(of))
    by_hand = [float(w) for w in weights.weight_N]
    expected = ((1 - 0.5) * by_hand[0] / 2 + (0 - 0.5) * by_hand[1] / 2 + 0.25 * by_hand[2] - 0.25 * by_hand[3]) / 2
    assert learnt["covariance/accuracy"] == shown["covariance/accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"rollout_is": "token", "rollout_is_threshold": 1.5},
        {"rollout_is": "sequence", "rollout_is_threshold": 2.0},
        {"rollout_is": "token", "rollout_is_threshold": "0.9_1.5"},
        {"rollout_rs": "token_k1", "rollout_rs_threshold": 1.2},
        {"rollout_is": "token", "rollout_is_threshold": 2.0, "rollout_rs": "token_k1", "rollout_rs_threshold": 2.0},
    ],
    ids=["truncated", "sequence", "icepop", "rejected", "both"],
)
@pytest.mark.parametrize(
    ("mode", "loss", "size"),
    [
        ("vanilla", CLIP, 1),
        ("gspo", Gspo(low=0.2, high=0.2), 1),
        # Its loss is the mean over the completions of their means.
        ("geo_mean", GeoMean(low=0.2, high=0.2, by_completion=True), 4),
    ],
    ids=["vanilla", "gspo", "geo_mean"],
)
def test_a_token_weighs_what_verls_loss_multiplies_its_score_function_by(
    options: dict[str, object], mode: str, loss: PolicyLoss, size: int
) -> None:
    of, columns, _ = corrected(**options)
    step = update(of)
    log_probs_NT = step.log_probs_new_NT.clone().requires_grad_()
    actor = FSDPActorConfig(strategy="fsdp2", rollout_n=1, ppo_mini_batch_size=4, ppo_micro_batch_size_per_gpu=4)
    actor.global_batch_info.update(dp_size=1, batch_num_tokens=1, global_batch_size=4, loss_scale_factor=None)
    padded = {name: column.to_padded_tensor(0) for name, column in columns.items()}
    value, _ = get_policy_loss_fn(mode)(
        old_log_prob=step.log_probs_old_NT,
        log_prob=log_probs_NT,
        advantages=step.advantages_NT,
        response_mask=padded.get("response_mask", MASK_NT).bool(),
        loss_agg_mode="token-mean",
        config=actor,
        rollout_is_weights=padded.get("rollout_is_weights"),
    )
    (slope_NT,) = torch.autograd.grad(value, log_probs_NT)
    if size > 1:
        lengths_N = of.loss_mask_NT.sum(1)
        slope_NT = slope_NT * size * lengths_N.sum() / (lengths_N > 0).sum()
    torch.testing.assert_close(weights_of(of, loss).weight_NT, -slope_NT.double(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights_of(of, loss).weight_NT, weights_of(rollout(), loss).weight_NT)


def test_what_is_rejected_counts_as_not_clipped() -> None:
    of, _, _ = corrected(rollout_rs="seq_mean_k1", rollout_rs_threshold=1.5)
    assert weights_of(of).kept_NT[1, :2].all()
    assert diagnostics(update(of))["clip/fraction"] == diagnostics(update(rollout()))["clip/fraction"]


def test_an_estimator_s_statistics_do_not_see_what_is_rejected(testbed_config: DictConfig) -> None:
    of, _, _ = corrected(rollout_rs="seq_mean_k1", rollout_rs_threshold=1.5)
    algorithm = OmegaConf.merge(testbed_config.algorithm, {"adv_estimator": "reinforce_plus_plus"})
    scores_N = torch.tensor([1.0, 7.0, 0.5, 0.2], dtype=torch.float64)
    tokens = scores_N[[0, 2, 3]].repeat_interleave(torch.tensor(LENGTHS)[[0, 2, 3]])
    expected_N = (scores_N - tokens.mean()) / (tokens.var() + 1e-8).sqrt()

    advantages_NT = VerlEstimate(algorithm, of.mask_NT, of.group_N, of.loss_mask_NT)(scores_N)

    seen_NT = of.loss_mask_NT.bool()
    torch.testing.assert_close(
        advantages_NT.double()[seen_NT], expected_N[:, None].expand(4, 4)[seen_NT], atol=1e-5, rtol=1e-4
    )


def test_where_nothing_is_corrected_the_two_policies_are_compared_all_the_same() -> None:
    of, columns, metrics = corrected(rollout_is=None, rollout_rs=None)
    assert of.rejected_NT is None
    assert of.importance_NT is None
    assert torch.equal(of.loss_mask_NT, MASK_NT)
    assert columns == {}
    assert {"rollout_corr/kl", "rollout_corr/k3_kl"} <= metrics.keys()


@pytest.mark.parametrize("options", [None, {"bypass_mode": True, "rollout_is": None}])
def test_with_the_rollout_s_own_log_probs_there_is_nothing_to_compare(options: dict | None) -> None:
    correction = None if options is None else OmegaConf.create(options)
    same = rollout()
    assert correct(correction, rows(), same) == (same, {}, {})


def test_added_rows_keep_verls_empty_mask_and_have_weights_of_zero() -> None:
    of, columns, _ = corrected(rollout_is="token", rollout_rs="token_k1", rollout_rs_threshold=1.2)
    assert of.importance_NT is not None
    assert of.rejected_NT is not None
    mask = torch.nested.as_nested_tensor([torch.zeros(2, dtype=torch.int64)], layout=torch.jagged)
    added = padding_columns([*columns, ROW_COLUMN], mask)
    assert added.keys() == {"rollout_is_weights", ROW_COLUMN}
    assert added["rollout_is_weights"].unbind()[0].tolist() == [0.0, 0.0]


def test_a_step_writes_what_its_loss_is_to_see(testbed_config: DictConfig) -> None:
    from ctwa.engine.train import MultiObjectiveTrainer, Step

    written: dict[str, Tensor] = {}
    queue = rows()
    queue.keys, queue.partition = [f"train000001-0000{row // 2}_{row % 2}_0" for row in range(4)], "train"
    queue.write = lambda columns: (written.update(columns), [*columns])[1]
    config = OmegaConf.merge(
        testbed_config,
        {
            "algorithm": {
                "rollout_correction": {
                    "bypass_mode": False,
                    "rollout_is": "token",
                    "rollout_rs": "seq_mean_k1",
                    "rollout_rs_threshold": 1.5,
                }
            }
        },
    )
    trainer = object.__new__(MultiObjectiveTrainer)  # its start is Ray's
    trainer.config = config
    trainer.scalarizer = Linear(LinearConfig(), {"accuracy": 0.5, "clarity": 0.5})
    nothing_held = torch.zeros(4, dtype=torch.bool)
    trainer.cross_fitted = None
    trainer.probe = SimpleNamespace(source="none", has_weights=False, held_out=lambda _: nothing_held)
    trainer.settings = SimpleNamespace(
        gradients=None,
        diagnostics=SimpleNamespace(gradients_every=0),
        dynamic_sampling=DynamicSampling(keep="all"),  # the second prompt has one accuracy
        from_log_probs={},
        objectives={name: SimpleNamespace(weight=0.5) for name in ("accuracy", "clarity")},
    )
    batch: Any = SimpleNamespace(keys=queue.keys, partition_id="train", fields=None)
    rewards = RewardMatrix.from_columns({"accuracy": [1.0, 0.0, 1.0, 1.0], "clarity": [0.2, 0.9, 0.4, 0.1]})
    nobody: Any = None  # watches: no phase is begun
    step = Step(1, nobody, batch=batch, rows=queue, rollout=replace(rollout(), rewards=rewards))

    trainer.estimate_advantages(step)

    assert {"response_mask", "rollout_is_weights", "advantages"} <= {*batch.fields} <= written.keys()
    # The correction rejects the second completion, and the second prompt is left out.
    assert [row.any().item() for row in written["response_mask"].unbind()] == [True, False, False, False]
    assert [row.any().item() for row in written["advantages"].unbind()] == [True, False, False, False]
    assert step.metrics["rollout/left_out_frac"] == 0.5
    # What the statistic will see.
    assert step.rollout.rejected_NT is not None
    assert step.rollout.importance_NT is not None
    assert "rollout_corr/kl" in step.metrics
