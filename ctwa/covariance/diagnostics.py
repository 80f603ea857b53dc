"""The covariance diagnostics of one update, for any method: they show what the weighing did to each objective."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import Update
from ctwa.covariance.distortion import clipping_distortion
from ctwa.covariance.weights import completion_weights, update_weights
from ctwa.covariance.within_prompt import within_prompt_covariance


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics without those that were not observed (NaN): a curve then has a gap, and JSON stays JSON."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def sampled_entropy(log_probs_NT: Tensor, mask_NT: Tensor) -> float:
    """The policy's entropy at the tokens of its own completions, in nats: the mean of ``-log p`` of what was sampled.

    Unbiased where the log-probs are those of the distribution that was sampled from; it needs no look at the others.

    Args:
        log_probs_NT: of the sampled tokens.
        mask_NT: 1 at the tokens that count, at least one.
    """
    mask_NT = mask_NT.bool()
    return -float(log_probs_NT.masked_fill(~mask_NT, 0.0).double().sum() / mask_NT.sum())


def diagnostics(update: Update) -> dict[str, float]:
    """Covariances and clipping of one update, as the paper defines them whatever the method's own options.

    Args:
        update: what the update did.

    Returns:
        ``covariance/<name>``: the covariance of the reward with the completion weight; positive where the update
        raises the objective. ``correlation/<name>``: the same in standard deviations of both, over the prompts where
        the reward varies. ``rollout/usable_groups``: the share of prompt groups it was measured on, of those that
        it applies to.
        ``clip/fraction``, ``clip/mass``, ``clip/distortion``, ``clip/bound/<name>``: see ``Distortion``.
        What was not observed is left out: all of it where the loss does not let on how it weighs a token.
    """
    if update.loss is None:
        return {}
    rollout = update.rollout
    # In alphabetical order, so that the order of the objectives does not change the last bit of a sum.
    names = sorted(rollout.rewards.names)
    order_M = [rollout.rewards.names.index(name) for name in names]
    rewards_NM, scored_NM = rollout.rewards.rewards_NM[:, order_M], rollout.rewards.scored_NM[:, order_M]
    clipped = update_weights(update, update.loss)
    unclipped = update_weights(update, update.loss.unclipped())
    completions = completion_weights(clipped)
    columns = (rewards_NM, completions.weight_N[:, None], scored_NM & completions.valid_N[:, None], rollout.group_N)
    covariance = within_prompt_covariance(*columns)
    correlation = within_prompt_covariance(*columns, correlation=True)
    distortion = clipping_distortion(unclipped, clipped, rewards_NM, scored_NM, rollout.group_N)
    _, index_N = torch.unique(rollout.group_N, return_inverse=True)
    num_GM = torch.zeros(covariance.groups_GD.shape).index_add(0, index_N, rollout.rewards.applicable_NM.float())
    metrics = {
        key_of.USABLE_GROUPS: int(covariance.num_usable_D.sum()) / max(int((num_GM > 0).sum()), 1),
        key_of.CLIP_FRACTION: distortion.fraction,
        key_of.CLIP_MASS: distortion.mass,
        key_of.CLIP_DISTORTION: distortion.std,
    }
    for column, name in enumerate(names):
        metrics[key_of.covariance(name)] = float(covariance.mean_D[column])
        metrics[key_of.correlation(name)] = float(correlation.mean_D[column])
        metrics[key_of.clip_bound(name)] = float(distortion.bound_M[column])
    return finite(metrics)
