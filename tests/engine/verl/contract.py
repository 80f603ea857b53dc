"""What ctwa asks of verl beyond its configuration: the checklist of the next version.

``test_contract.py`` beside it compares every clause with the installed verl, and prints them.
"""
# ruff: noqa: E501 - a signature is a line

from __future__ import annotations

import inspect
from pkgutil import resolve_name
from typing import Literal, NamedTuple

Use = Literal["overridden", "called", "patched", "read"]


class Clause(NamedTuple):
    """Something of verl's that is not to change unnoticed.

    Attributes:
        use: ``overridden`` by a subclass of ours; ``called`` (of what is public, where the order or the defaults of the
            parameters matter); ``patched``: another stands in its place; ``read``: data, or a class.
        where: module and name.
        signature: its parameters and their defaults; of data the type.
    """

    use: Use
    where: str
    signature: str


def signature_of(where: str) -> str:
    """The parameters of a callable without their annotations; the type of anything else."""
    thing = resolve_name(where)
    if not callable(thing):
        return type(thing).__name__
    found = inspect.signature(thing)
    # Ray adds parameters of its own to the methods of a class that it has made an actor of.
    own = [parameter for name, parameter in found.parameters.items() if not name.startswith("_ray_")]
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in own]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


_TABLE: dict[tuple[Use, str], dict[str, str]] = {
    ("overridden", "verl.trainer.ppo.v1.trainer_base:PPOTrainer."): {
        "_init_resource_pool_mgr": "(self)",
    },
    ("overridden", "verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync."): {
        "on_init_end": "(self)",
    },
    ("overridden", "verl.workers.engine_workers:TrainingWorker."): {
        "__init__": "(self, config)",
        "set_loss_fn": "(self, loss_fn)",
        "train_mini_batch": "(self, data)",
        "save_checkpoint": "(self, local_path, hdfs_path=None, global_step=0, max_ckpt_to_keep=None)",
        "load_checkpoint": "(self, local_path, hdfs_path=None, del_local_after_load=False)",
    },
    ("overridden", "verl.workers.engine_workers:ActorRolloutRefWorker."): {
        "__init__": "(self, config, role, distillation_config=None, **kwargs)",
    },
    ("overridden", "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead."): {
        "forward_backward_batch": "(self, data, loss_function, forward_only=False)",
        "forward_step": "(self, micro_batch, loss_function, forward_only)",
        "prepare_model_inputs": "(self, micro_batch)",
        "get_per_tensor_param": "(self, layered_summon=False, base_sync_done=False, **kwargs)",
        "prepare_model_outputs": "(self, output, output_args, micro_batch, logits_processor_func)",
        "initialize": "(self)",
        "optimizer_step": "(self)",
        "_gradient_sync_context": "(self, *, is_last_micro_batch)",
        "_build_lora_module": "(self, module)",
        "_merged_lora_per_tensor_param": "(self)",
        "_build_optimizer": "(self, module)",
        "_build_module": "(self)",
        "_build_fsdp_module": "(self, module)",
    },
    ("overridden", "verl.utils.checkpoint.fsdp_checkpoint_manager:FSDPCheckpointManager."): {
        "load_checkpoint": "(self, local_path, hdfs_path=None, del_local_after_load=False)",
    },
    ("overridden", "verl.workers.rollout.replica:RolloutReplica."): {
        "launch_servers": "(self)",
    },
    ("overridden", "verl.workers.rollout.base:BaseRollout."): {
        "__init__": "(self, config, model_config, device_mesh, *args, **kwargs)",
        "resume": "(self, tags)",
        "release": "(self)",
        "update_weights": "(self, weights, wire_format='named_tensors', **kwargs)",
    },
    ("overridden", "verl.experimental.agent_loop.single_turn_agent_loop:SingleTurnAgentLoop."): {
        "__init__": "(self, *args, **kwargs)",
        "run": "(self, sampling_params, priority=0, **kwargs)",
    },
    ("overridden", "verl.experimental.agent_loop.tool_agent_loop:ToolAgentLoop."): {
        "run": "(self, sampling_params, priority=0, **kwargs)",
        "_handle_generating_state": "(self, agent_data, sampling_params, ignore_termination=False)",
        "_handle_processing_tools_state": "(self, agent_data)",
    },
    ("called", "verl.tools.function_tool:"): {
        "load_function_tools_from_path": "(path)",
    },
    ("read", "verl.experimental.agent_loop.tool_parser:ToolParser."): {
        "_registry": "dict",
    },
    ("called", "verl.trainer.ppo.v1.trainer_base:PPOTrainer."): {
        "__init__": "(self, config)",
        "init": "(self)",
        "_compute_old_log_prob": "(self, batch, metrics)",
        "_compute_ref_log_prob": "(self, batch, metrics)",
        "_update_actor": "(self, batch, metrics)",
        "_compute_metrics": "(self, batch, metrics, timing_raw, global_steps, epoch)",
        "_start_profiling": "(self)",
        "_stop_profiling": "(self)",
    },
    ("called", "verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync."): {
        "on_sample_end": "(self)",
    },
    ("called", "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer."): {
        "sample": "(self, global_steps, partition_id, batch_size)",
    },
    ("called", "verl.checkpoint_engine:CheckpointEngineManager."): {
        "update_weights": "(self, global_steps=None)",
    },
    ("called", "verl.trainer.ppo.v1:AgentLoopManagerTQ."): {
        "create": "(*args, **kwargs)",
        "generate_sequences": "(self, prompts)",
    },
    ("called", "verl.trainer.ppo.checkpoint_callback:CheckpointCallback."): {
        "on_save": "(self, trainer, global_step, checkpoint_dir, async_save=False, **kwargs)",
    },
    ("called", "verl.trainer.ppo.padding_utils:"): {
        "upsample_batch_to_divisible_size": "(batch, batch_multiple, eos_token_id)",
    },
    ("called", "verl.trainer.ppo.rollout_corr_helper:"): {
        "compute_rollout_correction_and_add_to_batch": "(batch, rollout_corr_config)",
        "_parse_rollout_rs_thresholds": "(options, threshold_spec)",
    },
    ("called", "verl.trainer.ppo.core_algos:"): {
        "get_adv_estimator_fn": "(name_or_enum)",
        "kl_penalty": "(logprob, ref_logprob, kl_penalty)",
        "AdaptiveKLController.update": "(self, current_kl, n_steps)",
        "compute_grpo_outcome_advantage": "(token_level_rewards, response_mask, index, epsilon=1e-06, norm_adv_by_std_in_grpo=True, config=None)",
        "compute_reinforce_plus_plus_outcome_advantage": "(token_level_rewards, response_mask, config=None, **kwargs)",
        "compute_reinforce_plus_plus_baseline_outcome_advantage": "(token_level_rewards, response_mask, index, epsilon=1e-06, config=None, **kwargs)",
        "compute_rloo_outcome_advantage": "(token_level_rewards, response_mask, index, epsilon=1e-06, config=None, **kwargs)",
        "compute_opo_outcome_advantage": "(token_level_rewards, response_mask, index, epsilon=1e-06, config=None, **kwargs)",
    },
    ("called", "verl.utils.dataset.rl_dataset:"): {
        "collate_fn": "(data_list)",
    },
    ("called", "verl.utils.fsdp_utils:"): {
        "merged_lora_context": "(actor, backup_adapters=False)",
        "normalize_peft_param_name": "(params)",
        "offload_fsdp_model_to_cpu": "(model, empty_cache=True)",
    },
    ("called", "verl.utils.model:"): {
        "convert_weight_keys": "(state_dict, model)",
    },
    ("called", "verl.workers.engine.fsdp.transformer_impl:"): {
        "_scale_logits_by_temperature": "(logits, temperature, *, is_unit_temperature)",
    },
    ("called", "verl.workers.utils.losses:"): {
        "ppo_loss": "(config, model_output, data, dp_group=None)",
    },
    ("called", "verl.workers.rollout.replica:RolloutReplicaRegistry."): {
        "register": "(name, loader)",
    },
    ("called", "verl.plugin.platform.platform_manager:PlatformRegistry."): {
        "register": "(platform)",
    },
    ("called", "verl.single_controller.base.worker:Worker."): {
        "_query_dispatch_info": "(self, mesh_name)",
    },
    ("patched", "verl.utils.torch_functional:"): {
        "logprobs_from_logits_v2": "(logits, labels)",
    },
    ("patched", "verl.workers.engine.fsdp.transformer_impl:"): {
        "FSDPCheckpointManager": "(model, optimizer=None, lr_scheduler=None, processing_class=None, checkpoint_config=None, trust_remote_code=False, **kwargs)",
        "logprobs_from_logits": "(logits, labels, inplace_backward=True)",
        "prepare_micro_batches": "(data, dp_group=None, num_batches_divided_by=None, same_micro_num_in_dp=True, min_num_micro_batch=None, use_dynamic_bsz_balance=True)",
    },
    ("patched", "transfer_queue.utils.zmq_utils:"): {
        "create_zmq_socket": "(ctx, socket_type, ip, identity=None)",
    },
    ("read", "verl.utils.torch_functional:"): {
        "entropy_from_logits": "(logits)",
    },
    ("read", "verl.workers.engine:EngineRegistry."): {
        "_engines": "dict",
    },
    ("read", "verl.workers.rollout.base:"): {
        "_ROLLOUT_REGISTRY": "dict",
    },
    ("read", "verl.workers.engine_workers:ActorRolloutRefWorker."): {
        "actor_worker_cls": "(config)",
        "ref_worker_cls": "(config)",
    },
}

CONTRACT = tuple(
    Clause(use, place + name, signature) for (use, place), names in _TABLE.items() for name, signature in names.items()
)
