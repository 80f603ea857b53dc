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
class Workload:
    """A training on rewards, on a cluster.

    Attributes:
        shape: the model's.
        cluster: what it runs on.
        prompts: of a step.
        completions: of a prompt.
        prompt_tokens: of the longest prompt.
        response_tokens: of the longest response.
        mean_response_tokens: of a response as it is expected: what time and bytes go by. Memory goes by the longest.
        micro_tokens: of a micro-batch of the update, on each rank.
        passes: of a step.
        num_trained: parameters that are trained.
        num_gradients: that are kept of each of them at once.
        checkpoints_activations: whether a block's insides are computed anew in the backward pass.
        logits_copies: buffers of the logits' size in the update: 1 where their gradient is written in their place.
        shards: ranks over which the weights are dealt out.
        keeps_weights: whether a copy of the trained weights is kept for the probe.
        holds_reference: whether a reference model of its own stays on the GPU.
        offloads_weights: to main memory, while prompts are completed.
        offloads_optimizer: as well.
        weight_bytes: of a trained or stored number.
        compute_bytes: of a number in passes.
        rollout_bytes: of a weight and of a key or value in the rollout's server.
        tensor_parallel: GPUs of a server.
        memory_share: that a server may take of each GPU.
        server_rows: completions that a server writes at once at the most.
        server_sleeps: whether it gives its memory back while the policy is trained.
        num_column_objectives: objectives whose own advantages the driver sends; 0 for methods that combine rewards.
    """

    shape: ModelShape
    cluster: Cluster
    prompts: int
    completions: int
    prompt_tokens: int
    response_tokens: int
    mean_response_tokens: float
    micro_tokens: int
    passes: Passes
    num_trained: int
    num_gradients: int = 1
    checkpoints_activations: bool = True
    logits_copies: int = 1
    shards: int = 1
    keeps_weights: bool = False
    holds_reference: bool = False
    offloads_weights: bool = False
    offloads_optimizer: bool = False
    weight_bytes: int = 4
    compute_bytes: int = 2
    rollout_bytes: int = 2
    tensor_parallel: int = 1
    memory_share: float = 0.5
    server_rows: int = 256
    server_sleeps: bool = True
    num_column_objectives: int = 0

    @property
    def num_weights(self) -> int:
        """Parameters of the policy: an adapter's come beside the model's."""
        adapter = self.num_trained if self.num_trained != self.shape.num_parameters else 0
        return self.shape.num_parameters + adapter

    @property
    def num_rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.completions

    @property
    def row_tokens(self) -> float:
        """Tokens of a completion with its prompt, as expected."""
        return self.prompt_tokens + self.mean_response_tokens

    @property
    def num_micro_batches(self) -> int:
        """Of a pass, on each rank."""
        return max(1, math.ceil(self.num_rows * self.row_tokens / self.cluster.num_gpus / self.micro_tokens))
