"""Sample a model on testbed problems with plain ``transformers`` and score it: a check that needs no engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ctwa.testbed.presets import MAX_RESPONSE_TOKENS
from ctwa.testbed.rewards import accuracy, clarity, conciseness

_BATCH = 512


def sample_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Mean of each objective over ``rows`` (verl's data format), one completion a row sampled at temperature 1.

    Also ``response_tokens``, the mean length with ``<eos>``. The global random state is left as it was.
    """
    scores: dict[str, list[float]] = {"accuracy": [], "conciseness": [], "clarity": [], "response_tokens": []}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            inputs = tokenizer.apply_chat_template(
                [list(row["prompt"]) for row in batch],
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
            )
            output_NT = model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_RESPONSE_TOKENS
            )
            response_NT = output_NT[:, inputs["input_ids"].shape[1] :]
            for row, ids_T in zip(batch, response_NT, strict=True):
                response = tokenizer.decode(ids_T, skip_special_tokens=True)
                num_tokens = _length_with_eos(ids_T, tokenizer.eos_token_id)
                scores["accuracy"].append(accuracy(response, row["reward_model"]["ground_truth"]))
                scores["conciseness"].append(conciseness(num_tokens, row["extra_info"]))
                scores["clarity"].append(clarity(response))
                scores["response_tokens"].append(float(num_tokens))
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _length_with_eos(ids_T: torch.Tensor, eos: int) -> int:
    ends = (ids_T == eos).nonzero()
    return int(ends[0]) + 1 if len(ends) else len(ids_T)
