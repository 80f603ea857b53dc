"""Sections and values of configurations that several tests of the engine name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

Changed = Callable[[dict[str, Any]], DictConfig]

ACTOR, ROLLOUT, MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))
OPTIM = f"{ACTOR}.optim"
PACKED = {"actor_rollout_ref.model.use_remove_padding": True}  # which sequence parallelism splits
WORKER = "worker_extension_cls"
LIVE_WEIGHTS = {WORKER: "ctwa.engine.verl.rollout.vllm_cpu.LiveWeights"}
