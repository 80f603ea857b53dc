"""The transformers rollout as verl sees it: the replica that starts a server, the worker's end that sends weights."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import ray
import torch
from verl.plugin.platform import get_platform
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica

from ctwa.engine.verl.rollout.transformers_server import TransformersServer, weight_bytes


def _server_name(replica_rank: int) -> str:
    return f"transformers_server_{replica_rank}"


def start_server(replica_rank: int, config: Any, model: Any, device: str) -> Any:
    """Start a server's process; it ends when the first handle of it, that of its start, is gone.

    Args:
        replica_rank: of the training rank that it completes prompts for, whose GPU it shares where there is one.
        config: verl's, of the rollout.
        model: verl's config of the model.
        device: the trainer's, ``cpu`` or what torch calls its GPUs.
    """
    variables = {}
    if device != "cpu":
        # Ray hides every GPU from an actor that asks for none, and the trainer has asked for all of them.
        variables = dict.fromkeys(get_platform().ray_noset_envvars(), "1")
        # On a CPU the run says how many threads; beside a GPU they would only wait for it.
        variables["OMP_NUM_THREADS"] = "1"
    return (
        ray.remote(TransformersServer)
        .options(name=_server_name(replica_rank), scheduling_strategy="SPREAD", runtime_env={"env_vars": variables})
        .remote(
            model_path=model.path,
            dtype=config.dtype,
            max_length=config.max_model_len or config.prompt_length + config.response_length,
            max_rows=config.max_num_seqs,
            trust_remote_code=model.trust_remote_code,
            device=device if device == "cpu" else f"{device}:{replica_rank}",
        )
    )


class TransformersReplica(RolloutReplica):
    """One server process, with one copy of the model, for each training rank."""

    async def launch_servers(self) -> None:
        """Take the server that is starting; verl calls this once the training workers are up."""
        self.servers = [ray.get_actor(_server_name(self.replica_rank))]
        # verl's router alone reads `_server_handle`. It stays None: with a handle, the process of the router that
        # stands there (NoRouter) would import torch, for nothing.
        self._server_address = _server_name(self.replica_rank)


class WeightSender(BaseRollout):
    """The worker's end: hands the policy's weights to its replica's server through Ray's shared memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._server: Any = None

    async def resume(self, tags: list[str]) -> None:
        """The server keeps its memory."""

    async def release(self) -> None:
        """The server keeps its memory."""

    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        wire_format: str = "named_tensors",
        *,
        peft_config: Any = None,
        **_: Any,
    ) -> None:
        """Send every parameter; returns when the server uses them.

        Raises:
            ValueError: the weights are LoRA adapters, or not whole tensors.
        """
        if wire_format != "named_tensors":
            raise ValueError(f"the transformers rollout takes named tensors, not {wire_format!r}")
        if peft_config is not None:
            raise ValueError(
                "the transformers rollout has no LoRA adapters: set actor_rollout_ref.model.lora.merge=True, "
                "or use the vllm rollout"
            )
        if self._server is None:
            self._server = ray.get_actor(_server_name(int(os.environ["RANK"])))
        await self._server.load_weights.remote({name: weight_bytes(tensor) for name, tensor in weights})
