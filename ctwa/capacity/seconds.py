"""How long a step takes, at stated shares of what the hardware could do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ctwa.capacity import memory, traffic
from ctwa.capacity.workload import Workload


@dataclass(frozen=True)
class Rates:
    """What share of the data sheet a run reaches.

    Attributes:
        compute: of the GPU's operations, in passes over long rows.
        bandwidth: of the GPU's memory, while tokens are sampled one after the other.
        network: of what a node can send.
    """

    compute: float = 0.4
    bandwidth: float = 0.5
    network: float = 0.7


DRIVER_RATE = 1.15e6
"""Response tokens a second that the driver's own work takes, on one thread: benchmarks/driver.py (docs/scaling.md)."""
PAIR_RATE = 2e6
"""Tokens of pairs a second that the driver makes rows of, on one thread: a rough figure, measured on a busy machine."""
QUEUE_RATE = 450e6
"""Bytes a second in and out of the transfer queue: benchmarks/queue_keys.py (docs/cluster.md)."""


def step(workload: Workload, rates: Rates) -> dict[str, float]:
    """Seconds of a step by phase; nothing overlaps, so that the network's are at the most.

    Args:
        workload: with a server that has room for a completion, where there is one.
        rates: reached.
    """
    return {
        "sampling": 0.0 if workload.has_pairs else sampling(workload, rates),
        "log-probabilities": log_probs(workload, rates, passes=workload.passes.log_probs),
        "update": operations(workload, *_update(workload)) / _speed(workload, rates),
        "between nodes": traffic.node_bytes(workload) / (_network(workload) * rates.network),
        "driver": driver(workload),
    }


def log_probs(workload: Workload, rates: Rates, *, passes: float = 1) -> float:
    """Of forward passes over the rows of a step without a gradient."""
    return operations(workload, passes, 0) / _speed(workload, rates)


def operations(workload: Workload, forwards: float, backwards: float) -> float:
    """Of passes over a step's tokens: a multiplication and an addition for each weight that a token meets.

    A backward pass takes two of a forward one, and one more where it computes activations anew. Attention meets half
    of the tokens of a row, twice.
    """
    shape, tokens = workload.shape, workload.num_rows * workload.row_tokens
    attention = (
        4 * (shape.num_layers - shape.num_state_layers) * shape.heads * shape.head_width * workload.row_tokens / 2
    )
    forward = tokens * (2 * shape.num_active_parameters + attention)
    return forward * (forwards + backwards * (3 if workload.checkpoints_activations else 2))


def sampling(workload: Workload, rates: Rates) -> float:
    """Token after token: a server reads weights, keys and values each time, or computes, if that is longer."""
    shape, cluster, served = workload.shape, workload.cluster, workload.served
    num_servers = cluster.num_gpus / served.tensor_parallel
    rows, mean = served.num_rows / num_servers, served.mean_response_tokens
    room = memory.rows_in_cache(workload, served.prompt_tokens + mean)
    at_once = max(1.0, min(rows, room, served.max_rows))
    weights = shape.num_parameters * served.number_bytes / served.tensor_parallel
    keys = at_once * memory.cache_token(workload) * (served.prompt_tokens + mean / 2)
    reading = (weights + keys) / (cluster.gpu.bandwidth * rates.bandwidth)
    computing = 2 * shape.num_active_parameters * at_once / served.tensor_parallel
    token = max(reading, computing / (cluster.gpu.flops * rates.compute))
    prompts = served.prompts * served.prompt_tokens * 2 * shape.num_active_parameters / _speed(workload, rates)
    return math.ceil(rows / at_once) * mean * token + prompts


def driver(workload: Workload) -> float:
    """The driver's own work, and what it waits for the queue, while all GPUs wait."""
    if workload.has_pairs:
        return workload.num_rows * workload.row_tokens / PAIR_RATE
    own = workload.served.num_rows * workload.served.mean_response_tokens / DRIVER_RATE
    return own + traffic.driver_bytes(workload) / QUEUE_RATE


def _update(workload: Workload) -> tuple[float, float]:
    passes = workload.passes
    return passes.forwards * passes.epochs, passes.backwards * passes.epochs


def _speed(workload: Workload, rates: Rates) -> float:
    return workload.cluster.num_gpus * workload.cluster.gpu.flops * rates.compute


def _network(workload: Workload) -> float:
    return workload.cluster.gpus_per_node * workload.cluster.gpu.network
