"""The loss of each objective by itself, with verl's own loss: entropy and KL are in none of them, in the step once."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.config.actor import PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

from ctwa.aggregators.linear import FixedWeights, FixedWeightsConfig
from ctwa.engine.objective_losses import policy_losses
from ctwa.engine.verl.columns import advantages_column
from ctwa.gradients.plan import GradientPlan
from ctwa.gradients.settings import GradientSettings

PROMPTS, RESPONSES = [2, 3], [4, 2]
WEIGHTS = torch.tensor([0.2, 0.8])


def nested(lengths: list[int], generator: torch.Generator, scale: float = 1.0) -> Tensor:
    rows = [scale * torch.randn(length, generator=generator) for length in lengths]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


@pytest.fixture
def batch() -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    data = {
        "prompts": nested(PROMPTS, generator),
        "responses": nested(RESPONSES, generator),
        "response_mask": torch.nested.as_nested_tensor(
            [torch.ones(length) for length in RESPONSES], layout=torch.jagged
        ),
        "old_log_probs": nested(RESPONSES, generator, 0.1),
        "ref_log_prob": nested(RESPONSES, generator, 0.1),
        **{advantages_column(column): nested(RESPONSES, generator) for column in range(2)},
    }
    # What the weights make of the objectives' advantages.
    rows = [data[advantages_column(column)].unbind() for column in range(2)]
    data["advantages"] = torch.nested.as_nested_tensor(
        [WEIGHTS[0] * one + WEIGHTS[1] * other for one, other in zip(*rows, strict=True)], layout=torch.jagged
    )
    batch = TensorDict(data, batch_size=2)
    tu.assign_non_tensor(batch, dp_size=1, batch_num_tokens=sum(RESPONSES), global_batch_size=2)
    return batch


def actor_config(*, entropy: float, kl: bool, mode: str = "vanilla") -> FSDPActorConfig:
    # Nothing is clipped, so that the loss is linear in the advantages.
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_mini_batch_size=2,
        ppo_micro_batch_size_per_gpu=2,
        clip_ratio=1e6,
        clip_ratio_low=1e6,
        clip_ratio_high=1e6,
        clip_ratio_c=1e7,
        entropy_coeff=entropy,
        use_kl_loss=kl,
        kl_loss_coef=0.3,
        policy_loss=PolicyLossConfig(loss_mode=mode, dro_beta=0.5),
    )


def plan(*, measures_only: bool = False) -> GradientPlan:
    aggregator = None if measures_only else FixedWeights(FixedWeightsConfig(), {"a": 0.2, "b": 0.8})
    return GradientPlan(("a", "b"), aggregator, GradientSettings())


# DRO has a penalty of its own, which is to count once.
@pytest.mark.parametrize("mode", ["vanilla", "dro"])
@pytest.mark.parametrize("kl", [False, True])
@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_the_weighted_losses_and_the_shared_terms_are_verls_loss(
    batch: TensorDict, entropy: float, kl: bool, mode: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    output = {"log_probs": nested(lengths, generator, 0.1), "entropy": nested(lengths, generator)}
    loss_fn = partial(ppo_loss, config=actor_config(entropy=entropy, kl=kl, mode=mode))
    expected, _ = loss_fn(model_output=output, data=batch)

    losses, shared, metrics = policy_losses(loss_fn, output, batch, None, plan())

    assert (shared is None) == (not entropy and not kl)
    total = WEIGHTS @ torch.stack(losses) + (0 if shared is None else shared)
    torch.testing.assert_close(total, expected)
    assert "actor/pg_loss" in metrics
    # The terms that all share are in no objective's loss.
    bare = partial(ppo_loss, config=actor_config(entropy=0.0, kl=False, mode=mode))
    rows = batch.clone(recurse=False).set("advantages", batch[advantages_column(0)])
    alone, _ = bare(model_output=output, data=rows)
    torch.testing.assert_close(losses[0], alone)


def test_where_gradients_are_only_measured_the_step_is_verls(batch: TensorDict) -> None:
    lengths = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    output = {"log_probs": nested(lengths, torch.Generator().manual_seed(1), 0.1)}
    loss_fn = partial(ppo_loss, config=actor_config(entropy=0.0, kl=True))
    expected, _ = loss_fn(model_output=output, data=batch)

    losses, shared, _ = policy_losses(loss_fn, output, batch, None, plan(measures_only=True))

    assert len(losses) == 2
    torch.testing.assert_close(shared, expected)
