"""Bytes of a GPU, of a checkpoint and of the driver, by what they are for."""

from __future__ import annotations

from ctwa.capacity.workload import Workload

NUMBER_BYTES = {"fp32": 4, "float32": 4, "float": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, "half": 2}
"""Of a number, by the names of its type."""

SERVER_SPARE = 2e9
"""Bytes of a server's share that are neither weights nor keys and values: CUDA graphs and the buffers of a pass."""
SLEEPING_SERVER = 1.5e9
"""Bytes that a sleeping server keeps: CUDA's context and its graphs."""
DRIVER_BASE = 1.0e9
"""Bytes of a driver between two steps: mostly what it has imported."""
DRIVER_TOKEN = 95
"""Bytes of a driver for each token of the padded responses, at the most that a step holds at once."""

PAIR_REFERENCE = 16
"""Bytes that are kept of a pair, in the driver and in a file: the reference's log-probabilities of both responses."""
KEPT_TOKEN = 40
"""Bytes of a token of a pair or a sample that the driver keeps: a number of Python's, and a place in a tuple."""


def to_train(num_weights: float, num_trained: float, num_gradients: int, number_bytes: float) -> dict[str, float]:
    """Bytes of so many weights, of the gradients that are kept at once of those trained, and of Adam's two averages."""
    trained = num_trained * number_bytes
    return {"weights": num_weights * number_bytes, "gradients": trained * num_gradients, "optimizer": 2 * trained}


def saved(num_weights: float, num_trained: float, num_plain: float, number_bytes: float) -> float:
    """Bytes of a checkpoint: weights and the optimizer's averages, and beside them the plain model's weights."""
    return (num_weights + 2 * num_trained + num_plain) * number_bytes


def updating(workload: Workload) -> dict[str, float]:
    """What a GPU holds while the policy is updated, at the most, by part."""
    shape, share = workload.shape, 1 / workload.shards
    trained = workload.num_trained * workload.weight_bytes * share
    return {
        **to_train(
            workload.num_weights * share, workload.num_trained * share, workload.num_gradients, workload.weight_bytes
        ),
        **({"weights before the update, for the probe": trained} if workload.keeps_weights else {}),
        **({"reference": shape.num_parameters * workload.weight_bytes * share} if workload.holds_reference else {}),
        "weights gathered for a pass": gathered(workload),
        "activations": activations(workload),
        "logits": logits(workload),
        **_server_meanwhile(workload),
    }


def _server_meanwhile(workload: Workload) -> dict[str, float]:
    if workload.sampling is None:
        return {}
    return {"sleeping server": SLEEPING_SERVER} if workload.sampling.sleeps else {"server": server(workload)}


def server(workload: Workload) -> float:
    """What a server may take of a GPU."""
    return workload.served.memory_share * workload.cluster.gpu.memory


def sampling(workload: Workload) -> dict[str, float]:
    """What a GPU holds while prompts are completed, by part; gradients are freed after the update.

    Nothing where none are.
    """
    if workload.sampling is None:
        return {}
    training = updating(workload)
    stays = {name: training[name] for name in training if name.startswith(("weights before", "reference"))}
    return {
        **({} if workload.offloads_weights else {"weights": training["weights"]}),
        **({} if workload.offloads_optimizer else {"optimizer": training["optimizer"]}),
        **stays,
        "server": server(workload),
    }


def gathered(workload: Workload) -> float:
    """Whole weights of what FSDP does not shard during a pass, on one rank too: two blocks, and what is in none.

    A block's gradient is whole too before it is dealt out, once in the type of the passes and once in float32.
    """
    shape = workload.shape
    outside = shape.num_parameters - shape.num_layers * shape.num_block_parameters
    whole = (max(outside, 0) + 2 * shape.num_block_parameters) * workload.compute_bytes
    has_gradient = workload.num_trained / shape.num_parameters
    return whole + has_gradient * shape.num_block_parameters * (workload.compute_bytes + workload.weight_bytes)


def block_activations(workload: Workload) -> float:
    """Bytes that a block of a Llama-like model saves of a token for its backward pass.

    As counted of what transformers' models hand to autograd, with an attention that keeps no matrix of scores: in bf16
    16 a number of the stream (its norms compute in float32), 4 of queries and of keys, 8 of the feed-forward part.
    """
    shape = workload.shape
    queries, keys = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    if workload.compute_bytes == 2:
        of_heads = 10 if shape.normalizes_heads else 4
        return 16 * shape.hidden + of_heads * (queries + keys) + 8 * shape.intermediate
    of_heads = 16 if shape.normalizes_heads else 8
    return 24 * shape.hidden + of_heads * (queries + keys) + 16 * shape.intermediate


def activations(workload: Workload) -> float:
    """What a micro-batch saves in all blocks; with checkpointing the stream before each, and the insides of one."""
    tokens, shape = workload.micro_tokens, workload.shape
    if not workload.checkpoints_activations:
        return tokens * shape.num_layers * block_activations(workload)
    return tokens * (shape.num_layers * shape.hidden * workload.compute_bytes + block_activations(workload))


def logits(workload: Workload) -> float:
    """The logits of a micro-batch, what is made of them in their size, and what that is computed with.

    Counted of the update. The pass for log-probabilities and entropies has no gradient, and holds no more of anything.
    """
    size = workload.micro_tokens * workload.shape.vocabulary * workload.compute_bytes
    return size * workload.logits_copies + workload.logits_chunk


def cache_token(workload: Workload) -> float:
    """Bytes of a token's keys and values, on each GPU of a server.

    Heads that are fewer than GPUs are copied; so is a latent, which is all heads'. Windows count as if they had no end.
    """
    shape, served = workload.shape, workload.served
    heads = max(shape.key_heads / served.tensor_parallel, 1)
    width = shape.latent or 2 * heads * shape.head_width
    return (shape.num_layers - shape.num_state_layers - shape.num_sharing_layers) * width * served.number_bytes


def cache(workload: Workload) -> float:
    """Bytes that a server has on each GPU for keys and values; negative where not even its weights fit."""
    served = workload.served
    weights = workload.shape.num_parameters * served.number_bytes / served.tensor_parallel
    return server(workload) - weights - SERVER_SPARE


def cached_rows(workload: Workload) -> int:
    """How many completions of full length a server has room for at once."""
    return int(rows_in_cache(workload, workload.served.longest))


def rows_in_cache(workload: Workload, tokens: float) -> float:
    """How many rows of so many tokens a server has room for; where nothing is kept of a token, as many as it may."""
    room, row = max(cache(workload), 0.0), cache_token(workload) * tokens
    if row == 0:
        return float(workload.served.max_rows) if room else 0.0
    return room / row


def checkpoint(workload: Workload) -> float:
    """Bytes of a checkpoint.

    With an adapter the plain model is merged; the frozen weights are in the ranks' files too.
    """
    plain = workload.shape.num_parameters
    return saved(workload.num_weights, workload.num_trained, plain, workload.weight_bytes)


def driver(workload: Workload) -> float:
    """What the driver holds at the most, beside what it keeps of data.

    Of every token of the responses, padded to the longest, some columns; where many steps train on samples, all tokens
    of the reference's and of the last policy's.
    """
    if workload.sampling is None:
        return DRIVER_BASE
    served = workload.sampling
    kept = 2 * KEPT_TOKEN * served.num_rows * served.longest if workload.has_pairs else 0
    of_objectives = 8 * workload.num_column_objectives
    return DRIVER_BASE + served.num_rows * served.response_tokens * (DRIVER_TOKEN + of_objectives) + kept
