"""A method of ctwa in TRL's GRPOTrainer: a model learns to add, and is to stay brief.

The two lines that are not TRL's own are marked. In an environment without verl (docs/trl.md):

    pip install 'ctwa[trl]'
    python examples/trl_grpo.py --out runs/sums
    ctwa report runs/sums
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig

from ctwa.integrations.trl import MultiObjectiveGRPOTrainer  # 1: instead of trl's GRPOTrainer

BRIEF = 60  # characters


def correct(completions: list[list[dict[str, str]]], total: list[int], **_: Any) -> list[float]:
    """1 where the last number is the sum."""
    numbers = [re.findall(r"-?\d+", completion[0]["content"]) for completion in completions]
    return [float(found[-1:] == [str(right)]) for found, right in zip(numbers, total, strict=True)]


def brief(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """1 up to ``BRIEF`` characters, and less the longer the answer is."""
    return [min(1.0, BRIEF / max(len(completion[0]["content"]), 1)) for completion in completions]


def sums(num: int, seed: int) -> Dataset:
    """Questions with their answers, as conversations."""
    draw = random.Random(seed)
    terms = [[draw.randrange(10, 100) for _ in range(3)] for _ in range(num)]
    asked = [f"What is {a} + {b} + {c}? Work it out, and end with the number." for a, b, c in terms]
    prompts = [[{"role": "user", "content": question}] for question in asked]
    return Dataset.from_dict({"prompt": prompts, "total": [sum(each) for each in terms]})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and leave the run in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--out", default="runs/sums")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32, help="completions a step, 8 of each prompt")
    chosen = parser.parse_args(arguments)
    trainer = MultiObjectiveGRPOTrainer(
        model=chosen.model,
        reward_funcs=[correct, brief],
        args=GRPOConfig(
            output_dir=chosen.out,
            max_steps=chosen.steps,
            per_device_train_batch_size=chosen.batch,
            per_device_eval_batch_size=chosen.batch,
            num_generations=8,
            max_completion_length=96,
            learning_rate=1e-5,
            eval_strategy="steps",
            eval_steps=50,
            eval_on_start=True,
            logging_steps=1,
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),  # TRL's default, which no CPU has
        ),
        train_dataset=sums(4096, seed=0),
        eval_dataset=sums(chosen.batch // 2, seed=1),
        method="ctwa",
        targets={"correct": 0.1, "brief": 0.0},  # 2: the method, and what it steers by
    )
    trainer.train()


if __name__ == "__main__":
    main()
