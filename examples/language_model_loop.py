"""A language model trained by a loop of one's own: sampling, AdamW, mini-batches, a trace, checkpoints, resuming.

The loop is of the kind that nanochat or a LightningModule has, on a model that takes some ten seconds on a CPU. A
prompt is a letter. A completion is "right" if the letter is in it, and "short" by how few tokens it has. It is easy to
learn to say nothing, which is short: with fixed weights the model does. Run it, and look at what it left:

    python examples/language_model_loop.py --method linear --out runs/loop-linear
    python examples/language_model_loop.py --method ctwa --out runs/loop-ctwa
    ctwa report runs/loop-linear runs/loop-ctwa --out report.html

With --resume it goes on from its newest checkpoint, and ends with the bits that it has without the break.

N completions (K for each of B prompts), M objectives, T tokens, V words of the vocabulary, D width of the model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctwa import methods
from ctwa.methods import GroupRelative, LoopTrace, RewardMatrix, Rollout, Scalarizer, Update, Vanilla

WEIGHTS = {"right": 0.3, "short": 0.7}
TARGETS = {"right": 0.15, "short": 0.0}  # of the covariance of each reward with the update
LETTERS, END = 8, 8
B, K, T, V, D = 16, 16, 8, 9, 32
LOSS = Vanilla(low=0.2, high=0.2)


class Model(nn.Module):
    """A causal transformer of one layer; the first token of its input is the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(V, D), nn.Embedding(T + 1, D)
        self.layer = nn.TransformerEncoderLayer(D, 2, 2 * D, dropout=0.0, batch_first=True)
        self.head = nn.Linear(D, V)

    def forward(self, tokens: Tensor) -> Tensor:
        """The log-probabilities of what comes after each of some tokens."""
        length = tokens.shape[1]
        hidden = self.words(tokens) + self.places.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        log_probs: Tensor = self.head(self.layer(hidden, src_mask=mask, is_causal=True)).log_softmax(-1)
        return log_probs

    def log_probs_NT(self, prompts_N: Tensor, tokens_NT: Tensor) -> Tensor:
        """Those of the tokens of completions."""
        before_NT = torch.cat([prompts_N[:, None], tokens_NT[:, :-1]], dim=1)
        found_NT: Tensor = self(before_NT).gather(2, tokens_NT[:, :, None]).squeeze(2)
        return found_NT


@torch.no_grad()
def sample(model: Model, prompts_N: Tensor) -> tuple[Tensor, Tensor]:
    """Completions (N, T), and the mask of the tokens up to the end of each, the end included."""
    tokens, ended_N = prompts_N[:, None], torch.zeros(len(prompts_N), dtype=torch.bool)
    masks = []
    for _ in range(T):
        next_N = torch.multinomial(model(tokens)[:, -1].exp(), 1).squeeze(1)
        masks.append(~ended_N)
        tokens = torch.cat([tokens, torch.where(ended_N, END, next_N)[:, None]], dim=1)
        ended_N = ended_N | (next_N == END)
    return tokens[:, 1:], torch.stack(masks, dim=1)


def score(prompts_N: Tensor, tokens_NT: Tensor, mask_NT: Tensor) -> RewardMatrix:
    """The rewards of completions, as reward functions would give them: a list of numbers for each objective."""
    right_N = (tokens_NT == prompts_N[:, None]).any(1)
    short_N = 1 - mask_NT.sum(1) / T
    return RewardMatrix.from_columns({"right": right_N.tolist(), "short": short_N.tolist()})


def step(model: Model, optimizer: torch.optim.Optimizer, method: Scalarizer) -> tuple[Update, Tensor, Tensor]:
    """One step of GRPO: what it did, the prompts and the completions."""
    prompts_N = torch.randint(LETTERS, (B,)).repeat_interleave(K)
    tokens_NT, mask_NT = sample(model, prompts_N)
    group_N = torch.arange(B).repeat_interleave(K)
    rollout = Rollout(score(prompts_N, tokens_NT, mask_NT), group_N, mask_NT)
    with torch.no_grad():
        old_NT = model.log_probs_NT(prompts_N, tokens_NT)
    advantages_NT = method.advantages(rollout, GroupRelative(rollout))
    seen_NT = torch.empty_like(old_NT)  # the log-probabilities that the update itself computes
    for rows in torch.randperm(B * K).chunk(4):
        new = model.log_probs_NT(prompts_N[rows], tokens_NT[rows])
        seen_NT[rows] = new.detach()
        ratio, advantages, mask = (new - old_NT[rows]).exp(), advantages_NT[rows], mask_NT[rows]
        clipped = ratio.clamp(1 - LOSS.low, 1 + LOSS.high)
        loss = -(torch.minimum(ratio * advantages, clipped * advantages) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Update(rollout, advantages_NT, old_NT, seen_NT, LOSS), prompts_N, tokens_NT


def text(tokens: Tensor) -> str:
    """Letters for tokens; the end is a full stop."""
    return "".join("abcdefgh."[token] for token in tokens.tolist())


def train(name: str, out: Path, *, num_steps: int, save_every: int = 20, resume: bool = False) -> dict[str, float]:
    """Train with a method; the mean rewards of the last ten steps."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    options: dict[str, Any] = {"statistic": "in_update", "eta": 2.0} if name == "ctwa" else {}
    method = methods.build_scalarizer(
        methods.method_options(name, **options),
        WEIGHTS,
        targets=TARGETS if name == "ctwa" else None,
        scale_invariant=True,
    )
    checkpoint, done = out / "checkpoint.pt", 0
    if resume:
        saved = torch.load(checkpoint)
        done = saved["step"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        method.load_state_dict(saved["method"])
        torch.set_rng_state(saved["random"])
    recent = []
    with LoopTrace(
        out, method, num_steps=num_steps, seed=0, model="a letter model", resume_after=done if resume else None
    ) as trace:
        for number in range(done + 1, num_steps + 1):
            began = time.perf_counter()
            update, prompts_N, tokens_NT = step(model, optimizer, method)
            observed = method.observe_update(update)
            if number % save_every == 0:
                states = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "method": method.state_dict(),
                }
                torch.save(states | {"random": torch.get_rng_state(), "step": number}, checkpoint)
            for alarm in trace.step(number, update, observed | {"time/step": time.perf_counter() - began}):
                print(alarm)
            rewards = update.rollout.rewards
            trace.samples(number, [*map(text, prompts_N[:, None])], [*map(text, tokens_NT)], rewards)
            recent.append(rewards.rewards_NM.mean(0))
    return dict(zip(("right", "short"), torch.stack(recent[-10:]).mean(0).tolist(), strict=True))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--method", default="ctwa", help="a method of `ctwa methods` that combines rewards")
    parser.add_argument("--out", type=Path, required=True, help="the run folder")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run folder")
    given = parser.parse_args()
    means = train(given.method, given.out, num_steps=given.steps, resume=given.resume)
    print(f"mean rewards of the last steps with {given.method}: {means}")


if __name__ == "__main__":
    main()
