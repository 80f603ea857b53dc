"""A reward model: what a sequence classifier of transformers makes of prompt and response."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ctwa.chat.scorer import Scorer, ScorerSettings


async def reward_model(
    prompt: Any,
    completion: Any,
    model: str,
    label: str | int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int = 16,
    max_tokens: int = 2048,
    threads: int = 1,
    linger: float = 60.0,
) -> float:
    """The model's number for the conversation, or the probability of one of its labels; to four decimals.

    The model is loaded once on each machine, in a process of its own that all reward workers share, with the first
    call: let the objective have a `timeout` that is long enough for that. What waits is scored together. The
    conversation is written with the chat template of the model's tokenizer, and line by line where it has none.

    Args:
        prompt: the prompt's messages.
        completion: the response as a message.
        model: a folder, or a name of the hub, of a sequence classifier.
        label: whose probability counts, by name or number, where the model has several; its one number otherwise.
        device: cpu, or cuda:1 and the like for a GPU that has room beside the training.
        dtype: of the weights: float32, bfloat16 or float16.
        batch_size: conversations scored together, at most; 1 makes every score independent of the others to the bit.
        max_tokens: of a conversation; a longer one loses its beginning.
        threads: of the CPU.
        linger: seconds after the last worker has gone, until the process ends.
    """
    settings = ScorerSettings(model, label, device, dtype, batch_size, max_tokens, threads, linger)
    conversation = f"{prompt}{completion}" if isinstance(prompt, str) else [*prompt, *completion]
    return await _scorer(settings).score(conversation)


def check_reward_model(model: str, device: str = "cpu", dtype: str = "float32", **others: Any) -> None:
    """Refuse a folder that is not there, words that name no device or type, and numbers below 1."""
    for name in ("batch_size", "max_tokens", "threads"):
        if (number := others.get(name, 1)) < 1:
            raise ValueError(f"{name}={number}: write a number of at least 1")
    if (Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1) and not Path(model).is_dir():
        raise ValueError(f"model={model}: there is no such folder")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device={device}: write cpu, cuda or cuda:1")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype={dtype}: write float32, bfloat16 or float16")


@lru_cache(maxsize=8)
def _scorer(settings: ScorerSettings) -> Scorer:
    """One a process: its connection outlives a call."""
    return Scorer(settings)
