"""Our entries in verl's registries, made where they are used and checked when a process starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ctwa.engine.train import MultiObjectiveTrainer

TRANSFORMERS_ROLLOUT = "transformers"


def register_engines() -> None:
    """Put our FSDP engine in the place of verl's, and on the CPU, where verl has none.

    It is verl's own wherever a step does not look at the objectives' gradients.
    """
    from verl.workers.engine import EngineRegistry

    from ctwa.engine.verl.cpu_engine import CpuEngine
    from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine

    for backend in ("fsdp", "fsdp2"):
        EngineRegistry._engines["language_model"][backend] |= {"cuda": MultiObjectiveEngine, "cpu": CpuEngine}


def register_rollouts() -> None:
    """Offer the rollout on transformers beside verl's vLLM, SGLang and TensorRT-LLM."""
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    _ROLLOUT_REGISTRY[TRANSFORMERS_ROLLOUT, "async"] = "ctwa.engine.verl.rollout.transformers_rollout.WeightSender"
    RolloutReplicaRegistry.register(TRANSFORMERS_ROLLOUT, _load_transformers_replica)


def _load_transformers_replica() -> type:
    from ctwa.engine.verl.rollout.transformers_rollout import TransformersReplica

    return TransformersReplica


def start_servers(config: DictConfig) -> list[Any]:
    """Start the transformers servers, where they complete the prompts: they need no training workers to be there.

    Returns:
        Their handles, by rank; a server ends when nobody holds its handle. Empty for every other rollout.
    """
    rollout = config.actor_rollout_ref.rollout
    if rollout.name != TRANSFORMERS_ROLLOUT:
        return []
    from ctwa.engine.verl.rollout.transformers_rollout import start_server

    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    return [start_server(rank, rollout, config.actor_rollout_ref.model) for rank in range(num_ranks)]


def build_generation(config: DictConfig, trainer: MultiObjectiveTrainer, servers: list[Any]) -> Any:
    """What completes prompts: batches on the transformers servers, or verl's agent loops for every other rollout."""
    if servers:
        from ctwa.engine.verl.rollout.batches import BatchGeneration

        return BatchGeneration(config, trainer.tokenizer, servers)
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ

    return AgentLoopManagerTQ.create(
        config=config, llm_client=trainer.get_llm_client(), teacher_client=None, reward_loop_worker_handles=None
    )
