"""Our entries in verl's registries, made where they are used and checked when a process starts."""

from __future__ import annotations

TRANSFORMERS_ROLLOUT = "transformers"


def register_engines() -> None:
    """Offer verl's FSDP engine on the CPU (verl registers it for CUDA and NPU only)."""
    from verl.workers.engine import EngineRegistry, FSDPEngineWithLMHead

    for backend in ("fsdp", "fsdp2"):
        devices = EngineRegistry._engines["language_model"][backend]
        devices.setdefault("cpu", FSDPEngineWithLMHead)


def register_rollouts() -> None:
    """Offer the rollout on transformers beside verl's vLLM, SGLang and TensorRT-LLM."""
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    _ROLLOUT_REGISTRY[TRANSFORMERS_ROLLOUT, "async"] = "ctwa.engine.rollout.transformers_rollout.WeightSender"
    RolloutReplicaRegistry.register(TRANSFORMERS_ROLLOUT, _load_transformers_replica)


def _load_transformers_replica() -> type:
    from ctwa.engine.rollout.transformers_rollout import TransformersReplica

    return TransformersReplica
