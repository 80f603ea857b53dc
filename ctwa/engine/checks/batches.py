"""Whether prompts, batches and tokens divide over the ranks."""

from __future__ import annotations

import math

from omegaconf import DictConfig

from ctwa.errors import CtwaError


def attention_of(config: DictConfig) -> str:
    """What the trainer's model computes attention with; verl's default is flash-attn."""
    own = config.actor_rollout_ref.model.get("override_config") or {}
    return str(own.get("attn_implementation") or "flash_attention_2")


def sequence_parallel_size(config: DictConfig) -> int:
    """How many ranks share a row: they have parts of it, and heads of its attention."""
    actor = config.actor_rollout_ref.actor
    size: int = actor.get("ulysses_sequence_parallel_size") or 1
    if size == 1:  # verl's older name, which wins where it is given
        size = actor.fsdp_config.get("ulysses_sequence_parallel_size") or 1
    return size


def num_data_ranks(config: DictConfig) -> int:
    """How many ranks the rows are dealt out to: with sequence parallelism the ranks of a group share theirs.

    Raises:
        CtwaError: the ranks do not make whole groups, or attention would look at a rank's part of the rows alone.
    """
    model, shared_by = config.actor_rollout_ref.model, sequence_parallel_size(config)
    num_ranks: int = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if shared_by == 1:
        return num_ranks
    key = f"actor_rollout_ref.actor.ulysses_sequence_parallel_size={shared_by}"
    if num_ranks % shared_by:
        raise CtwaError(
            f"{key} does not divide the {num_ranks} ranks of trainer.nnodes x trainer.n_gpus_per_node: write a divisor"
        )
    if not model.use_remove_padding:
        raise CtwaError(f"{key} splits packed rows: write actor_rollout_ref.model.use_remove_padding=true")
    known = "sdpa" if config.trainer.device == "cpu" else "flash_attention_2"
    attention = attention_of(config)
    if not attention.startswith(known.removesuffix("_2")):
        raise CtwaError(
            f"{key}: with the attention {attention!r} each rank would look at its own part of a row alone: write "
            f"++actor_rollout_ref.model.override_config.attn_implementation={known}"
        )
    return num_ranks // shared_by


def check_batches(config: DictConfig) -> None:
    """See that prompts, mini-batches, micro-batches and ranks go into each other."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    num_ranks = num_data_ranks(config)
    prompts, mini = config.data.train_batch_size, actor.ppo_mini_batch_size
    if rollout.n < 2:
        raise CtwaError(
            f"actor_rollout_ref.rollout.n={rollout.n}: covariances within a prompt need at least 2 completions of it; "
            "write 2 or more"
        )
    if prompts % mini:
        raise CtwaError(
            f"data.train_batch_size={prompts} is not a multiple of actor_rollout_ref.actor.ppo_mini_batch_size={mini}: "
            f"write {mini * math.ceil(prompts / mini)} or another multiple"
        )
    if prompts % (config.data.gen_batch_size or prompts):
        raise CtwaError(
            f"data.train_batch_size={prompts} is not a multiple of data.gen_batch_size={config.data.gen_batch_size}, "
            "by which the prompts of a step are read: write a divisor, or null"
        )
    if (mini * rollout.n) % num_ranks:
        raise CtwaError(
            f"a mini-batch of {mini} prompts x {rollout.n} completions does not divide over {num_ranks} ranks: "
            "change ppo_mini_batch_size, rollout.n or trainer.n_gpus_per_node"
        )
    if not actor.use_dynamic_bsz:
        per_rank, micro = mini * rollout.n // num_ranks, actor.ppo_micro_batch_size_per_gpu
        if micro is None and actor.ppo_micro_batch_size is None:
            raise CtwaError(
                "actor_rollout_ref.actor.use_dynamic_bsz=false: write how many rows a micro-batch has, "
                f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={per_rank} or a divisor of it; or true"
            )
        if micro is not None and micro < per_rank and per_rank % micro:
            raise CtwaError(
                f"a rank's {per_rank} rows of a mini-batch are not a multiple of ppo_micro_batch_size_per_gpu={micro}: "
                f"write a divisor of {per_rank}"
            )


def check_groups_of_ranks(config: DictConfig) -> None:
    """See that the ranks make whole groups, of shards and of servers."""
    rollout, num_ranks = config.actor_rollout_ref.rollout, config.trainer.nnodes * config.trainer.n_gpus_per_node
    of_server = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    for keys, size in (
        ("actor.fsdp_config.fsdp_size", config.actor_rollout_ref.actor.fsdp_config.fsdp_size),
        (f"rollout.({' x '.join(of_server)})", math.prod(rollout[key] for key in of_server)),
    ):
        if size > 0 and num_ranks % size:
            raise CtwaError(
                f"actor_rollout_ref.{keys}={size} does not divide the {num_ranks} ranks of trainer.nnodes x "
                "trainer.n_gpus_per_node: write a divisor"
            )
    size = rollout.tensor_model_parallel_size
    if config.trainer.n_gpus_per_node % size:
        raise CtwaError(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={size} does not divide "
            f"the GPUs of a node, trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}: write a divisor"
        )


def check_token_budgets(config: DictConfig, longest: int, what: str) -> None:
    """See that the longest row of a batch (or pair of rows) fits into a micro-batch that is measured in tokens.

    Raises:
        CtwaError: the key of the budget, and what to write.
    """
    node = config.actor_rollout_ref
    parallel = config.trainer.nnodes * config.trainer.n_gpus_per_node // num_data_ranks(config)
    for part, dynamic, budget in (
        ("actor", "use_dynamic_bsz", "ppo_max_token_len_per_gpu"),
        ("rollout", "log_prob_use_dynamic_bsz", "log_prob_max_token_len_per_gpu"),
        ("ref", "log_prob_use_dynamic_bsz", "log_prob_max_token_len_per_gpu"),
    ):
        if node[part][dynamic] and node[part][budget] * parallel < longest:
            raise CtwaError(
                f"actor_rollout_ref.{part}.{budget}={node[part][budget]} is less than the longest row can have, {what} "
                f"= {longest}: write {math.ceil(longest / parallel)} or more, or allow less"
            )
