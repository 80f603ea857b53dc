"""What a run would do, in words: the end of a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctwa.engine.checks.config import num_steps
from ctwa.engine.checks.look import prompt_lines

if TYPE_CHECKING:
    from ctwa.engine.settings import Settings
    from ctwa.scalarizers.base import Scalarizer


def _update_passes(config: DictConfig, settings: Settings, scalarizer: Scalarizer) -> str:
    """The passes of an update; with a method that combines gradients, of one that takes them."""
    if scalarizer.aggregator is None:
        return passes_text(config, 1, 1)
    actor, gradients = config.actor_rollout_ref.actor, settings.gradients
    # The KL penalty and the entropy bonus are no objective's: they are differentiated once, by themselves.
    is_shared = bool(actor.use_kl_loss or actor.entropy_coeff)
    num = len(settings.objectives) + is_shared
    forwards = 1 if gradients.passes == "shared_forward" else num
    if gradients.last_layers is not None:
        measured = f"{forwards} forward and {num} backward through {gradients.last_layers} layers"
        return f"{measured}, then {passes_text(config, 1, 1)}"
    return passes_text(config, forwards, num)


def passes_text(config: DictConfig, num_forward: int, num_backward: int) -> str:
    """What so many passes are, in words: with gradient checkpointing a backward pass goes forward again."""
    text = f"{num_forward} forward and {num_backward} backward"
    if not config.actor_rollout_ref.model.enable_gradient_checkpointing:
        return text
    return f"{text} (activations computed anew in each backward)"


def plan_text(config: DictConfig, settings: Settings) -> str:
    """What a run would do: steps, tokens, passes a step."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    scalarizer = settings.build_scalarizer()
    rows = config.data.train_batch_size * rollout.n
    num_updates = config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
    source = settings.log_probs_source(scalarizer.requirements)
    passes = ["old log-probs (1 forward)"] * (not config.algorithm.rollout_correction.bypass_mode)
    passes += ["reference log-probs (1 forward)"] * bool(actor.use_kl_loss)
    passes += [
        f"update ({num_updates} optimizer steps, {_update_passes(config, settings, scalarizer)} of the batch an epoch)"
    ]
    passes += ["statistic after the update (1 forward)"] * (source == "post_update")
    passes += ["probe (1 forward)"] * (settings.probe_source(scalarizer.requirements) == "backward")
    lines = [
        "plan:",
        f"  method       {settings.method.type}, log-probs of the statistic: {source}",
        f"  objectives   {', '.join(f'{name} ({weight:g})' for name, weight in scalarizer.weights.items())}",
        f"  engine       {config.trainer.device}, {config.trainer.nnodes * config.trainer.n_gpus_per_node} ranks, "
        f"{actor.strategy}, rollout on {rollout.name}",
        f"  model        {config.actor_rollout_ref.model.path}",
        *prompt_lines(config),
        f"  steps        {num_steps(config)}",
        f"  a step       {config.data.train_batch_size} prompts x {rollout.n} completions = {rows} completions, "
        f"at most {rows * (config.data.max_prompt_length + config.data.max_response_length):,} tokens",
        f"  passes       {'; '.join(passes)}",
        f"  validation   every {config.trainer.test_freq} steps; checkpoint every {config.trainer.save_freq} steps",
        f"  run folder   {settings.run}",
    ]
    return "\n".join(lines)
