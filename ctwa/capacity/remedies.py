"""Whether a step fits into its GPUs, and which settings to change where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice

from ctwa.capacity import memory
from ctwa.capacity.hardware import NODE, Cluster
from ctwa.capacity.shape import shares_heads
from ctwa.capacity.workload import Workload

_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
_MODEL = "actor_rollout_ref.model"
_BATCH = "data.train_batch_size"
_OVER_ALL = {f"{_ACTOR}.fsdp_config.fsdp_size": "-1"}
GPUS_OPTION = "--gpus"
_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_ADAPTER_RANK = 32
_MOST_NODES = 128


@dataclass(frozen=True)
class Remedy:
    """A way to take less memory.

    Attributes:
        settings: what is to be written, by key; `--gpus` is one.
        workload: what the step is with them.
    """

    settings: Mapping[str, str]
    workload: Workload

    def __str__(self) -> str:
        """As it is written on a command line."""
        return " ".join(f"{key}{' ' if key == GPUS_OPTION else '='}{value}" for key, value in self.settings.items())

    def then(self, other: Remedy) -> Remedy:
        """Both, where the other begins with this one's step."""
        return Remedy({**self.settings, **other.settings}, other.workload)


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


def remedies(workload: Workload, is_taken: Callable[[Mapping[str, str]], bool] = lambda _: True) -> list[Remedy]:
    """Ways to make it fit: each one setting, where one is enough; else several together, and at last more GPUs.

    Nothing where it fits, or where even many GPUs would not do.

    Args:
        workload: the step.
        is_taken: whether the run may have such settings beside its own: of that a workload tells too little.
    """
    if not faults(workload):
        return []

    def first_of(ways: Iterable[Remedy]) -> list[Remedy]:
        enough = (way for way in ways if not faults(way.workload) and is_taken(way.settings))
        return list(islice(enough, 1))

    # Of a setting with several values the first that is enough.
    if alone := [way for make in _ALONE for way in first_of(make(workload))]:
        return alone
    together = Remedy({}, workload)
    for make in _TOGETHER:
        less = (each for each in make(together.workload) if _excess(each.workload) < _excess(together.workload))
        together = together.then(next(less, Remedy({}, together.workload)))
        if enough := first_of([together]):
            return enough
    return first_of(together.then(more) for more in _more_gpus(together.workload))


def _excess(workload: Workload) -> float:
    """Bytes that are too many, over both phases; and a missing cache."""
    has = workload.cluster.gpu.memory
    over = [sum(parts.values()) - has for parts in (memory.updating(workload), memory.sampling(workload))]
    missing = 0.0 if workload.sampling is None else max(0.0, -memory.cache(workload))
    return sum(max(0.0, each) for each in over) + missing


def _checkpointing(workload: Workload) -> Iterator[Remedy]:
    if not workload.checkpoints_activations:
        setting = {f"{_MODEL}.enable_gradient_checkpointing": "true"}
        yield Remedy(setting, replace(workload, checkpoints_activations=True))


def _short_micro_batch(workload: Workload) -> Iterator[Remedy]:
    counted = {} if workload.counts_tokens else {f"{_ACTOR}.use_dynamic_bsz": "true"}
    sizes: list[int] = []
    while (tokens := (sizes[-1] if sizes else workload.micro_tokens) // 2) > workload.longest:
        sizes.append(tokens)
    if workload.micro_tokens > workload.longest:
        sizes.append(workload.longest)
    for tokens in sizes:
        settings = counted | {f"{_ACTOR}.ppo_max_token_len_per_gpu": str(tokens)}
        yield Remedy(settings, replace(workload, micro_tokens=tokens, counts_tokens=True))


def _sharding(workload: Workload) -> Iterator[Remedy]:
    if workload.shards < workload.cluster.num_gpus:
        yield Remedy(_OVER_ALL, replace(workload, shards=workload.cluster.num_gpus))


def _offloading(workload: Workload) -> Iterator[Remedy]:
    if workload.sampling is None:  # during the update everything is on the GPU
        return
    optimizer = {f"{_ACTOR}.fsdp_config.optimizer_offload": "true"}
    if not workload.offloads_optimizer:
        yield Remedy(optimizer, replace(workload, offloads_optimizer=True))
    if not workload.offloads_weights:
        both = replace(workload, offloads_optimizer=True, offloads_weights=True)
        yield Remedy(optimizer | {f"{_ACTOR}.fsdp_config.param_offload": "true"}, both)


def _servers(workload: Workload) -> Iterator[Remedy]:
    """Another share of the memory for the server; or servers of several GPUs."""
    if workload.sampling is None:
        return
    for size in _server_sizes(workload):
        for share in _SHARES:
            served = replace(size.workload.served, memory_share=share)
            of_share = Remedy(
                {f"{_ROLLOUT}.gpu_memory_utilization": f"{share:g}"}, replace(size.workload, sampling=served)
            )
            yield size.then(of_share)


def _server_sizes(workload: Workload) -> Iterator[Remedy]:
    """Servers of as many GPUs as they have, or of more of a node, which can share the model's heads of attention."""
    if workload.sampling is None:
        yield Remedy({}, workload)
        return
    shape, has, of_node = workload.shape, workload.sampling.tensor_parallel, workload.cluster.gpus_per_node
    for size in range(has, of_node + 1):
        if of_node % size == 0 and shares_heads(shape.heads, shape.key_heads, size):
            setting = {f"{_ROLLOUT}.tensor_model_parallel_size": str(size)} if size > has else {}
            yield Remedy(setting, replace(workload, sampling=replace(workload.sampling, tensor_parallel=size)))


def _adapter(workload: Workload) -> Iterator[Remedy]:
    """One beside every matrix; or beside those alone that have a name of their own, as experts have none."""
    shape, rank = workload.shape, {f"{_MODEL}.lora_rank": str(_ADAPTER_RANK)}
    if workload.num_trained != shape.num_parameters or not shape.linear_widths:
        return
    yield Remedy(rank, replace(workload, num_trained=shape.adapter_parameters(_ADAPTER_RANK)))
    names = sorted({name.rpartition(".")[2] for name, _, _ in shape.linear_widths})
    num = shape.adapter_parameters(_ADAPTER_RANK, names)
    yield Remedy(rank | {f"{_MODEL}.target_modules": f"[{','.join(names)}]"}, replace(workload, num_trained=num))


def _more_gpus(workload: Workload) -> Iterator[Remedy]:
    """From few to many: first those of one node, then nodes; with other servers where that may be needed."""
    gpu, had = workload.cluster.gpu, workload.cluster.num_gpus
    per_node = max(workload.cluster.gpus_per_node, NODE)
    sizes = [Cluster(gpu, 1, num) for num in (2, 4, 8) if num <= per_node]
    nodes = 2
    while nodes <= _MOST_NODES:
        sizes.append(Cluster(gpu, nodes, per_node))
        nodes *= 2
    for cluster in sizes:
        if cluster.num_gpus > had:
            larger = _dealt_out(replace(workload, cluster=cluster, shards=cluster.num_gpus))
            for servers in chain(_server_sizes(larger.workload), _servers(larger.workload)):
                # Another number of shards may be written, be it that of the GPUs there were.
                for sharded in ({}, _OVER_ALL) if workload.shards == had else (_OVER_ALL,):
                    yield Remedy({GPUS_OPTION: str(cluster)} | sharded, workload).then(larger).then(servers)


def _dealt_out(workload: Workload) -> Remedy:
    """As many times the batch as its mini-batches need, so that every rank has as many rows of one."""
    num_ranks = workload.cluster.num_gpus // workload.sequence_parallel
    times = num_ranks // math.gcd(workload.mini_batch, num_ranks)
    if times == 1:
        return Remedy({}, workload)
    larger = replace(workload, num_rows=workload.num_rows * times, mini_batch=workload.mini_batch * times)
    if workload.has_pairs:
        return Remedy({_BATCH: str(larger.num_rows // 2)}, larger)
    served = replace(workload.served, prompts=workload.served.prompts * times)
    mini = {f"{_ACTOR}.ppo_mini_batch_size": str(larger.mini_batch // served.completions)}
    return Remedy({_BATCH: str(served.prompts)} | mini, replace(larger, sampling=served))


_ALONE = (_checkpointing, _short_micro_batch, _sharding, _offloading, _servers, _adapter, _more_gpus)
_TOGETHER = (_checkpointing, _short_micro_batch, _offloading, _servers)
"""What is tried by itself, and one upon the other."""
