"""Methods of ctwa in a training loop of your own: plain torch, no verl, no Ray.

The policy chooses one of four answers. Answer 0 is right and short, but the policy hardly ever gives it; answer 1 is
right, answer 2 is short, answer 3 is neither. Fixed weights climb to "right" and give up "short". Run it:

    python examples/plain_loop.py

N completions (K for each of B prompts), M objectives, A answers, T = 1 token, S steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ctwa import methods
from ctwa.methods import Aggregator, GroupRelative, RewardMatrix, Rollout, Scalarizer, Update, Vanilla, method_options

REWARDS_AM = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.float64)
START_A = torch.tensor([0.02, 0.48, 0.30, 0.20], dtype=torch.float64)
NAMES = ("right", "short")
WEIGHTS = {"right": 0.8, "short": 0.2}
TARGETS = {"right": 0.05, "short": 0.05}  # of the covariance of each reward with the update
B, K, S, LEARNING_RATE = 32, 16, 200, 0.2


def sample(logits_A: Tensor) -> tuple[Rollout, Callable[[], Tensor]]:
    """Completions with their rewards, and what gives their log-probabilities (N, T) under the policy of the moment."""
    answers_N = torch.multinomial(logits_A.detach().softmax(0), B * K, replacement=True)
    rewards = RewardMatrix(NAMES, REWARDS_AM[answers_N], torch.ones(B * K, len(NAMES), dtype=torch.bool))
    rollout = Rollout(rewards, group_N=torch.arange(B).repeat_interleave(K), mask_NT=torch.ones(B * K, 1))
    return rollout, lambda: logits_A.log_softmax(0)[answers_N, None]


def descend(logits_A: Tensor, gradient_A: Tensor) -> None:
    """One step of plain gradient descent."""
    logits_A.data -= LEARNING_RATE * gradient_A


def step_by_scores(logits_A: Tensor, scalarizer: Scalarizer) -> None:
    """A scalarizer turns rewards into advantages, and then observes what the update did to each objective."""
    rollout, log_probs = sample(logits_A)
    old_NT = log_probs()
    advantages_NT = scalarizer.advantages(rollout, GroupRelative(rollout))
    (gradient_A,) = torch.autograd.grad(-(advantages_NT * old_NT).mean(), logits_A)
    descend(logits_A, gradient_A)
    scalarizer.observe_update(Update(rollout, advantages_NT, old_NT.detach(), log_probs().detach(), Vanilla()))


def step_by_gradients(logits_A: Tensor, aggregator: Aggregator) -> None:
    """An aggregator turns the inner products of the objectives' gradients into the weights of one step."""
    rollout, log_probs = sample(logits_A)
    rewards_NM = rollout.rewards.select(aggregator.names).rewards_NM
    losses = [-(GroupRelative(rollout)(rewards_N) * log_probs()).mean() for rewards_N in rewards_NM.unbind(1)]
    gradients_MA = torch.stack([torch.autograd.grad(loss, logits_A)[0] for loss in losses])
    descend(logits_A, aggregator.solve(gradients_MA @ gradients_MA.T).weights_M @ gradients_MA)


def train(step: Callable[[Tensor, Any], None], method: Scalarizer | Aggregator) -> Tensor:
    """Train from the start; the expected rewards before the first step and after each, (S + 1, M)."""
    torch.manual_seed(0)
    logits_A, expected = START_A.log().requires_grad_(), [START_A @ REWARDS_AM]
    for _ in range(S):
        step(logits_A, method)
        expected.append(logits_A.detach().softmax(0) @ REWARDS_AM)
    return torch.stack(expected)


def main() -> dict[str, Tensor]:
    """Train with three methods, and print what became of each objective."""
    linear = methods.build_scalarizer(method_options("linear"), WEIGHTS, scale_invariant=True)
    ctwa = methods.build_scalarizer(method_options("ctwa", eta=0.5), WEIGHTS, targets=TARGETS, scale_invariant=True)
    upgrad = methods.build_aggregator(method_options("upgrad"), WEIGHTS)
    curves = {
        "linear": train(step_by_scores, linear),
        "ctwa": train(step_by_scores, ctwa),
        "upgrad": train(step_by_gradients, upgrad),
    }
    print("method  objective  start  lowest  end")
    for method, expected_SM in curves.items():
        for name, values_S in zip(NAMES, expected_SM.T, strict=True):
            print(f"{method:8}{name:9}{values_S[0]:7.2f}{values_S.min():8.2f}{values_S[-1]:5.2f}")
    print(f"CTWA's share for 'short': {ctwa.weights['short'] / sum(ctwa.weights.values()):.2f}, at first 0.20")
    return curves


if __name__ == "__main__":
    main()
