"""What a step is made of, by the configuration of a run: the numbers that `ctwa.capacity` computes with."""

from __future__ import annotations

from omegaconf import DictConfig

from ctwa.capacity.hardware import Cluster
from ctwa.capacity.shape import ModelShape
from ctwa.capacity.workload import Passes, Workload
from ctwa.engine.checks.batches import attention_of, num_data_ranks
from ctwa.engine.passes import UpdatePasses, update_passes
from ctwa.engine.settings import Settings
from ctwa.scalarizers.base import Scalarizer

_NUMBER_BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}


def workload_of(
    config: DictConfig, settings: Settings, shape: ModelShape, cluster: Cluster, *, mean_response: float | None = None
) -> Workload:
    """A run's step on a cluster.

    Args:
        config: the resolved config.
        settings: our part of it, validated.
        shape: the model's.
        cluster: what it is to run on, whatever the config's engine has.
        mean_response: tokens of a response, as expected; by default as many as there may be.
    """
    node, scalarizer = config.actor_rollout_ref, settings.build_scalarizer()
    rollout, model, fsdp = node.rollout, node.model, node.actor.fsdp_config
    passes, has_adapter = update_passes(config, settings, scalarizer), bool(model.get("lora_rank"))
    longest = config.data.max_prompt_length + config.data.max_response_length
    mean = config.data.max_response_length if mean_response is None else mean_response
    is_flash = attention_of(config).startswith("flash_attention")
    several = passes.backwards > 1 and settings.gradients.passes == "shared_forward"
    mixed = fsdp.get("mixed_precision") or {}
    return Workload(
        shape=shape,
        cluster=cluster,
        prompts=config.data.train_batch_size,
        completions=rollout.n,
        prompt_tokens=config.data.max_prompt_length,
        response_tokens=config.data.max_response_length,
        mean_response_tokens=mean,
        micro_tokens=_micro_tokens(config, longest),
        passes=_passes(config, settings, scalarizer, passes, shape),
        num_trained=(
            shape.adapter_parameters(model.lora_rank, model.get("target_modules") or "all-linear")
            if has_adapter
            else shape.num_parameters
        ),
        num_gradients=passes.num_gradients,
        checkpoints_activations=bool(model.enable_gradient_checkpointing),
        logits_copies=1 if is_flash and not several else 2,
        shards=fsdp.fsdp_size if fsdp.fsdp_size > 0 else cluster.num_gpus,
        keeps_weights=settings.probe_source(scalarizer.requirements) == "backward",
        holds_reference=settings.has_reference(config) and not has_adapter and not node.ref.fsdp_config.param_offload,
        offloads_weights=bool(fsdp.param_offload),
        offloads_optimizer=bool(fsdp.optimizer_offload),
        compute_bytes=_NUMBER_BYTES.get(str(mixed.get("param_dtype", "bf16")), 2),
        rollout_bytes=_NUMBER_BYTES.get(str(rollout.dtype), 2),
        tensor_parallel=rollout.tensor_model_parallel_size,
        memory_share=rollout.gpu_memory_utilization,
        server_rows=rollout.max_num_seqs,
        server_sleeps=bool(rollout.free_cache_engine),
        num_column_objectives=len(settings.trained) if scalarizer.aggregator is not None else 0,
    )


def _micro_tokens(config: DictConfig, longest: int) -> int:
    """Of a micro-batch on each rank, no more than the rank has of a mini-batch."""
    actor = config.actor_rollout_ref.actor
    rows = max(1, actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n // num_data_ranks(config))
    if actor.use_dynamic_bsz:
        return min(actor.ppo_max_token_len_per_gpu, rows * longest)
    return min(actor.ppo_micro_batch_size_per_gpu or rows, rows) * longest


def _passes(
    config: DictConfig, settings: Settings, scalarizer: Scalarizer, update: UpdatePasses, shape: ModelShape
) -> Passes:
    log_probs = (
        (not config.algorithm.rollout_correction.bypass_mode)
        + settings.has_reference(config)
        + (settings.log_probs_source(scalarizer.requirements) == "post_update")
        + (settings.probe_source(scalarizer.requirements) == "backward")
    )
    measured = min(update.last_layers or 0, shape.num_layers) / shape.num_layers
    return Passes(
        log_probs=log_probs,
        forwards=update.forwards + update.measured_forwards,
        backwards=update.backwards + update.measured_backwards * measured,
        epochs=config.actor_rollout_ref.actor.ppo_epochs,
    )
