"""What each kind of Gram matrix predicts of a step against what the step does, in plain torch: no engine, one process.

A testbed's base model is trained by policy gradients with fixed weights: AdamW at the testbed's settings, one optimizer
step a batch of 16 prompts with 8 completions each. Beside each batch, prompts that are not trained on are completed by
the same policy. What the step did to each objective is their covariance with the change of their probabilities (the
probe). What it was to do is ``learning_rate * gram @ weights``, by six Gram matrices: the plain one of the batch, the
cross-fitted one of the batch, and its mean over the steps so far; each in the Euclidean metric and in Adam's.

    python benchmarks/conflict_offline.py --testbed testbeds/D [--steps 30] [--fresh 32] [--seed 0] [--minutes 60]

Prints the tables of benchmarks/conflict.py, and the cosines of the objectives' gradients by each matrix, as means.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conflict import Measured, agreement, means
from torch import Tensor

from ctwa.aggregators.cross_fit import CrossFittedGram, halves_of, split_gram
from ctwa.covariance.probe import forward_probe
from ctwa.engine.optimizer_metric import knows_mean_squares, preconditioner
from ctwa.report.markdown import table
from ctwa.testbed.presets import MAX_RESPONSE_TOKENS
from ctwa.testbed.rewards import accuracy, clarity, conciseness

NAMES = ("accuracy", "clarity", "conciseness")
PROMPTS, COMPLETIONS = 16, 8
LEARNING_RATE = 3e-5
HALF_LIFE = 10.0
KINDS = ("plain", "cross-fitted, one batch", "cross-fitted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, required=True, help="a folder made by `ctwa testbed make`")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--fresh", type=int, default=32, help="prompts of the probe, each step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="make no step after so many")
    arguments = parser.parse_args()
    trial = Trial(arguments.testbed, arguments.fresh, arguments.seed)
    began = time.monotonic()
    for step in range(arguments.steps):
        if time.monotonic() - began < 60 * arguments.minutes:
            trial.step(step)
    trial.report()


class Trial:
    """A training with everything that is measured of it."""

    def __init__(self, testbed: Path, num_fresh: int, seed: int) -> None:
        import pandas
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(seed)
        self.model = AutoModelForCausalLM.from_pretrained(testbed / "model")
        self.tokenizer = AutoTokenizer.from_pretrained(testbed / "model", padding_side="left")
        self.rows = pandas.read_parquet(testbed / "train.parquet").to_dict("records")
        self.order = torch.randperm(len(self.rows)).tolist()
        self.num_fresh = num_fresh
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=0.0)
        self.means = {metric: CrossFittedGram(NAMES, HALF_LIFE) for metric in ("", ", Adam")}
        self.gains: list[Tensor] = []
        self.predicted: list[dict[str, Tensor]] = []
        self.grams: dict[str, list[Tensor]] = {"plain": [], "cross-fitted": []}

    def step(self, number: int) -> None:
        """One batch, one optimizer step, and the probe."""
        num = PROMPTS + self.num_fresh
        rows = [self.rows[row] for row in self.order[number * num : (number + 1) * num]]
        batch = self.sample([row for row in rows for _ in range(COMPLETIONS)])
        trained = PROMPTS * COMPLETIONS
        halves_HD = self.halves({key: value[:trained] for key, value in batch.items()})
        weights_M = torch.full((len(NAMES),), 1 / len(NAMES), dtype=torch.float64)
        self.predicted.append(self.predict(halves_HD, weights_M))
        fresh = {key: value[trained:] for key, value in batch.items()}
        before_NT = self.log_probs(fresh).detach()
        combined_D = weights_M @ (halves_HD[: len(NAMES)] + halves_HD[len(NAMES) :])
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, combined_D.float().split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            after_NT = self.log_probs(fresh)
        group_N = torch.arange(self.num_fresh).repeat_interleave(COMPLETIONS)
        rewards_NM, mask_NT = fresh["rewards"], fresh["mask"]
        scored_NM = torch.ones_like(rewards_NM, dtype=torch.bool)
        progress = forward_probe(rewards_NM, scored_NM, after_NT, before_NT, mask_NT, group_N, names=NAMES)
        self.gains.append(progress.gain_M)

    def sample(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A completion of each row: ``ids``, ``attention``, ``mask`` of the response, ``rewards`` (N, M)."""
        messages = [list(row["prompt"]) for row in rows]
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids_NT = self.model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_RESPONSE_TOKENS
            )
        start = inputs["input_ids"].shape[1]
        response_NT = ids_NT[:, start:]
        ended_NT = (response_NT == self.tokenizer.eos_token_id).cumsum(1)
        mask_NT = (ended_NT - (response_NT == self.tokenizer.eos_token_id).long()) == 0
        rewards = []
        for row, ids_T, length in zip(rows, response_NT, mask_NT.sum(1).tolist(), strict=True):
            text = self.tokenizer.decode(ids_T, skip_special_tokens=True)
            right = accuracy(text, row["reward_model"]["ground_truth"])
            rewards.append([right, clarity(text), conciseness(length, row["extra_info"])])
        attention_NT = torch.cat([inputs["attention_mask"], mask_NT.long()], 1)
        rewards_NM = torch.tensor(rewards, dtype=torch.float64)
        return {"ids": ids_NT, "attention": attention_NT, "mask": mask_NT, "rewards": rewards_NM}

    def log_probs(self, batch: dict[str, Tensor]) -> Tensor:
        """Of the responses' tokens, (N, T)."""
        attention_NT = batch["attention"]
        positions_NT = (attention_NT.cumsum(1) - 1).clamp(min=0)
        num = batch["mask"].shape[1]
        output = self.model(
            input_ids=batch["ids"], attention_mask=attention_NT, position_ids=positions_NT, logits_to_keep=num + 1
        )
        log_probs_NTV = output.logits[:, :-1].log_softmax(-1)
        return log_probs_NTV.gather(2, batch["ids"][:, -num:, None])[..., 0]

    def halves(self, batch: dict[str, Tensor]) -> Tensor:
        """The objectives' gradients on either half of the prompts, float64 (2 M, D)."""
        mask_NT, group_N = batch["mask"], torch.arange(PROMPTS).repeat_interleave(COMPLETIONS)
        rewards_BKM = batch["rewards"].view(PROMPTS, COMPLETIONS, -1)
        spread_B1M = rewards_BKM.std(1, keepdim=True) + 1e-6
        advantages_NM = ((rewards_BKM - rewards_BKM.mean(1, keepdim=True)) / spread_B1M).flatten(0, 1)
        half_N = halves_of(group_N, torch.ones_like(group_N, dtype=torch.bool))
        log_probs_N = (self.log_probs(batch) * mask_NT).sum(1) / mask_NT.sum()
        gradients = []
        for half in (0, 1):
            for advantages_N in advantages_NM.T:
                loss = -(advantages_N * (half_N == half) * log_probs_N).sum()
                found = torch.autograd.grad(loss, self.parameters, retain_graph=True)
                gradients.append(torch.cat([each.flatten() for each in found]).double())
        return torch.stack(gradients)

    def predict(self, halves_HD: Tensor, weights_M: Tensor) -> dict[str, Tensor]:
        """The progress of each objective by each matrix, (M,); NaN in Adam's metric before it is known."""
        found: dict[str, Tensor] = {}
        for metric, mean in self.means.items():
            scaled_HD = halves_HD
            if metric:
                if not knows_mean_squares(self.optimizer):
                    nothing_M = torch.full_like(weights_M, torch.nan)
                    found |= {f"{kind}{metric}": nothing_M for kind in KINDS}
                    continue
                scales = map(partial(preconditioner, self.optimizer), self.parameters)
                scaled_HD = halves_HD * torch.cat([scale for scale in scales if scale is not None])
            plain_MM, cross_MM = split_gram(scaled_HD @ halves_HD.T, [1, 1])
            assert cross_MM is not None
            mean.observe(cross_MM, plain_MM)
            if not metric:
                self.grams["plain"].append(plain_MM)
                self.grams["cross-fitted"].append(cross_MM)
            for kind, gram_MM in zip(KINDS, (plain_MM, cross_MM, mean.gram_RR), strict=True):
                found[f"{kind}{metric}"] = LEARNING_RATE * gram_MM @ weights_M
        return found

    def report(self) -> None:
        """The tables."""
        for metric in self.means:
            kinds = [f"{kind}{metric}" for kind in KINDS]
            known = [step for step, found in enumerate(self.predicted) if not found[kinds[0]].isnan().any()]
            if known:
                predicted = {
                    kind: torch.stack([self.predicted[step][kind] for step in known]).numpy() for kind in kinds
                }
                gains_SM = torch.stack([self.gains[step] for step in known]).numpy()
                measured = Measured(list(NAMES), np.asarray(gains_SM), predicted)
                print(f"\n{len(known)} steps\n\n{means(measured)}\n{agreement(measured)}")
        rows, of_kind = [], {kind: torch.stack(grams).mean(0) for kind, grams in self.grams.items()}
        for kind, gram_MM in of_kind.items():
            norms_M = gram_MM.diagonal().sqrt()
            cosine_MM = gram_MM / norms_M[:, None] / norms_M
            cells = [f"{float(cosine_MM[NAMES.index(one), NAMES.index(other)]):.2f}" for one, other in PAIRS]
            rows.append([kind, *cells])
        print("\n" + table(("cosine", *(f"{one} and {other}" for one, other in PAIRS)), rows))
        noise_M = 1 - of_kind["cross-fitted"].diagonal() / of_kind["plain"].diagonal()
        shares = ", ".join(f"{name} {float(noise):.2f}" for name, noise in zip(NAMES, noise_M, strict=True))
        print(f"\nNoise in the plain squared norms: {shares}")


PAIRS = (("accuracy", "conciseness"), ("accuracy", "clarity"), ("clarity", "conciseness"))

if __name__ == "__main__":
    main()
