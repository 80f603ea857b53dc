"""A model of a few thousand parameters, and a TRL run of it on the CPU that takes well under a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from ctwa.integrations.trl import MultiObjectiveGRPOTrainer
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


def saved(folder: Path) -> str:
    """The model's folder: what TRL makes a reference of."""
    model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


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


OWN = ("model", "method", "targets", "gradients", "reward_funcs", "eval_dataset", "rollout_func", "peft_config")
"""What a trainer itself takes."""


def trainer(kind: type[GRPOTrainer], folder: Path, **changed: Any) -> Any:
    """A trainer of TRL's, or of ours with its method; ``changed`` are settings, and what the trainer itself takes."""
    own = {name: changed.pop(name) for name in OWN if name in changed}
    return kind(
        **{"model": model(), "reward_funcs": [digits, early], "train_dataset": rows(), **own},
        args=settings(folder, **changed),
        processing_class=build_tokenizer(),
    )


class Recording(MultiObjectiveGRPOTrainer):
    """Keeps what goes into every batch, and the policies before and after its update: all that a check needs."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.batches: list[dict[str, Tensor]] = []
        self.policies = [model()]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        rewards_NM = self._rewards.rewards_NM.clone()
        self.batches.append({"rewards_NM": rewards_NM} | {key: value.clone() for key, value in output.items()})
        return output

    def after_step(self) -> None:
        policy = model()
        policy.load_state_dict(self.model.state_dict())
        self.policies.append(policy)
        super().after_step()


def log_probs(policy: Any, batch: dict[str, Tensor]) -> Tensor:
    """Of the completions' tokens, (N, T): a plain pass of the model over all rows."""
    ids, mask = (torch.cat([batch[f"prompt_{key}"], batch[f"completion_{key}"]], 1) for key in ("ids", "mask"))
    logits_NTV = policy(input_ids=ids, attention_mask=mask).logits[:, :-1]
    all_NT = logits_NTV.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return all_NT[:, -batch["completion_ids"].shape[1] :]


def together(of_processes: list[Tensor]) -> Tensor:
    """The rows of all processes, with 0 for tokens that one has not."""
    num_tokens = max(each.shape[1] for each in of_processes)
    return torch.cat([torch.nn.functional.pad(each, (0, num_tokens - each.shape[1])) for each in of_processes])
