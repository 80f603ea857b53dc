"""The runs of benchmarks/interference.py in plain torch: one process, no engine, one optimizer step a batch.

    python benchmarks/interference_offline.py --testbed D --estimator grpo [--method linear] [--seed 0] [--steps 30]
        [--minutes 4] [--out runs/interference] [--records docs/results/data/interference]

A testbed's base model is trained on the weighted sum of its rewards, as GRPO does (advantages standardised within the
prompt; the paper's covariance counts what its clipping would keep) or as REINFORCE (standardised over the batch, no
clipping), with fixed weights or with CTWA's. Each batch has 16 prompts that are trained on and 32 that are not, with 8
completions each. What a step did is measured on both, by the change of their completions' probabilities.

After so many minutes the run is saved, and the next call goes on with it; its record appears when it is finished.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from conflict_offline import COMPLETIONS, HALF_LIFE, NAMES, PROMPTS, Trial
from interference_records import LawRecord, name_of
from study import ROOT, made_with, make_testbed
from torch import Tensor

from ctwa.aggregators.cross_fit import STEP, CrossFittedGram, halves_of, split_gram
from ctwa.covariance import Progress, completion_weights, forward_probe, token_weights, within_prompt_covariance
from ctwa.policy_loss import Vanilla
from ctwa.scalarizers.controller import ControllerOptions, WeightController

LOSSES = {"grpo": Vanilla(low=0.2, high=0.2, dual=3.0), "reinforce": Vanilla()}
WEIGHTS = {"accuracy": 0.333, "clarity": 0.334, "conciseness": 0.333}
TARGETS = {"accuracy": 0.15, "clarity": 0.08, "conciseness": 0.08}
ETA = {"linear": 0.0, "ctwa": 0.05}
LEARNING_RATE = 6e-5
"""Twice the testbeds', which make two optimizer steps a batch."""
FRESH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", required=True, metavar="LETTER")
    parser.add_argument("--estimator", required=True, choices=LOSSES)
    parser.add_argument("--method", default="linear", choices=ETA)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=math.inf, help="save the run after so many")
    parser.add_argument("--out", type=Path, default=Path("runs/interference"), help="the folder of testbeds and runs")
    parser.add_argument("--records", type=Path, default=ROOT / "docs/results/data/interference")
    arguments = parser.parse_args()
    began = time.monotonic()
    place = ("torch", arguments.testbed, 0, arguments.estimator, arguments.method, arguments.seed)
    name = name_of(*place)
    if (arguments.records / f"{name}.json").exists():
        return
    task_dir = make_testbed(arguments.out, arguments.testbed, 0)
    trial = LawTrial(task_dir, arguments.estimator, arguments.method, arguments.seed)
    saved = arguments.out / f"{name}.pt"
    if saved.exists():
        trial.load(saved)
    while len(trial.steps) < arguments.steps and time.monotonic() - began < 60 * arguments.minutes:
        trial.step(len(trial.steps))
        trial.save(saved)
    if len(trial.steps) == arguments.steps:
        LawRecord(*place, [], trial.kept(), {}, made_with()).write(arguments.records)
    print(f"{name}: {len(trial.steps)} of {arguments.steps} steps")


class LawTrial(Trial):
    """A training of which is kept what the law predicts of each step and what the step does."""

    def __init__(self, testbed: Path, estimator: str, method: str, seed: int) -> None:
        super().__init__(testbed, FRESH, seed)
        self.estimator = estimator
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=0.0)
        initial_M, targets_M = (
            torch.tensor([each[name] for name in NAMES], dtype=torch.float64) for each in (WEIGHTS, TARGETS)
        )
        options = ControllerOptions(eta=ETA[method], renormalize=estimator != "grpo")
        self.controller = WeightController(options, initial_M, targets_M)
        self.gram = CrossFittedGram((*NAMES, STEP), HALF_LIFE)
        self.steps: list[dict[str, list[float]]] = []

    def step(self, number: int) -> None:
        """One batch, one optimizer step, and what was predicted of it and came of it."""
        num = PROMPTS + FRESH
        rows = [self.rows[row] for row in self.order[number * num : (number + 1) * num]]
        batch = self.sample([row for row in rows for _ in range(COMPLETIONS)])
        reward_M = batch["rewards"].mean(0)
        own, fresh = ({key: each[part] for key, each in batch.items()} for part in (OWN, UNSEEN))
        advantages_NR = self.advantages(own["rewards"])
        halves_HD, own_before_NT = self.gradients(own, advantages_NR)
        with torch.no_grad():
            fresh_before_NT = self.log_probs(fresh)
        plain_RR, cross_RR = split_gram(halves_HD @ halves_HD.T, [1, 1])
        assert cross_RR is not None
        self.gram.observe(cross_RR, plain_RR)
        self.descend(halves_HD[len(NAMES)] + halves_HD[-1])
        with torch.no_grad():
            own_after_NT, fresh_after_NT = self.log_probs(own), self.log_probs(fresh)
        covariance_M = self.covariance(own, advantages_NR[:, -1], own_after_NT, own_before_NT)
        gain = progress(fresh, fresh_after_NT, fresh_before_NT)
        kept = {
            "covariance": covariance_M,
            "plain": LEARNING_RATE * plain_RR[:-1, -1],
            "cross-fitted": LEARNING_RATE * self.gram.gram_RR[:-1, -1],
            "own": progress(own, own_after_NT, own_before_NT).gain_M,
            "gain": gain.gain_M,
            "gain error": gain.standard_error_M,
            "weight": self.controller.weights_M,
            "reward": reward_M,
            "plain cosine": pairs(plain_RR),
            "cross-fitted cosine": pairs(self.gram.gram_RR),
        }
        self.controller.step(covariance_M)
        self.steps.append({kind: each.tolist() for kind, each in kept.items()})

    def advantages(self, rewards_NM: Tensor) -> Tensor:
        """Of each objective alone and, in the last column, of their weighted sum, (N, M + 1)."""
        scores_NR = torch.cat([rewards_NM, (rewards_NM @ self.controller.weights_M)[:, None]], dim=1)
        if self.estimator == "reinforce":
            return (scores_NR - scores_NR.mean(0)) / (scores_NR.std(0) + 1e-6)
        scores_BKR = scores_NR.view(PROMPTS, COMPLETIONS, -1)
        return ((scores_BKR - scores_BKR.mean(1, keepdim=True)) / (scores_BKR.std(1, keepdim=True) + 1e-6)).flatten(
            0, 1
        )

    def gradients(self, batch: dict[str, Tensor], advantages_NR: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the losses on either half of the prompts, float64 (2 R, D), and the log-probs (N, T)."""
        half_N = halves_of(GROUP_N, torch.ones_like(GROUP_N, dtype=torch.bool))
        log_probs_NT, mask_NT = self.log_probs(batch), batch["mask"]
        log_probs_N = (log_probs_NT * mask_NT).sum(1) / mask_NT.sum()
        found = []
        for half in (0, 1):
            for advantages_N in advantages_NR.T:
                loss = -(advantages_N * (half_N == half) * log_probs_N).sum()
                parts = torch.autograd.grad(loss, self.parameters, retain_graph=True)
                found.append(torch.cat([each.flatten() for each in parts]).double())
        return torch.stack(found), log_probs_NT.detach()

    def descend(self, gradient_D: Tensor) -> None:
        """An optimizer step."""
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, gradient_D.float().split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()

    def covariance(self, batch: dict[str, Tensor], advantages_N: Tensor, after_NT: Tensor, before_NT: Tensor) -> Tensor:
        """The paper's statistic, (M,)."""
        advantages_NT = advantages_N[:, None].expand_as(after_NT)
        tokens = token_weights(after_NT, before_NT, advantages_NT, batch["mask"], LOSSES[self.estimator])
        weight_N1 = completion_weights(tokens).weight_N[:, None]
        everywhere_NM = torch.ones_like(batch["rewards"], dtype=torch.bool)
        return within_prompt_covariance(batch["rewards"], weight_N1, everywhere_NM, GROUP_N).mean_D

    def kept(self) -> dict[str, dict[str, list[float | None]]]:
        """By kind and objective (or pair of them), a number a step, to three digits."""
        columns = {kind: PAIRS if "cosine" in kind else NAMES for kind in self.steps[0]}
        return {
            kind: {name: [rounded(step[kind][place]) for step in self.steps] for place, name in enumerate(names)}
            for kind, names in columns.items()
        }

    STATE = ("order", "controller", "gram", "steps")

    def save(self, path: Path) -> None:
        """Keep all that the next step goes by."""
        state: dict[str, Any] = {key: getattr(self, key) for key in self.STATE}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"generator": torch.get_rng_state()}, path)

    def load(self, path: Path) -> None:
        """Go on where `save` left."""
        state = torch.load(path, weights_only=False)
        for key in self.STATE:
            setattr(self, key, state[key])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])


OWN, UNSEEN = slice(PROMPTS * COMPLETIONS), slice(PROMPTS * COMPLETIONS, None)
GROUP_N = torch.arange(PROMPTS).repeat_interleave(COMPLETIONS)
PLACES = [(one, other) for one in range(len(NAMES)) for other in range(one + 1, len(NAMES))]
PAIRS = [f"{NAMES[one]}:{NAMES[other]}" for one, other in PLACES]


def progress(batch: dict[str, Tensor], after_NT: Tensor, before_NT: Tensor) -> Progress:
    """What a step did to the rewards on a batch's completions."""
    group_N = torch.arange(len(after_NT) // COMPLETIONS).repeat_interleave(COMPLETIONS)
    scored_NM = torch.ones_like(batch["rewards"], dtype=torch.bool)
    return forward_probe(batch["rewards"], scored_NM, after_NT, before_NT, batch["mask"], group_N, names=NAMES)


def pairs(gram_RR: Tensor) -> Tensor:
    """The cosines of pairs of objectives; NaN where a cross-fitted square is below 0."""
    norms_R = gram_RR.diagonal().sqrt()
    return torch.stack([gram_RR[one, other] / norms_R[one] / norms_R[other] for one, other in PLACES])


def rounded(value: float) -> float | None:
    """To three digits."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


if __name__ == "__main__":
    main()
