"""A model of a few thousand parameters, and a TRL run of it on the CPU that takes well under a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from ctwa.testbed.tokenizer import BOS, EOS, PAD, VOCABULARY, build_tokenizer


def digits(completions: list[str], **_: Any) -> list[float]:
    """The share of words that are digits, in sevenths: no sum of them is exact in binary."""
    return [sum(word.isdigit() for word in each.split()) / 7 for each in completions]


def early(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Higher the lower the numbers of a completion's tokens are."""
    return [1 - sum(each) / (len(VOCABULARY) * len(each)) for each in completion_ids]


def sometimes(completions: list[str], **_: Any) -> list[float | None]:
    """Applies to completions with a digit alone."""
    return [float(len(each)) if any(word.isdigit() for word in each.split()) else None for each in completions]


def model() -> Qwen2ForCausalLM:
    """Of one layer; its weights are large, so that its completions differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(VOCABULARY),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                tie_word_embeddings=True,
                initializer_range=0.5,
                bos_token_id=VOCABULARY.index(BOS),
                eos_token_id=VOCABULARY.index(EOS),
                pad_token_id=VOCABULARY.index(PAD),
            )
        )


def rows(first: int = 0, num: int = 32) -> Dataset:
    """Prompts."""
    return Dataset.from_dict({"prompt": [f"<bos> Compute {i % 10} + {i // 10} ?" for i in range(first, first + num)]})


def settings(folder: Path, **changed: Any) -> GRPOConfig:
    """Two prompts of four completions a batch, in two micro-batches; three steps, and a learning rate that shows."""
    chosen = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 6,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "reward_weights": [0.7, 0.3],
    }
    return GRPOConfig(**chosen | changed)


def trainer(kind: type[GRPOTrainer], folder: Path, *, method: Any = None, targets: Any = None, **changed: Any) -> Any:
    """A trainer of TRL's, or of ours with its method; ``changed`` are settings, and what the trainer itself takes."""
    own = {name: changed.pop(name) for name in ("reward_funcs", "eval_dataset", "rollout_func") if name in changed}
    own |= {} if method is None else {"method": method, "targets": targets}
    return kind(
        **{"model": model(), "reward_funcs": [digits, early], "train_dataset": rows(), **own},
        args=settings(folder, **changed),
        processing_class=build_tokenizer(),
    )
