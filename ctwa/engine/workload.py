"""What a step is made of, by the configuration of a run: the numbers that `ctwa.capacity` computes with."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig

from ctwa.capacity.hardware import Cluster
from ctwa.capacity.memory import NUMBER_BYTES
from ctwa.capacity.shape import ModelShape
from ctwa.capacity.workload import Passes, Sampling, Workload
from ctwa.engine.caid_settings import CaidSettings
from ctwa.engine.checks.batches import attention_of, num_data_ranks, sequence_parallel_size
from ctwa.engine.passes import UpdatePasses, pair_passes, update_passes
from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.settings import Settings
from ctwa.engine.verl.logits import WORKING_BYTES
from ctwa.errors import CtwaError
from ctwa.preference.data import data_sets
from ctwa.preference.sampling import pairs_per_set
from ctwa.scalarizers.base import Scalarizer


def of_rewards(
    config: DictConfig, settings: Settings, shape: ModelShape, cluster: Cluster, mean_response: float | None
) -> Workload:
    """A step of `ctwa train` on a cluster.

    Args:
        config: the resolved config.
        settings: our part of it, validated.
        shape: the model's.
        cluster: what it is to run on, whatever the config's engine has.
        mean_response: tokens of a response, as expected; None for as many as there may be.
    """
    node, scalarizer = config.actor_rollout_ref, settings.build_scalarizer()
    update = update_passes(config, settings, scalarizer)
    sampling = _sampling(config, config.data.train_batch_size, node.rollout.n, mean_response)
    return _step(
        config,
        shape,
        cluster,
        update,
        num_rows=sampling.num_rows,
        mini_batch=node.actor.ppo_mini_batch_size * node.rollout.n,
        row_tokens=sampling.prompt_tokens + sampling.mean_response_tokens,
        longest=sampling.longest,
        micro_tokens=_micro_tokens(config, node.actor.ppo_mini_batch_size * node.rollout.n, sampling.longest),
        passes=_passes(config, settings, scalarizer, update, shape),
        sampling=sampling,
        temperature=node.rollout.temperature,
        keeps_weights=settings.probe_source(scalarizer.requirements) == "backward",
        holds_reference=_holds_reference(config, settings),
        num_column_objectives=len(settings.trained) if scalarizer.aggregator is not None else 0,
    )


def of_pairs(
    config: DictConfig, settings: PreferenceSettings, shape: ModelShape, cluster: Cluster, mean_row: float | None
) -> Workload:
    """A step of `ctwa prefer` on a cluster.

    Args:
        config: the resolved config.
        settings: our part of it, validated.
        shape: the model's.
        cluster: what it is to run on.
        mean_row: tokens of a prompt with a response, as expected; None for as many as there may be.
    """
    update = pair_passes(settings)
    num_sets = len(data_sets({name: objective.source() for name, objective in settings.objectives.items()}))
    return _step(
        config,
        shape,
        cluster,
        update,
        **_pairs(config, settings.max_length, mean_row),
        mini_batch=pairs_per_set(config.data.train_batch_size, num_sets),
        passes=_of_update(update, shape),
    )


def of_samples(
    config: DictConfig, settings: CaidSettings, shape: ModelShape, cluster: Cluster, mean_response: float | None
) -> Workload:
    """A step of `ctwa caid` on pairs of samples, and what a policy samples; arguments as of :func:`of_rewards`."""
    num_samples = config.actor_rollout_ref.rollout.val_kwargs.n
    sampling = _sampling(config, config.data.val_max_samples, num_samples, mean_response)
    return _step(
        config,
        shape,
        cluster,
        UpdatePasses(),
        **_pairs(config, sampling.longest, sampling.prompt_tokens + sampling.mean_response_tokens),
        mini_batch=config.data.train_batch_size,
        passes=_of_update(UpdatePasses(), shape),
        sampling=sampling,
        holds_reference=_holds_reference(config, settings),
    )


def _step(
    config: DictConfig,
    shape: ModelShape,
    cluster: Cluster,
    update: UpdatePasses,
    *,
    temperature: float = 1.0,
    **own: Any,
) -> Workload:
    """What the commands have in common: how the model is held, and what its passes compute in.

    Args:
        config: the resolved config.
        shape: the model's.
        cluster: what it is to run on.
        update: its passes.
        temperature: of the policy that is trained.
        own: of a command's :class:`Workload`.
    """
    model, fsdp = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.fsdp_config
    is_flash = attention_of(config).startswith("flash_attention")
    mixed = fsdp.get("mixed_precision") or {}
    return Workload(
        shape=shape,
        cluster=cluster,
        num_trained=_adapter_parameters(shape, model) if model.get("lora_rank") else shape.num_parameters,
        counts_tokens=bool(config.actor_rollout_ref.actor.use_dynamic_bsz),
        num_gradients=update.num_gradients,
        checkpoints_activations=bool(model.enable_gradient_checkpointing),
        logits_copies=_logits_copies(config, update, scales=temperature != 1, has_kernel=is_flash),
        logits_chunk=0 if is_flash else WORKING_BYTES,
        shards=fsdp.fsdp_size if fsdp.fsdp_size > 0 else cluster.num_gpus,
        offloads_weights=bool(fsdp.param_offload),
        offloads_optimizer=bool(fsdp.optimizer_offload),
        weight_bytes=NUMBER_BYTES.get(str(fsdp.model_dtype), 4),
        sequence_parallel=sequence_parallel_size(config),
        compute_bytes=NUMBER_BYTES.get(str(mixed.get("param_dtype", "bf16")), 2),
        **own,
    )


def _adapter_parameters(shape: ModelShape, model: DictConfig) -> int:
    targets, excluded = model.get("target_modules") or "all-linear", model.get("exclude_modules") or []
    try:
        num = shape.adapter_parameters(model.lora_rank, targets, excluded)
    except re.error:
        num = 0
    if not num:
        raise CtwaError(
            f"actor_rollout_ref.model.target_modules={targets} is of no matrix of the model"
            f"{f' but for exclude_modules={excluded}' if excluded else ''}: write a list of the ends "
            "of their names, e.g. [q_proj], a pattern of whole names, or all-linear"
        )
    return num


def _logits_copies(config: DictConfig, update: UpdatePasses, *, scales: bool, has_kernel: bool) -> int:
    """Buffers of the logits' size that the update holds at once, at the most.

    Args:
        config: the resolved config.
        update: its passes.
        scales: whether the logits are divided by a temperature, which makes others beside them.
        has_kernel: whether log-probabilities are flash-attention's, which can go backward in the logits' place.
    """
    actor = config.actor_rollout_ref.actor
    has_bonus = bool(actor.entropy_coeff)  # its gradient stands beside that of the log-probabilities
    several = update.backwards > update.forwards  # through one graph
    if has_kernel and not several and not has_bonus and not actor.calculate_entropy:
        return 1 + scales
    # What the log-probabilities are of, and its gradient. Kept for more passes, it is still there while the gradient
    # of the logits before the division is made.
    return 2 + (has_bonus or (scales and several))


def _sampling(config: DictConfig, prompts: int, completions: int, mean_response: float | None) -> Sampling:
    data, rollout = config.data, config.actor_rollout_ref.rollout
    return Sampling(
        prompts=prompts,
        completions=completions,
        prompt_tokens=data.max_prompt_length,
        response_tokens=data.max_response_length,
        mean_response_tokens=data.max_response_length if mean_response is None else mean_response,
        number_bytes=NUMBER_BYTES.get(str(rollout.dtype), 2),
        tensor_parallel=rollout.tensor_model_parallel_size,
        memory_share=rollout.gpu_memory_utilization,
        max_rows=rollout.max_num_seqs,
        sleeps=bool(rollout.free_cache_engine),
    )


def _pairs(config: DictConfig, longest: int, mean_row: float | None) -> dict[str, Any]:
    """Of a step on pairs, both of whose responses are in one micro-batch."""
    num = config.data.train_batch_size
    return {
        "num_rows": 2 * num,
        "row_tokens": longest if mean_row is None else mean_row,
        "longest": 2 * longest,
        "micro_tokens": _micro_tokens(config, num, 2 * longest),
        "has_pairs": True,
    }


def _micro_tokens(config: DictConfig, num: int, longest: int) -> int:
    """Of a micro-batch on each rank, no more than the rank has.

    Args:
        config: the resolved config.
        num: rows of a mini-batch, or pairs, on all ranks.
        longest: tokens of one.
    """
    actor = config.actor_rollout_ref.actor
    of_rank = max(1, num // num_data_ranks(config))
    if actor.use_dynamic_bsz:
        return int(min(actor.ppo_max_token_len_per_gpu, of_rank * longest))
    return int(min(actor.ppo_micro_batch_size_per_gpu or of_rank, of_rank)) * longest


def _holds_reference(config: DictConfig, settings: Settings) -> bool:
    """Whether it stays on the GPU: that of an adapter is the model below it."""
    node = config.actor_rollout_ref
    is_a_model = settings.has_reference(config) and not node.model.get("lora_rank")
    return is_a_model and not node.ref.fsdp_config.param_offload


def _passes(
    config: DictConfig, settings: Settings, scalarizer: Scalarizer, update: UpdatePasses, shape: ModelShape
) -> Passes:
    log_probs = (
        (not config.algorithm.rollout_correction.bypass_mode)
        + settings.has_reference(config)
        + (settings.log_probs_source(scalarizer.requirements) == "post_update")
        + (settings.probe_source(scalarizer.requirements) == "backward")
    )
    return _of_update(update, shape, log_probs=log_probs, epochs=config.actor_rollout_ref.actor.ppo_epochs)


def _of_update(update: UpdatePasses, shape: ModelShape, *, log_probs: float = 0, epochs: int = 1) -> Passes:
    """As passes of the whole depth; those that measure go through the last blocks alone."""
    depth = min(update.last_layers or 0, shape.num_layers) / shape.num_layers
    return Passes(
        log_probs=log_probs,
        forwards=update.forwards + update.measured_forwards,
        backwards=update.backwards + update.measured_backwards * depth,
        epochs=epochs,
    )
