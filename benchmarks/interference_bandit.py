"""Where the paper's covariance predicts a step and where it has the wrong sign: bandits without a sample, in float64.

    python benchmarks/interference_bandit.py [--instances 1000]

Prints the first tables of docs/results/interference.md, as Markdown. A prompt is a bandit with linear logits
(shared_bandit.py); an expectation is a sum over its arms, and a change of an expected reward the
difference of two such sums, before and after the step.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from shared_bandit import after, centred, covariance, natural_gradient, policy_gradient, standardised
from torch import Tensor

from ctwa.policy_loss import LossTokens, Vanilla
from ctwa.report.markdown import table

ARMS, OBJECTIVES, PROMPTS, UNSEEN, FEATURES = 8, 3, 16, 200, 6
SMALL = 1e-5
"""The length of a step that shows its first order."""
NOTHING = 1e-9
CLIP = 0.2
INNER_STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000, help="bandits drawn for each line")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    for title, made in (
        ("Signs, by step", signs(arguments.instances)),
        ("Right and wrong answers in two styles", styles()),
        ("The same, by what prompts share", sharing()),
        ("Clipping", clipping(arguments.instances)),
        ("The noise of a batch", noise()),
    ):
        print(f"\n### {title}\n\n{made}")


# -- bandits drawn at random ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bandit:
    """Prompts, and the update that all objectives together ask for.

    Attributes:
        p_BA: the policy.
        features_BAF: of the arms.
        rewards_BAM: 0 or 1.
    """

    p_BA: Tensor
    features_BAF: Tensor
    rewards_BAM: Tensor

    @property
    def weights_BA1(self) -> Tensor:
        """The advantages: the mean of the rewards, standardised."""
        return standardised(self.p_BA, self.rewards_BAM.mean(2))[..., None]

    @property
    def covariance_M(self) -> Tensor:
        """The paper's statistic c."""
        return covariance(self.p_BA, self.rewards_BAM, self.weights_BA1)[:, 0]

    def policy_gradient(self) -> Tensor:
        """The step in which it climbs the advantages."""
        return policy_gradient(self.p_BA, self.features_BAF, self.weights_BA1)

    def natural_gradient(self) -> Tensor:
        """Likewise, by the natural gradient."""
        return natural_gradient(self.p_BA, self.features_BAF, self.weights_BA1)

    def moved(self, step_F: Tensor) -> Bandit:
        """After a step."""
        return replace(self, p_BA=after(self.p_BA, self.features_BAF, step_F))

    def change_M(self, step_F: Tensor) -> Tensor:
        """What a step does to the expected rewards."""
        return ((self.moved(step_F).p_BA - self.p_BA)[..., None] * self.rewards_BAM).sum(1).mean(0)

    def predicted_M(self, step_F: Tensor) -> Tensor:
        """What a step does to them by their gradients on these prompts."""
        return covariance(self.p_BA, self.rewards_BAM, self.features_BAF) @ step_F


def draw(prompts: int, *, shared: bool, generator: torch.Generator) -> Bandit:
    """A bandit whose first objective goes with the others, or against them, to a correlation drawn from -1 to 1.

    An arm has the others' rewards where a quality of it is above 0, and the first's where another is, each with noise
    of its own, as large. Qualities are linear in a few shared features; or they are drawn for each arm, which then has
    a feature of its own.
    """
    if shared:
        features_BAF = torch.randn(prompts, ARMS, FEATURES, generator=generator)
        qualities_BA3 = features_BAF @ torch.randn(FEATURES, 3, generator=generator) / FEATURES**0.5
    else:
        features_BAF = torch.eye(prompts * ARMS).view(prompts, ARMS, -1)
        qualities_BA3 = torch.randn(prompts, ARMS, 3, generator=generator)
    others_BA, apart_BA, logits_BA = qualities_BA3.unbind(2)
    correlation = float(2 * torch.rand(1, generator=generator) - 1)
    first_BA = correlation * others_BA + (1 - correlation**2) ** 0.5 * apart_BA
    qualities_BAM = torch.stack([first_BA, *[others_BA] * (OBJECTIVES - 1)], dim=2)
    noise_BAM = torch.randn(prompts, ARMS, OBJECTIVES, generator=generator)
    return Bandit(torch.softmax(logits_BA, 1), features_BAF, (qualities_BAM + noise_BAM > 0).double())


def split(bandit: Bandit, num: int) -> tuple[Bandit, Bandit]:
    """The first prompts, and the others."""
    first, second = (
        Bandit(bandit.p_BA[rows], bandit.features_BAF[rows], bandit.rewards_BAM[rows])
        for rows in (slice(num), slice(num, None))
    )
    return first, second


STEPS = {
    "natural gradient": Bandit.natural_gradient,
    "policy gradient": Bandit.policy_gradient,
    "Adam's first (the gradient's sign)": lambda bandit: bandit.policy_gradient().sign(),
}


def signs(instances: int) -> str:
    """How often the change of the first objective has the sign that was predicted."""
    rows = []
    for title, prompts, shared in (
        ("1 prompt, a logit for each arm", 1, False),
        (f"{PROMPTS} prompts, {FEATURES} shared features", PROMPTS, True),
    ):
        for kind, step_of in STEPS.items():
            generator = torch.Generator().manual_seed(0)
            signs = Signs()
            for _ in range(instances):
                unseen = UNSEEN if shared else 0
                own, other = split(draw(prompts + unseen, shared=shared, generator=generator), prompts)
                step_F = step_of(own)
                step_F = SMALL * step_F / step_F.norm()
                if (step_F.isnan() | (own.covariance_M[0].abs() < NOTHING)).any():
                    continue  # nothing to learn, or a reward that is the same for all arms
                change_M = own.change_M(step_F)
                signs.add("own", own.covariance_M, change_M)
                if unseen:
                    change_M = other.change_M(step_F)
                    signs.add("unseen", own.covariance_M, change_M)
                    signs.add("gradients", own.predicted_M(step_F), change_M)
            seen = [signs.seen(key) for key in ("own", "unseen", "gradients")]
            rows.append([title, kind, signs.falls("own"), *seen])
    header = ["policy", "step", "it falls", "c, own prompts", "c, unseen prompts", "own gradients, unseen prompts"]
    return table(header, rows)


class Signs:
    """Of the first objective: what was predicted, by what predicted it, beside what came."""

    def __init__(self) -> None:
        self._came = defaultdict[str, list[bool]](list)  # as predicted, by "key falls" and "key rises"

    def add(self, key: str, predicted_M: Tensor, change_M: Tensor) -> None:
        """One of each."""
        kind = "falls" if change_M[0] < 0 else "rises"
        self._came[f"{key} {kind}"].append(bool(predicted_M[0].sign() == change_M[0].sign()))

    def falls(self, key: str) -> str:
        """The share of falls."""
        num = {kind: len(self._came[f"{key} {kind}"]) for kind in ("falls", "rises")}
        return f"{num['falls'] / sum(num.values()):.0%}"

    def seen(self, key: str) -> str:
        """Of the falls, and of the rises, the shares that were predicted."""
        found = [self._came[f"{key} {kind}"] for kind in ("falls", "rises")]
        return " / ".join(f"{sum(each) / len(each):.1%}" for each in found) if all(found) else "-"


# -- two styles -------------------------------------------------------------------------------------------------------

ANSWERS = 4
P_SHORT = 0.5
RIGHT = {"long": 0.8, "short": 0.3}


def two_styles(prompts: int, private: float) -> Bandit:
    """Each arm is a style and an answer. Accuracy is 1 for the prompt's answer, brevity for the short style.

    Features: the style, which all prompts share, of length 1; and one of each arm of each prompt, of length `private`.
    """
    style_A = torch.tensor([0.0] * ANSWERS + [1.0] * ANSWERS)
    right_BA = torch.zeros(prompts, 2 * ANSWERS)
    prompts_B = torch.arange(prompts)
    right_BA[prompts_B, prompts_B % ANSWERS] = 1
    right_BA[prompts_B, ANSWERS + prompts_B % ANSWERS] = 1
    share_A = torch.where(style_A == 1, P_SHORT, 1 - P_SHORT)
    is_right_A = torch.where(style_A == 1, RIGHT["short"], RIGHT["long"])
    p_BA = share_A * torch.where(right_BA == 1, is_right_A, (1 - is_right_A) / (ANSWERS - 1))
    style_BA = style_A.expand(prompts, -1)
    arms_BAF = private * torch.eye(prompts * 2 * ANSWERS).view(prompts, 2 * ANSWERS, -1)
    features_BAF = torch.cat([style_BA[..., None], arms_BAF], dim=2)
    return Bandit(p_BA, features_BAF, torch.stack([right_BA, style_BA], dim=2))


def styles() -> str:
    """The covariances, in their parts, and what steps do."""
    bandit = two_styles(ANSWERS, private=0.0)
    bandit = replace(bandit, features_BAF=bandit.features_BAF[..., :1])  # the style, which is all there is to learn
    c_M, natural_F = bandit.covariance_M, bandit.natural_gradient()
    between_M = bandit.predicted_M(natural_F)
    rows = [
        ["c, the paper's", *cells(c_M)],
        ["of it within the styles", *cells(c_M - between_M)],
        ["of it between the styles", *cells(between_M)],
        ["change in a natural gradient step of .01, / .01", *cells(bandit.change_M(0.01 * natural_F) / 0.01)],
        ["change in one of .5, / .5", *cells(bandit.change_M(0.5 * natural_F) / 0.5)],
        [
            "change in a policy gradient step of .01, / .01",
            *cells(bandit.change_M(0.01 * bandit.policy_gradient()) / 0.01),
        ],
    ]
    return table(["", "accuracy", "brevity"], rows)


def cells(values_M: Tensor) -> list[str]:
    """With their signs."""
    return [f"{value:+.4f}" for value in values_M.tolist()]


def sharing() -> str:
    """Accuracy's change in a policy gradient step, by how long a prompt's own features are and how many prompts."""
    batches = (1, 4, 16, 64)
    rows = []
    for private in (0.5, 1.0, 2.0, 4.0, 8.0):
        row = [f"{private:g}"]
        for prompts in batches:
            bandit = two_styles(prompts, private)
            change_M = bandit.change_M(SMALL * bandit.policy_gradient()) / SMALL
            row.append(cells(change_M)[0])
        rows.append(row)
    return table(["length of a prompt's own features", *(f"B = {each}" for each in batches)], rows)


# -- clipping ---------------------------------------------------------------------------------------------------------


def clipping(instances: int) -> str:
    """How often the sign of c, taken after the update, is that of what the update did, by the update's size.

    The update: four steps of the natural gradient on the clipped loss, for one prompt with a logit for each arm. Of the
    first objective.
    """
    rows = []
    for size in (0.01, 0.1, 0.2, 0.3, 1.0):
        generator = torch.Generator().manual_seed(0)
        signs, lost = Signs(), []
        for _ in range(instances):
            bandit = draw(1, shared=False, generator=generator)
            if bandit.covariance_M[0].abs() < NOTHING:
                continue
            moved = bandit
            for _ in range(INNER_STEPS):
                weights_BA1, _ = clipped_weights(moved, bandit, CLIP)
                # The gradient is an expectation under the old policy; the metric is that of the policy as it is.
                score_BAF = centred(moved.p_BA, moved.features_BAF)
                pulled_F = torch.einsum("ba,bay,baf->f", bandit.p_BA, weights_BA1, score_BAF)
                fisher_FF = covariance(moved.p_BA, moved.features_BAF, moved.features_BAF)
                step_F = torch.linalg.pinv(fisher_FF, hermitian=True) @ pulled_F
                moved = moved.moved(size / INNER_STEPS * step_F)
            change_M = ((moved.p_BA - bandit.p_BA)[..., None] * bandit.rewards_BAM).sum(1).mean(0)
            signs.add("before", bandit.covariance_M, change_M)
            for key, clip in (("clipped", CLIP), ("unclipped", math.inf)):
                weights_BA1, kept_BA = clipped_weights(moved, bandit, clip)
                signs.add(key, covariance(bandit.p_BA, bandit.rewards_BAM, weights_BA1)[:, 0], change_M)
                if key == "clipped":
                    lost.append(float((bandit.p_BA * ~kept_BA).sum()))
        shares = [signs.seen(key) for key in ("before", "unclipped", "clipped")]
        rows.append([f"{size:g}", f"{sum(lost) / len(lost):.1%}", *shares])
    header = ["size", "clipped after it", "c before it", "c after it, unclipped", "c after it, clipped: the paper's"]
    return table(header, rows)


def clipped_weights(moved: Bandit, bandit: Bandit, clip: float) -> tuple[Tensor, Tensor]:
    """W of Eq. 7, every arm a completion of one token, (B, A, 1); and what was not clipped, (B, A)."""
    weights_BA1 = bandit.weights_BA1
    new_N1, old_N1, advantages_N1 = (each.reshape(-1, 1) for each in (moved.p_BA.log(), bandit.p_BA.log(), weights_BA1))
    tokens = LossTokens(new_N1, old_N1, advantages_N1, torch.ones_like(new_N1, dtype=torch.bool))
    weight_NT, kept_NT = Vanilla(low=clip, high=clip).weigh(tokens)
    return torch.where(kept_NT, weight_NT, 0.0).view_as(weights_BA1), kept_NT.view_as(moved.p_BA)


# -- the noise of a batch ---------------------------------------------------------------------------------------------


def noise() -> str:
    """What the plain Gram matrix of a batch is expected to say of a policy gradient step, and what is so.

    A batch has N completions of prompts of their own. The gradient of an objective is the mean of advantage times score
    function over them, so its inner product with the step has N (N - 1) pairs of different completions, which are the
    truth, and N pairs of a completion with itself.
    """
    bandit = two_styles(ANSWERS, private=1.0)
    p_BA = bandit.p_BA
    alone_BAM = torch.stack([standardised(p_BA, each) for each in bandit.rewards_BAM.unbind(2)], dim=2)
    true_M = covariance(p_BA, alone_BAM, bandit.features_BAF) @ bandit.policy_gradient()
    lengths_BA = centred(p_BA, bandit.features_BAF).square().sum(2)
    itself_M = torch.einsum("ba,bam,ba,ba->bm", p_BA, alone_BAM, bandit.weights_BA1[..., 0], lengths_BA).mean(0)
    rows = [[str(num), *cells((1 - 1 / num) * true_M + itself_M / num)] for num in (1, 4, 16, 64, 256)]
    rows.append(["cross-fitted, any number", *cells(true_M)])
    return table(["completions", "accuracy", "brevity"], rows)


if __name__ == "__main__":
    main()
