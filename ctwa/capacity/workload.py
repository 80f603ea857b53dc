"""What a step of training is made of, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ctwa.capacity.hardware import Cluster
from ctwa.capacity.shape import ModelShape


@dataclass(frozen=True)
class Passes:
    """How often a step goes over its tokens.

    Attributes:
        log_probs: forward passes without a gradient: old log-probabilities, the reference's, the statistic's.
        forwards: of an update, each epoch.
        backwards: of an update, each epoch; each of the whole depth.
        epochs: of an update over the step's completions.
    """

    log_probs: float
    forwards: float
    backwards: float
    epochs: int = 1


@dataclass(frozen=True)
class Sampling:
    """Prompts that are completed at a time, and the servers that do it on the GPUs that train.

    Attributes:
        prompts: of a step; or of a policy, where many steps train on what one has written.
        completions: of a prompt.
        prompt_tokens: of the longest prompt.
        response_tokens: of the longest response.
        mean_response_tokens: of a response as it is expected: what time and bytes go by. Memory goes by the longest.
        number_bytes: of a weight and of a key or value.
        tensor_parallel: GPUs of a server.
        memory_share: that a server may take of each GPU.
        max_rows: completions that a server writes at once at the most.
        sleeps: whether it gives its memory back while the policy is trained.
    """

    prompts: int
    completions: int
    prompt_tokens: int
    response_tokens: int
    mean_response_tokens: float
    number_bytes: int = 2
    tensor_parallel: int = 1
    memory_share: float = 0.5
    max_rows: int = 256
    sleeps: bool = True

    @property
    def num_rows(self) -> int:
        """Completions."""
        return self.prompts * self.completions

    @property
    def longest(self) -> int:
        """Tokens of the longest completion with its prompt."""
        return self.prompt_tokens + self.response_tokens


@dataclass(frozen=True)
class Workload:
    """A step of training on a cluster: on completions, or on pairs of responses.

    Attributes:
        shape: the model's.
        cluster: what it runs on.
        num_rows: that a step trains on: completions, or two of each pair.
        row_tokens: of a row with its prompt, as expected.
        longest: tokens that have to be in one micro-batch: of the longest row, or of both of a pair.
        micro_tokens: of a micro-batch of the update, on each rank.
        passes: of a step.
        num_trained: parameters that are trained.
        sampling: the prompts that the policy completes; None where it completes none.
        has_pairs: whether it is pairs that a step trains on: they go to the ranks with the call, and what the policy
            has sampled serves many steps.
        counts_tokens: whether micro-batches are measured in tokens.
        num_gradients: that are kept of each trained parameter at once.
        checkpoints_activations: whether a block's insides are computed anew in the backward pass.
        logits_copies: buffers of the logits' size that a pass holds at once, at the most.
        logits_chunk: bytes beside them, where log-probabilities and entropies are computed by chunks.
        shards: ranks over which the weights are dealt out.
        keeps_weights: whether a copy of the trained weights is kept for the probe.
        holds_reference: whether a reference model of its own stays on the GPU.
        offloads_weights: to main memory, while prompts are completed.
        offloads_optimizer: as well.
        weight_bytes: of a trained or stored number.
        compute_bytes: of a number in passes.
        mini_batch: rows that are dealt out over the ranks in equal numbers, or pairs of one data set; 0 if in any.
        sequence_parallel: ranks that share a row.
        num_column_objectives: objectives whose own advantages the driver sends; 0 for methods that combine rewards.
    """

    shape: ModelShape
    cluster: Cluster
    num_rows: int
    row_tokens: float
    longest: int
    micro_tokens: int
    passes: Passes
    num_trained: int
    sampling: Sampling | None = None
    has_pairs: bool = False
    counts_tokens: bool = True
    num_gradients: int = 1
    checkpoints_activations: bool = True
    logits_copies: int = 1
    logits_chunk: int = 0
    shards: int = 1
    keeps_weights: bool = False
    holds_reference: bool = False
    offloads_weights: bool = False
    offloads_optimizer: bool = False
    weight_bytes: int = 4
    compute_bytes: int = 2
    mini_batch: int = 0
    sequence_parallel: int = 1
    num_column_objectives: int = 0

    @property
    def served(self) -> Sampling:
        """What is completed, of a step whose policy completes prompts."""
        assert self.sampling is not None
        return self.sampling

    @property
    def num_weights(self) -> int:
        """Parameters of the policy: an adapter's come beside the model's."""
        adapter = self.num_trained if self.num_trained != self.shape.num_parameters else 0
        return self.shape.num_parameters + adapter

    @property
    def num_micro_batches(self) -> int:
        """Of a pass, on each rank."""
        return max(1, math.ceil(self.num_rows * self.row_tokens / self.cluster.num_gpus / self.micro_tokens))
