"""Whether method and probe go with the policy loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctwa.engine.policy_loss import SELECTIVE
from ctwa.errors import CtwaError
from ctwa.scalarizers.registry import METHODS

if TYPE_CHECKING:
    from ctwa.engine.settings import Settings
    from ctwa.scalarizers.base import Requirements

PENALISED = ("dro", "kl_cov")
"""The losses with a penalty of their own, which has a gradient where the advantage is 0."""


def check_kl_in_reward(config: DictConfig, settings: Settings) -> None:
    """Refuse a KL penalty in the reward of a method that has several."""
    if config.algorithm.use_kl_in_reward and METHODS[settings.method.type].info.level != "reward":
        raise CtwaError(
            f"algorithm.use_kl_in_reward=true: {settings.method.type} estimates the advantages of each objective by "
            "itself, and would count the KL penalty in each of them: write actor_rollout_ref.actor.use_kl_loss=true, "
            "or a method that combines rewards (`ctwa methods` lists what they combine)"
        )


def check_loss(config: DictConfig, settings: Settings, requirements: Requirements) -> None:
    """Refuse a policy loss whose weights the method cannot know, or whose gradient the probe cannot keep out."""
    mode = config.actor_rollout_ref.actor.policy_loss.loss_mode
    if settings.policy_loss is None and requirements.token_weights:
        raise CtwaError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode={mode} has no weight that {settings.method.type} could "
            f"measure: {SELECTIVE[mode]}. Write another loss (docs/losses.md has a table), or another method"
        )
    if settings.probe_source(requirements) == "held_out" and mode in PENALISED:
        raise CtwaError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode={mode} has a penalty, which would train on the prompts "
            "that the probe 'held_out' keeps out by an advantage of 0: write the probe 'backward', or another loss"
        )
