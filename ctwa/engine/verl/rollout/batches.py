"""Generation of whole batches through the transformers servers: where verl has agent loops, one call a server.

verl's agent loops treat every completion as a conversation of its own, as a production rollout must. For one turn of
text on a CPU that costs more than the generation. Here the driver tokenises each prompt once, deals the rows out to
the servers in a fixed pattern and writes a prompt's completions to the transfer queue when the last of them has ended.
The result depends on nothing but the prompts, the weights and the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import NonTensorStack, TensorDict
from verl.utils import tensordict_utils as tu

from ctwa.engine.verl.columns import SEED_COLUMN
from ctwa.engine.verl.rollout.prompts import PromptTokens
from ctwa.models.decoding import Generated, Sampling
from ctwa.models.seeds import completion_seed


class BatchGeneration:
    """Stands where verl has its agent loop manager.

    Args:
        config: the resolved config.
        tokenizer: turns messages into tokens with its chat template.
        servers: handles of the ``TransformersServer`` actors.
        poll_interval: seconds between two looks for completions.
    """

    columns = ("responses", "response_mask")
    """Of a completion, what says which of it the policy wrote."""

    def __init__(self, config: DictConfig, tokenizer: Any, servers: list[Any], poll_interval: float) -> None:
        self._rollout = config.actor_rollout_ref.rollout
        self._tokens = PromptTokens(config, tokenizer)
        self._servers = servers
        self._poll_interval = poll_interval

    def complete(self, batch: TensorDict) -> Iterator[list[str]]:
        """Complete a batch of prompts, and put the completions into the transfer queue.

        Yields:
            The keys of completions that are in the queue by now, a prompt's all at once; at every look, of none too.

        Raises:
            CtwaError: a prompt is longer than ``data.max_prompt_length``.
        """
        validate = tu.get_non_tensor_data(batch, "validate", default=False)
        sampling, num_completions = self._sampling(validate)
        names, prompt_seeds = list(batch["uid"]), list(batch[SEED_COLUMN])
        prompts = [self._tokens(messages) for messages in batch["raw_prompt"]]
        seeds = [completion_seed(seed, index) for seed in prompt_seeds for index in range(num_completions)]
        partition = "val" if validate else "train"
        step = tu.get_non_tensor_data(batch, "global_steps", default=0)
        waiting: dict[int, Generated] = {}  # for others of their prompt, by row
        num_unfinished = [num_completions] * len(names)
        for arrived in self._generate([prompt for prompt in prompts for _ in range(num_completions)], seeds, sampling):
            waiting |= arrived
            for row in arrived:
                num_unfinished[row // num_completions] -= 1
            rows = [row for row in sorted(waiting) if not num_unfinished[row // num_completions]]
            keys = [f"{names[row // num_completions]}_{row % num_completions}_0" for row in rows]
            if rows:
                places = [row // num_completions for row in rows]
                fields, tags = _rows(
                    [prompts[place] for place in places],
                    [waiting.pop(row) for row in rows],
                    [names[place] for place in places],
                    step,
                )
                tq.kv_batch_put(keys=keys, partition_id=partition, fields=fields, tags=tags)
            yield keys
        tq.kv_batch_put(keys=names, partition_id=partition, tags=[{"status": "finished"}] * len(names))

    def _sampling(self, validate: bool) -> tuple[Sampling, int]:
        source = self._rollout.val_kwargs if validate else self._rollout
        greedy = validate and not source.do_sample
        return (
            Sampling(
                temperature=0.0 if greedy else float(source.temperature),
                top_p=float(source.top_p),
                top_k=int(source.top_k),
                max_tokens=int(self._rollout.response_length),
            ),
            int(source.n),
        )

    def _generate(
        self, prompts: list[list[int]], seeds: list[int], sampling: Sampling
    ) -> Iterator[dict[int, Generated]]:
        """The completions of each look, by row. Row i goes to server i modulo their number: prompts spread evenly."""
        num = len(self._servers)
        places = {}
        for place, server in enumerate(self._servers):
            if prompts[place::num]:
                generate = server.generate.options(num_returns="streaming")
                places[generate.remote(prompts[place::num], seeds[place::num], sampling)] = place
        while places:
            ready, _ = ray.wait(list(places), num_returns=1, timeout=self._poll_interval)
            arrived: dict[int, Generated] = {}
            for stream in ready:
                try:
                    arrived |= {place * num + places[stream]: each for place, each in ray.get(next(stream))}
                except StopIteration:
                    del places[stream]
            yield arrived


def _rows(
    prompts: list[list[int]], completions: list[Generated], names: list[str], step: int
) -> tuple[TensorDict, list[dict[str, Any]]]:
    """The columns that verl's trainer expects of a finished completion, and the tags it schedules by."""
    sequences = [prompt + completion.token_ids for prompt, completion in zip(prompts, completions, strict=True)]
    masks = [torch.ones(len(completion.token_ids), dtype=torch.int64) for completion in completions]
    num = len(prompts)
    fields = TensorDict(
        {
            "prompts": _nested([torch.tensor(prompt) for prompt in prompts]),
            "responses": _nested([torch.tensor(completion.token_ids) for completion in completions]),
            "response_mask": _nested(masks),
            "loss_mask": _nested(masks),
            "input_ids": _nested([torch.tensor(sequence) for sequence in sequences]),
            "position_ids": _nested([torch.arange(len(sequence)) for sequence in sequences]),
            "rollout_log_probs": _nested([torch.tensor(completion.log_probs) for completion in completions]),
            "num_turns": torch.full((num,), 2),
            "uid": NonTensorStack(*names),
            "multi_modal_inputs": NonTensorStack(*[{} for _ in range(num)]),
        },
        batch_size=num,
    )
    tags = [
        {
            "status": "success",
            "prompt_len": len(prompt),
            "response_len": len(completion.token_ids),
            "seq_len": len(prompt) + len(completion.token_ids),
            "global_steps": step,
            "min_global_steps": step,
            "max_global_steps": step,
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return fields, tags


def _nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)
