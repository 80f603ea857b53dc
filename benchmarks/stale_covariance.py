"""What CTWA's covariance says of an update whose completions an older policy wrote: bandits without a sample.

    python benchmarks/stale_covariance.py [--instances 200]

Prints the table of docs/async.md, as Markdown. Each prompt is a bandit whose arms have a logit each. Three policies are
in an update: b wrote the completions, and the advantages are standardised under it; old is the one that is updated, and
the loss weighs a completion by rho = old / b; new is the one that it becomes. Between b and old are as many synchronous
updates as the lag says. The truth is the change of an expected reward from old to new. All is in float64.

Dimensions: B prompts, A arms, M objectives.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch
from shared_bandit import standardised
from torch import Tensor

from ctwa.report.markdown import table

ARMS, PROMPTS = 8, 16
PREFERENCE = (0.7, 0.2, 0.1)
STEP = 0.1
LAGS = (0, 1, 2, 4, 8)
LARGEST = 15**0.5
"""Advantage of one of 16 completions; of infinitely many a rare one would have any."""
NOTHING = 1e-3
"""A change of a reward, per step size, that has no sign worth speaking of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200, help="bandits drawn for each lag")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    print(measured(arguments.instances))


def measured(instances: int) -> str:
    """Errors of each statistic in % of the mean change, and how often its sign is wrong, by lag."""
    rows = []
    for lag in LAGS:
        said: dict[str, list[Tensor]] = defaultdict(list)
        for seed in range(instances):
            for name, value_M in last_update(lag, seed).items():
                said[name].append(value_M)
        truth, *statistics = (torch.cat(each) for each in said.values())
        errors = [f"{100 * float((each - truth).abs().mean() / truth.abs().mean()):.0f} %" for each in statistics]
        has_sign = truth.abs() > NOTHING
        wrong = [f"{100 * float((each * truth < 0)[has_sign].double().mean()):.1f} %" for each in statistics]
        rows.append([str(lag), *errors, *wrong])
    kinds = ("no rho", "rho in W", "rho in every mean")
    heads = [f"{what}, {kind}" for what in ("error", "wrong sign") for kind in kinds]
    return table(["updates between", *heads], rows)


def last_update(lag: int, seed: int) -> dict[str, Tensor]:
    """Train for some updates; of the last one the truth and what each statistic says, (M,), by unit of the step."""
    generator = torch.Generator().manual_seed(seed)
    logits_BA = torch.randn(PROMPTS, ARMS, generator=generator)
    rewards_BAM = (torch.rand(PROMPTS, ARMS, len(PREFERENCE), generator=generator) < 0.5).double()
    scores_BA = rewards_BAM @ torch.tensor(PREFERENCE)
    b_BA = old_BA = torch.softmax(logits_BA, 1)
    for _ in range(lag):
        old_BA = updated(old_BA, advantages(old_BA, scores_BA))
    advantages_BA = advantages(b_BA, scores_BA)
    new_BA = updated(old_BA, advantages_BA)
    rho_BA = old_BA / b_BA
    weights_BA = advantages_BA * new_BA / old_BA  # W without rho
    return {
        "truth": ((new_BA - old_BA)[..., None] * rewards_BAM).sum(1).mean(0) / STEP,
        "no rho": covariance(b_BA, rewards_BAM, weights_BA),
        "rho in W": covariance(b_BA, rewards_BAM, rho_BA * weights_BA),
        "rho in every mean": covariance(old_BA, rewards_BAM, weights_BA),
    }


def advantages(p_BA: Tensor, scores_BA: Tensor) -> Tensor:
    """GRPO's, of completions by a policy."""
    return standardised(p_BA, scores_BA).clamp(-LARGEST, LARGEST)


def updated(p_BA: Tensor, advantages_BA: Tensor) -> Tensor:
    """The policy after a step along the natural gradient, which adds to each arm's logit."""
    return torch.softmax(p_BA.log() + STEP * advantages_BA, 1)


def covariance(p_BA: Tensor, rewards_BAM: Tensor, weights_BA: Tensor) -> Tensor:
    """Of each objective's reward with the weight, within a prompt, mean over prompts, (M,)."""
    mean_BM = torch.einsum("ba,bam->bm", p_BA, rewards_BAM)
    together_BM = torch.einsum("ba,bam,ba->bm", p_BA, rewards_BAM, weights_BA)
    return (together_BM - mean_BM * (p_BA * weights_BA).sum(1, keepdim=True)).mean(0)


if __name__ == "__main__":
    main()
