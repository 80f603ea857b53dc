"""What each policy loss weighs a token by is what verl's own loss, differentiated, multiplies its score function by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, get_policy_loss_fn
from verl.workers.config import FSDPActorConfig
from verl.workers.config.actor import PolicyLossConfig

from ctwa.covariance.weights import completion_weights, token_weights
from ctwa.engine.policy_loss import ALWAYS_BY_COMPLETION, BY_COMPLETION, SELECTIVE, global_geo_mean, read_policy_loss
from ctwa.policy_loss import PolicyLoss

AGGREGATIONS = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", BY_COMPLETION]
WEIGHED = ["vanilla", "gspo", "cispo", "geo_mean", "sapo", "gpg", "dro", "dppo_tv", "dppo_kl"]
LENGTHS = [3, 7, 5, 1, 6, 8]
NUM, LONGEST = len(LENGTHS), max(LENGTHS)
MASK_NT = torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]


def values_of(mode: str, aggregation: str) -> dict[str, Any]:
    # Ranges in which some tokens, or completions, are clipped and others are not.
    low, high = {"gspo": (0.05, 0.1), "dppo_tv": (0.05, 0.03), "dppo_kl": (0.01, 0.02)}.get(mode, (0.2, 0.28))
    return {
        "policy_loss": {"loss_mode": mode, "dro_beta": 0.7},
        "clip_ratio": 0.2,
        "clip_ratio_low": low,
        "clip_ratio_high": high,
        "clip_ratio_c": 1.4,
        "tau_pos": 1.0,
        "tau_neg": 1.3,
        "loss_agg_mode": aggregation,
        "loss_scale_factor": 11,
    }


def actor_of(mode: str, aggregation: str) -> FSDPActorConfig:
    values = values_of(mode, aggregation)
    values["policy_loss"] = PolicyLossConfig(**values["policy_loss"])
    actor = FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, ppo_mini_batch_size=NUM, ppo_micro_batch_size_per_gpu=NUM, **values
    )
    actor.global_batch_info.update(
        dp_size=1, batch_num_tokens=sum(LENGTHS), global_batch_size=NUM, loss_scale_factor=11
    )
    return actor


def loss_of(mode: str, aggregation: str) -> PolicyLoss:
    loss = read_policy_loss(OmegaConf.create(values_of(mode, aggregation)))
    assert loss is not None
    return loss


def verls_loss(
    mode: str, aggregation: str, rows: slice, new_NT: Tensor, old_NT: Tensor, advantages_NT: Tensor
) -> Tensor:
    fn = global_geo_mean if mode == "geo_mean" else get_policy_loss_fn(mode)
    loss, _ = fn(
        old_log_prob=old_NT[rows],
        log_prob=new_NT[rows],
        advantages=advantages_NT[rows],
        response_mask=MASK_NT[rows],
        loss_agg_mode=aggregation,
        config=actor_of(mode, aggregation),
    )
    return loss


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """New and old log-probs and advantages, which are a completion's own; one of them is 0."""
    generator = torch.Generator().manual_seed(3)
    old_NT = torch.empty(NUM, LONGEST, dtype=torch.float64).uniform_(-3.0, -0.5, generator=generator)
    new_NT = old_NT + 0.4 * torch.randn(NUM, LONGEST, dtype=torch.float64, generator=generator)
    advantages_NT = torch.tensor([1.2, -0.7, 0.4, -1.5, 0.0, -0.3], dtype=torch.float64)[:, None].expand(NUM, LONGEST)
    return new_NT.clamp(max=-0.1), old_NT, advantages_NT


PAIRS = [
    (mode, aggregation)
    for mode in WEIGHED
    for aggregation in ([BY_COMPLETION] if mode in ALWAYS_BY_COMPLETION else AGGREGATIONS)
]


@pytest.mark.parametrize(("mode", "aggregation"), PAIRS)
def test_the_weight_is_the_derivative_of_verls_loss(mode: str, aggregation: str) -> None:
    new_NT, old_NT, advantages_NT = batch()
    new_NT.requires_grad_()
    # In two micro-batches, whose losses verl's engine adds up.
    total = sum(
        verls_loss(mode, aggregation, rows, new_NT, old_NT, advantages_NT) for rows in (slice(0, 2), slice(2, NUM))
    )
    (slope_NT,) = torch.autograd.grad(total, new_NT)
    loss = loss_of(mode, aggregation)
    tokens = token_weights(new_NT.detach(), old_NT, advantages_NT, MASK_NT, loss)

    # The constant c of the batch: of a mean over all tokens, of their sum, or of a mean over completions.
    per_completion = {"seq-mean-token-sum": 1.0, "seq-mean-token-sum-norm": 1 / 11}
    scale = {"token-mean": 1 / sum(LENGTHS), "token-sum": 1.0, BY_COMPLETION: 1 / sum(LENGTHS)} | {
        mode: each / NUM for mode, each in per_completion.items()
    }
    torch.testing.assert_close(tokens.weight_NT, -slope_NT / scale[aggregation], rtol=1e-6, atol=1e-8)
    if mode not in ("gpg", "dro", "sapo", "cispo"):
        clipped_NT = MASK_NT & ~tokens.kept_NT
        assert clipped_NT.any()
        assert (tokens.kept_NT & MASK_NT).any()
        assert (slope_NT[clipped_NT] == 0).all()


@pytest.mark.parametrize("mode", WEIGHED)
def test_on_the_policy_that_sampled_every_loss_weighs_the_advantage(mode: str) -> None:
    _, old_NT, advantages_NT = batch()
    aggregation = BY_COMPLETION if mode in ALWAYS_BY_COMPLETION else "token-mean"
    weights = completion_weights(token_weights(old_NT, old_NT, advantages_NT, MASK_NT, loss_of(mode, aggregation)))
    factor_N = torch.ones(NUM, dtype=torch.float64)
    if aggregation == BY_COMPLETION:
        lengths_N = torch.tensor(LENGTHS, dtype=torch.float64)
        factor_N = lengths_N.mean() / lengths_N
    torch.testing.assert_close(weights.weight_N, advantages_NT[:, 0] * factor_N)


@pytest.mark.parametrize("mode", WEIGHED)
def test_without_its_clipping_a_loss_keeps_every_token(mode: str) -> None:
    new_NT, old_NT, advantages_NT = batch()
    aggregation = BY_COMPLETION if mode in ALWAYS_BY_COMPLETION else "token-mean"
    unclipped = loss_of(mode, aggregation).unclipped()
    assert torch.equal(token_weights(new_NT, old_NT, advantages_NT, MASK_NT, unclipped).kept_NT, MASK_NT)


def test_there_is_no_other_loss_of_verls() -> None:
    # bypass_mode is the clipped ratio with a rollout correction, which ctwa makes itself.
    assert {*WEIGHED, *SELECTIVE, "bypass_mode"} == POLICY_LOSS_REGISTRY.keys()
