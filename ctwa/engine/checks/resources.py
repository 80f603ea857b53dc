"""Whether the machine, or the cluster, has what a run asks Ray for: verl would wait for ever for what is missing."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from omegaconf import DictConfig

from ctwa.engine.checks.batches import attention_of
from ctwa.engine.ray_security import address_of, check_auth_mode
from ctwa.errors import CtwaError, shown


def uses_vllm(config: DictConfig) -> bool:
    """Whether a run that samples completes its prompts with vLLM."""
    return bool(config.actor_rollout_ref.rollout.name == "vllm")


def uses_flash_attention(config: DictConfig) -> bool:
    """Whether the trainer's model computes attention with the package flash-attn, which needs a GPU."""
    return bool(config.trainer.device == "cuda" and attention_of(config) == "flash_attention_2")


def check_machine(config: DictConfig, *, samples: bool = True) -> None:
    """See, where the run starts Ray itself, that this machine has what the run will ask of it, and lets nobody in.

    Args:
        config: the resolved config.
        samples: whether the run completes prompts.
    """
    ray_init = config.ray_kwargs.ray_init
    if address_of(ray_init) != "local":
        _check_joined(ray_init)
        return  # the machines of another's Ray: asked when it has answered
    if not config.ctwa.trust_network:
        check_auth_mode()
    num_gpus = ray_init.get("num_gpus")
    if config.trainer.device == "cuda":
        import torch

        found = torch.cuda.device_count()
        if found < config.trainer.n_gpus_per_node:
            raise CtwaError(
                f"trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}, but torch finds {found} GPUs here: write "
                + (f"trainer.n_gpus_per_node={found}" if found else "engine=cpu, or start where there are GPUs")
            )
        num_gpus = found if num_gpus is None else num_gpus
        _check_installed(config, samples=samples)
    num_cpus = (os.cpu_count() or 1) if ray_init.num_cpus is None else ray_init.num_cpus
    check_placement([{"CPU": num_cpus, "GPU": num_gpus or 0}], config)


_ADDRESS = re.compile(r"auto|(\[[^\s\[\]/]+\]|[^\s\[\]/]+):(?P<port>\d{1,5})")
_OF_THE_START = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")
"""What ``ray.init`` takes for a Ray that it starts, and refuses for one that it joins."""


def _check_joined(ray_init: DictConfig) -> None:
    """Refuse what can be no address of a Ray that runs, and what is said of one that would be started."""
    address = address_of(ray_init)
    given = f"{'ray_kwargs.ray_init.address' if ray_init.get('address') else 'RAY_ADDRESS'}={address!r}"
    if address.startswith("ray://"):
        raise CtwaError(
            f"{given} is Ray Client's, by which a run cannot join: start it on a node of that cluster, and write "
            "HOST:PORT as `ray start` has it"
        )
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"] or 1) < 2**16:
        raise CtwaError(
            f"{given} is no address of a Ray: write HOST:PORT, or auto; or leave it out, for a Ray of the run's own"
        )
    if wrong := [name for name in _OF_THE_START if ray_init.get(name) is not None]:
        raise CtwaError(
            f"ray_kwargs.ray_init.{wrong[0]}={shown(ray_init[wrong[0]])} is for a Ray that the run starts, and {given} "
            f"has one joined: write {' '.join(f'ray_kwargs.ray_init.{name}=null' for name in wrong)}"
        )


def _check_installed(config: DictConfig, *, samples: bool) -> None:
    """The packages that only some GPU runs need: verl would miss them minutes later."""
    if samples and uses_vllm(config) and find_spec("vllm") is None:
        raise CtwaError(
            "generation=vllm needs vLLM, which is not installed: run pip install 'ctwa[gpu]' (docs/install.md), or "
            "write another generation"
        )
    if uses_flash_attention(config) and find_spec("flash_attn") is None:
        raise CtwaError(
            "the model's attention is flash_attention_2, and flash-attn is not installed: run pip install "
            "--no-build-isolation flash-attn==2.8.3 (docs/install.md), or write "
            "++actor_rollout_ref.model.override_config.attn_implementation=sdpa "
            "actor_rollout_ref.model.use_remove_padding=false"
        )


def check_resources(config: DictConfig) -> None:
    """Compare what the run will ask of Ray's nodes with what they have: verl waits for ever for what is missing.

    Raises:
        CtwaError: the resource, how much is there, how much is needed.
    """
    import ray  # not needed, and slow to import, where only the config is checked

    check_placement([node["Resources"] for node in ray.nodes() if node["Alive"]], config)


CPUS_PER_RANK = 3
"""verl's: each bundle of a placement group has room for three workers."""


def check_placement(nodes: Sequence[Mapping[str, float]], config: DictConfig) -> None:
    """See whether the ranks fit on the nodes: those of a node come as one group, whole and on one node, or never.

    Beside the groups stand the transfer queue's processes, one CPU each and the storage dealt out to the nodes in turn,
    and on each node servers and agent loops, of which each wants a CPU while it is placed and none after that.

    Args:
        nodes: of each the resources, as Ray has them.
        config: the resolved config; its transfer queue is enabled where the run uses one.

    Raises:
        CtwaError: the resource, how much is there, how much is needed.
    """
    trainer, storage = config.trainer, 0
    if config.transfer_queue.get("enable"):
        storage = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    num_ranks, of_node = trainer.nnodes * trainer.n_gpus_per_node, trainer.n_gpus_per_node
    queue = storage + 1 if storage else 0  # its controller
    placing = 1
    needed = {"GPU": num_ranks, "CPU": CPUS_PER_RANK * num_ranks + queue + placing}
    hints = {"GPU": "ray_kwargs.ray_init.num_gpus, or trainer.n_gpus_per_node", "CPU": "ray_kwargs.ray_init.num_cpus"}
    for name, amount in needed.items():
        available = sum(node.get(name, 0) for node in nodes)
        if available < amount:
            raise CtwaError(f"Ray has {available:g} {name} but the run needs {amount:g}: change {hints[name]}")
    poorest = min(node.get("CPU", 0) for node in nodes)
    if storage >= len(nodes) and poorest < storage // len(nodes):
        raise CtwaError(
            f"one of Ray's nodes has {poorest:g} CPU, and the transfer queue puts some of its {storage} processes, of "
            "one CPU each, on every node: start that node with more --num-cpus"
        )
    share = math.ceil(queue / len(nodes)) + placing
    groups = [
        int(min(node.get("GPU", 0) // of_node, max(node.get("CPU", 0) - share, 0) // (CPUS_PER_RANK * of_node)))
        for node in nodes
    ]
    if sum(groups) < trainer.nnodes:
        table = ", ".join(f"{node.get('GPU', 0):g} GPU and {node.get('CPU', 0):g} CPU" for node in nodes)
        raise CtwaError(
            f"trainer.n_gpus_per_node={of_node} asks for {of_node} GPU and {CPUS_PER_RANK * of_node} CPU on one node, "
            f"{trainer.nnodes} times (trainer.nnodes), and {share} CPU of each node for the transfer queue and for "
            f"starting servers; Ray's nodes have {table}, which is room for {sum(groups)}: write nnodes and "
            "n_gpus_per_node as the nodes are, or start Ray's nodes with more --num-cpus"
        )
