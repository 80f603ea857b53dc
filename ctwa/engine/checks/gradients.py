"""Whether gradients and probes can be taken as method and diagnostics want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctwa.errors import CtwaError

if TYPE_CHECKING:
    from ctwa.engine.settings import Settings
    from ctwa.gradients.settings import GradientSettings
    from ctwa.scalarizers.base import Requirements, Scalarizer

ADAMS = (("torch.optim", "Adam"), ("torch.optim", "AdamW"))
"""The optimizers whose metric is known."""


def check_gradients(config: DictConfig, settings: Settings, scalarizer: Scalarizer) -> None:
    """Refuse what the method's, or the diagnostics', look at the gradients does not stand."""
    if scalarizer.aggregator is not None or settings.diagnostics.gradients_every:
        check_backward_passes(config, settings.gradients)
        check_halves(config, settings.gradients)


def check_halves(config: DictConfig, gradients: GradientSettings) -> None:
    """Refuse halves of mini-batches that have none."""
    actor = config.actor_rollout_ref.actor
    if gradients.gram == "plain":
        return
    if actor.ppo_mini_batch_size < 2:
        raise CtwaError(
            "ctwa.gradients.gram=cross_fitted halves the prompts of a mini-batch, and actor_rollout_ref.actor."
            f"ppo_mini_batch_size={actor.ppo_mini_batch_size}: write 2 or more, better 8, or gram=plain"
        )
    if not actor.use_dynamic_bsz:
        raise CtwaError(
            "ctwa.gradients.gram=cross_fitted makes micro-batches of half the prompts, whose rows no fixed size need "
            "divide: write actor_rollout_ref.actor.use_dynamic_bsz=true, or gram=plain"
        )


def check_backward_passes(config: DictConfig, gradients: GradientSettings) -> None:
    """Refuse an engine on which the objectives' gradients cannot be taken one by one, or not from one forward pass."""
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    if actor.strategy != "fsdp2":
        raise CtwaError(
            f"actor_rollout_ref.actor.strategy={actor.strategy!r}: the objectives' gradients are taken on FSDP2's "
            "shards; write fsdp2"
        )
    precision = actor.fsdp_config.get("mixed_precision") or {}
    if str(precision.get("param_dtype", actor.fsdp_config.get("dtype"))) in ("fp16", "float16"):
        raise CtwaError(
            "actor_rollout_ref.actor.fsdp_config computes in fp16, whose loss scaling knows one loss: write bf16"
        )
    if actor.fsdp_config.get("offload_policy"):
        raise CtwaError(
            "actor_rollout_ref.actor.fsdp_config.offload_policy=true leaves each objective's gradient in main memory, "
            "away from where they are combined: write param_offload=true optimizer_offload=true in its place"
        )
    optim = actor.optim
    if gradients.metric == "optimizer" and (optim.optimizer_impl, optim.optimizer) not in ADAMS:
        raise CtwaError(
            f"ctwa.gradients.metric=optimizer knows Adam's mean squares, and actor_rollout_ref.actor.optim is "
            f"{optim.optimizer_impl}.{optim.optimizer}: write optim.optimizer=AdamW, or metric=euclidean"
        )
    if gradients.passes == "sequential":
        return  # each graph is gone through once, as everything that verl offers expects
    fused = (model.get("fused_kernel_options") or {}).get("impl_backend")
    reasons = {
        "use_liger=true": (model.get("use_liger"), "Liger's kernels write into the activations"),
        "enable_activation_offload=true": (
            model.get("enable_activation_offload"),
            "it gives each activation back once",
        ),
        "fused_kernel_options.impl_backend=liger": (
            model.get("use_fused_kernels") and fused == "liger",
            "nobody has shown that Liger's output layer stands it",
        ),
    }
    for option, (is_on, reason) in reasons.items():
        if is_on:
            raise CtwaError(
                f"actor_rollout_ref.model.{option}: several backward passes are to go through one forward pass, and "
                f"{reason}: write ctwa.gradients.passes=sequential, or do without it"
            )


def check_probe(config: DictConfig, settings: Settings, requirements: Requirements) -> None:
    """Refuse a probe that the method, the engine or the batch does not allow."""
    source, actor = settings.probe_source(requirements), config.actor_rollout_ref.actor
    if settings.diagnostics.probe not in ("none", source):
        raise CtwaError(
            f"ctwa.diagnostics.probe={settings.diagnostics.probe}, but the method measures with source: {source}; "
            "write the same, or diagnostics.probe=none"
        )
    if source == "backward" and actor.strategy != "fsdp2":
        raise CtwaError(
            f"the probe 'backward' exchanges FSDP2's shards, but actor_rollout_ref.actor.strategy={actor.strategy!r}: "
            "write fsdp2, or take the probe 'held_out'"
        )
    if source == "minibatch":
        if actor.ppo_mini_batch_size >= config.data.train_batch_size or actor.ppo_epochs > 1 or actor.shuffle:
            raise CtwaError(
                "the probe 'minibatch' looks at a step's last mini-batch, which the others have not seen: write "
                "an actor_rollout_ref.actor.ppo_mini_batch_size below data.train_batch_size, ppo_epochs=1 and "
                "shuffle=false, or take the probe 'backward'"
            )
        if requirements.log_probs == "post_update":
            raise CtwaError(
                "the probe 'minibatch' needs the log-probs of the update itself, but the method's statistic those "
                "after it: write ctwa.method.statistic=in_update, or take the probe 'backward'"
            )
    num_held_out = settings.diagnostics.held_out_prompts
    if source == "held_out" and num_held_out >= config.data.train_batch_size:
        raise CtwaError(
            f"ctwa.diagnostics.held_out_prompts={num_held_out} leaves none of the data.train_batch_size="
            f"{config.data.train_batch_size} prompts of a step to train on: write less"
        )
