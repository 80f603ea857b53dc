"""Whether a step fits into its GPUs, and which settings to change where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ctwa.capacity import memory
from ctwa.capacity.hardware import NODE, Cluster
from ctwa.capacity.workload import Workload

_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_ADAPTER_RANK = 32
_MOST_NODES = 128


@dataclass(frozen=True)
class Remedy:
    """A setting that takes less memory, and what the step is with it."""

    setting: str
    workload: Workload


def faults(workload: Workload) -> list[str]:
    """What does not fit, in words; nothing where all does."""
    has = workload.cluster.gpu.memory
    found = [
        f"{when} a GPU holds {total / 1e9:.1f} GB of {has / 1e9:.0f}"
        for when, parts in (
            ("while the policy is updated", memory.updating(workload)),
            ("while prompts are completed", memory.sampling(workload)),
        )
        if (total := sum(parts.values())) > has
    ]
    if workload.sampling is None:
        return found
    if memory.cache(workload) <= 0:
        found.append(f"the weights do not fit into a server's share of {workload.sampling.memory_share:.0%}")
    elif not memory.cached_rows(workload):
        found.append("a server has no room for the keys and values of one completion of full length")
    return found


def remedies(workload: Workload) -> list[list[Remedy]]:
    """Ways to make it fit: each one setting, where one is enough; else several together, and at last more GPUs.

    Nothing where it fits, or where even many GPUs would not do.
    """
    if not faults(workload):
        return []
    alone = [[remedy] for remedy in _single(workload) if not faults(remedy.workload)]
    if alone:
        return alone
    together: list[Remedy] = []
    for make in (_checkpointing, _short_micro_batch, _offloading, _servers):
        for remedy in make(together[-1].workload if together else workload):
            if _excess(remedy.workload) < _excess(together[-1].workload if together else workload):
                together.append(remedy)
                break
        if together and not faults(together[-1].workload):
            return [together]
    return [[*together, remedy] for remedy in _more_gpus(together[-1].workload if together else workload)]


def _excess(workload: Workload) -> float:
    """Bytes that are too many, over both phases; and a missing cache."""
    has = workload.cluster.gpu.memory
    over = [sum(parts.values()) - has for parts in (memory.updating(workload), memory.sampling(workload))]
    missing = 0.0 if workload.sampling is None else max(0.0, -memory.cache(workload))
    return sum(max(0.0, each) for each in over) + missing


def _single(workload: Workload) -> Iterator[Remedy]:
    """The settings that are tried by themselves: of those with several values the first that is enough."""
    for make in (_checkpointing, _short_micro_batch, _sharding, _offloading, _servers, _adapter, _more_gpus):
        tried = list(make(workload))
        yield from [each for each in tried if not faults(each.workload)][:1]


def _checkpointing(workload: Workload) -> Iterator[Remedy]:
    if not workload.checkpoints_activations:
        setting = "actor_rollout_ref.model.enable_gradient_checkpointing=true"
        yield Remedy(setting, replace(workload, checkpoints_activations=True))


def _short_micro_batch(workload: Workload) -> Iterator[Remedy]:
    counted = "" if workload.counts_tokens else f"{_ACTOR}.use_dynamic_bsz=true "
    sizes: list[int] = []
    while (tokens := (sizes[-1] if sizes else workload.micro_tokens) // 2) > workload.longest:
        sizes.append(tokens)
    if workload.micro_tokens > workload.longest:
        sizes.append(workload.longest)
    for tokens in sizes:
        setting = f"{counted}{_ACTOR}.ppo_max_token_len_per_gpu={tokens}"
        yield Remedy(setting, replace(workload, micro_tokens=tokens, counts_tokens=True))


def _sharding(workload: Workload) -> Iterator[Remedy]:
    if workload.shards < workload.cluster.num_gpus:
        yield Remedy(f"{_ACTOR}.fsdp_config.fsdp_size=-1", replace(workload, shards=workload.cluster.num_gpus))


def _offloading(workload: Workload) -> Iterator[Remedy]:
    if workload.sampling is None:  # during the update everything is on the GPU
        return
    optimizer = f"{_ACTOR}.fsdp_config.optimizer_offload=true"
    if not workload.offloads_optimizer:
        yield Remedy(optimizer, replace(workload, offloads_optimizer=True))
    if not workload.offloads_weights:
        both = replace(workload, offloads_optimizer=True, offloads_weights=True)
        yield Remedy(f"{optimizer} {_ACTOR}.fsdp_config.param_offload=true", both)


def _servers(workload: Workload) -> Iterator[Remedy]:
    """Another share of the memory for the server; or servers of several GPUs."""
    served = workload.sampling
    if served is None:
        return
    parallel = served.tensor_parallel
    while parallel <= workload.cluster.gpus_per_node:
        spread = f" {_ROLLOUT}.tensor_model_parallel_size={parallel}" * (parallel > served.tensor_parallel)
        for share in _SHARES:
            yield Remedy(
                f"{_ROLLOUT}.gpu_memory_utilization={share:g}{spread}",
                replace(workload, sampling=replace(served, memory_share=share, tensor_parallel=parallel)),
            )
        parallel *= 2


def _adapter(workload: Workload) -> Iterator[Remedy]:
    if workload.num_trained == workload.shape.num_parameters and workload.shape.linear_widths:
        num = workload.shape.adapter_parameters(_ADAPTER_RANK)
        yield Remedy(f"actor_rollout_ref.model.lora_rank={_ADAPTER_RANK}", replace(workload, num_trained=num))


def _more_gpus(workload: Workload) -> Iterator[Remedy]:
    """The fewest that are enough: first those of one node, then nodes; with servers of several where needed."""
    gpu, had = workload.cluster.gpu, workload.cluster.num_gpus
    per_node = max(workload.cluster.gpus_per_node, NODE)
    sizes = [Cluster(gpu, 1, num) for num in (2, 4, 8) if had < num <= per_node]
    nodes = 2
    while nodes <= _MOST_NODES:
        sizes.append(Cluster(gpu, nodes, per_node))
        nodes *= 2
    for cluster in sizes:
        if cluster.num_gpus <= had:
            continue
        larger = replace(workload, cluster=cluster, shards=cluster.num_gpus)
        for remedy in (Remedy(f"--gpus {cluster}", larger), *_spread(larger)):
            if not faults(remedy.workload):
                yield remedy
                return


def _spread(workload: Workload) -> Iterator[Remedy]:
    """Its GPUs with servers of several of them."""
    served, cluster = workload.sampling, workload.cluster
    if served is None:
        return
    parallel = 2 * served.tensor_parallel
    while parallel <= cluster.gpus_per_node:
        setting = f"--gpus {cluster} {_ROLLOUT}.tensor_model_parallel_size={parallel}"
        yield Remedy(setting, replace(workload, sampling=replace(served, tensor_parallel=parallel)))
        parallel *= 2
