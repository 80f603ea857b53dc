"""Our entries in verl's registries."""

from __future__ import annotations

TRANSFORMERS_ROLLOUT = "transformers"


def install() -> None:
    """Make our engines and rollouts known to verl in this process.

    The driver of a run that samples calls it, and every worker that holds the policy.
    """
    register_engines()
    _register_rollouts()
    _register_losses()


def register_engines() -> None:
    """Put our FSDP engine, and what saves and loads its checkpoints, in the place of verl's; on the CPU verl has none.

    It is verl's own wherever a step does not look at the objectives' gradients.
    """
    from verl.workers.engine import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl

    from ctwa.engine.verl.cpu_engine import CpuEngine
    from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine
    from ctwa.engine.verl.resharding import AnyRanks

    transformer_impl.FSDPCheckpointManager = AnyRanks
    for backend in ("fsdp", "fsdp2"):
        EngineRegistry._engines["language_model"][backend] |= {"cuda": MultiObjectiveEngine, "cpu": CpuEngine}


def _register_rollouts() -> None:
    """Offer the rollout on transformers beside verl's, and send vLLM's weights by a socket of the run's."""
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    _ROLLOUT_REGISTRY["vllm", "async"] = "ctwa.engine.verl.rollout.vllm_weights.Sender"
    _ROLLOUT_REGISTRY[TRANSFORMERS_ROLLOUT, "async"] = "ctwa.engine.verl.rollout.transformers_rollout.WeightSender"
    RolloutReplicaRegistry.register(TRANSFORMERS_ROLLOUT, _load_transformers_replica)


def _register_losses() -> None:
    """Put the loss that does not depend on the packing of rows in the place of verl's that does."""
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    from ctwa.engine.policy_loss import global_geo_mean

    POLICY_LOSS_REGISTRY["geo_mean"] = global_geo_mean


def _load_transformers_replica() -> type:
    from ctwa.engine.verl.rollout.transformers_rollout import TransformersReplica

    return TransformersReplica
