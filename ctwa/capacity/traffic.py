"""Bytes of a step that cross the driver, and those that cross from node to node."""

from __future__ import annotations

from ctwa.capacity.workload import Workload

GATHERED_BYTES = 2
"""Of a weight when it is gathered for a pass: bf16."""
REDUCED_BYTES = 4
"""Of a gradient when it is added up over ranks: float32, whatever the passes compute in."""


DRIVER_TOKEN = 117
"""Bytes of a response token that the driver reads and writes in a step: counted by benchmarks/driver.py."""
PAIR_TOKEN = 24
"""Bytes of a token of a pair, prompt and all, on its way to a rank: its number, its place, whether it is trained."""


def driver_bytes(workload: Workload) -> float:
    """What the driver reads and writes in a step: columns of a number a token; or the pairs that it sends."""
    if workload.has_pairs:
        return workload.num_rows * workload.row_tokens * PAIR_TOKEN
    return sampled_bytes(workload)


def sampled_bytes(workload: Workload) -> float:
    """What the driver reads and writes of what was sampled, by way of the transfer queue, until it is trained on."""
    per_token = DRIVER_TOKEN + 4 * workload.num_column_objectives
    return workload.served.num_rows * workload.served.mean_response_tokens * per_token


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
    to_servers = 0 if workload.has_pairs else num * workload.weight_bytes
    return from_others * (gathered + reduced + to_servers)
