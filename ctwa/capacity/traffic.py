"""Bytes of a step that cross the driver, and those that cross from node to node."""

from __future__ import annotations

from dataclasses import dataclass

from ctwa.capacity.workload import Workload

GATHERED_BYTES = 2
"""Of a weight when it is gathered for a pass: bf16."""
REDUCED_BYTES = 4
"""Of a gradient when it is added up over ranks: float32, whatever the passes compute in."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of a step.

    Attributes:
        driver: in and out of the driver, by way of the transfer queue.
        node: into each node from the others, and as many out of it.
    """

    driver: float
    node: float


DRIVER_TOKEN = 117
"""Bytes of a response token that the driver reads and writes in a step: counted by benchmarks/driver.py."""


def of_step(workload: Workload) -> Traffic:
    """What a step sends."""
    return Traffic(driver_bytes(workload), node_bytes(workload))


def driver_bytes(workload: Workload) -> float:
    """Columns of a number a token that the driver reads or writes."""
    per_token = DRIVER_TOKEN + 4 * workload.num_column_objectives
    return workload.num_rows * workload.mean_response_tokens * per_token


def node_bytes(workload: Workload) -> float:
    """What FSDP sends into a node, and the weights on their way to the servers.

    Sharded over all nodes, each pass of each micro-batch gathers the weights, and each backward pass deals out the
    gradients. Sharded within a node and copied between nodes (``fsdp_size``), only gradients cross, added up.
    """
    num_nodes = workload.cluster.num_nodes
    if num_nodes == 1:
        return 0.0
    from_others, num = 1 - 1 / num_nodes, workload.shape.num_parameters
    passes, batches = workload.passes, workload.num_micro_batches
    backwards = passes.backwards * passes.epochs
    if workload.shards <= workload.cluster.gpus_per_node:
        return 2 * from_others * workload.num_trained * REDUCED_BYTES * backwards * batches
    forwards = passes.log_probs + passes.forwards * passes.epochs
    gathered = num * GATHERED_BYTES * (forwards + backwards) * batches
    reduced = workload.num_trained * REDUCED_BYTES * backwards * batches
    to_servers = num * workload.weight_bytes
    return from_others * (gathered + reduced + to_servers)
