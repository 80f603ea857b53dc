"""A run whose every batch is known: its steps are a plain torch loop's, and nobody got in."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.engine.checkpoint import read_state
from ctwa.models.seal import is_complete
from tests.e2e.conftest import Run, weights_of
from tests.e2e.stranger import QUEUE_PROCESSES

pytestmark = pytest.mark.e2e

NAMES = ("accuracy", "clarity", "conciseness")  # the order in which a method sees them
WEIGHTS = {"accuracy": 0.333, "conciseness": 0.333, "clarity": 0.334}
MGDA_STEPS = (4, 5)
LAST = 7  # of the steps that it made
Batch = dict[str, list[torch.Tensor]]


@pytest.fixture(scope="module")
def recorded(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Fixed weights, then MGDA, then fixed weights with a prompt that is lost; the eighth step loses half of them."""
    return train(
        tmp_path_factory.mktemp("recorded") / "run",
        "method=linear",
        "ctwa.diagnostics.covariance=post_update",
        "ctwa.rollout.max_missing=0.2",
        "trainer.total_training_steps=9",
        "trainer.save_freq=3",
        program=[str(Path(__file__).with_name("recorded_run.py"))],
    )


def completion_losses(
    model: PreTrainedModel, batch: Batch, rows: slice, *, advantages: str = "advantages"
) -> torch.Tensor:
    """The clipped surrogate (Schulman et al. 2017, eq. 7) with a dual clip, mean over the tokens of the rows."""
    loss, num_tokens = torch.zeros(()), 0
    fields = ("input_ids", "responses", "old_log_probs", advantages)
    for tokens_T, response_L, old_L, advantages_L in zip(*(batch[field][rows] for field in fields), strict=True):
        logits_LV = model(input_ids=tokens_T[None]).logits[0, -len(response_L) - 1 : -1]
        log_probs_L = logits_LV.log_softmax(dim=1).gather(1, response_L[:, None]).squeeze(1)
        ratio_L = (log_probs_L - old_L).exp()
        surrogate_L = torch.minimum(ratio_L * advantages_L, ratio_L.clamp(0.8, 1.2) * advantages_L)
        bounded_L = torch.maximum(surrogate_L, 3.0 * advantages_L)  # the dual clip: where an advantage is negative
        loss = loss - torch.where(advantages_L < 0, bounded_L, surrogate_L).sum()
        num_tokens += len(response_L)
    return loss / num_tokens


def assert_advantages_of_weighted_rewards(batch: Batch, rewards_NM: torch.Tensor) -> None:
    """They are GRPO's, of the weighted sum of the rewards."""
    scores_BK = (rewards_NM.float() @ torch.tensor(list(WEIGHTS.values()))).view(-1, 4)
    advantages_BK = (scores_BK - scores_BK.mean(1, keepdim=True)) / (scores_BK.std(1, keepdim=True) + 1e-6)
    assert scores_BK.std() > 0
    for of_engine_L, of_row in zip(batch["advantages"], advantages_BK.flatten(), strict=True):
        torch.testing.assert_close(of_engine_L, of_row.expand_as(of_engine_L), rtol=1e-5, atol=1e-5)


def test_the_engine_makes_the_steps_of_a_plain_torch_loop(recorded: Run, testbed: Path) -> None:
    """AdamW's on the clipped surrogate, or along the combination of the objectives' gradients that MGDA finds."""
    base, model = (AutoModelForCausalLM.from_pretrained(testbed / "model") for _ in range(2))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.999), weight_decay=0)
    aggregator = build_aggregator(MgdaConfig(), WEIGHTS)
    weights = {0: [parameter.detach().clone() for parameter in parameters]}
    for step in range(1, LAST + 1):
        batch = torch.load(recorded.folder / f"batches/{step}.pt")
        assert len(batch["input_ids"]) == (28 if step == LAST else 32)
        grams, weights_M = [], torch.empty(0)
        if step not in MGDA_STEPS:
            assert_advantages_of_weighted_rewards(batch, batch["rewards_NM"])
        for half in (slice(0, 16), slice(16, 32)):
            if step in MGDA_STEPS:
                losses = [
                    completion_losses(model, batch, half, advantages=f"objective_advantages_{m}") for m in range(3)
                ]
                gradients = [torch.autograd.grad(loss, parameters) for loss in losses]
                matrix_MD = torch.stack([torch.cat([g.flatten() for g in row]) for row in gradients]).double()
                grams.append(matrix_MD @ matrix_MD.T)
                weights_M = aggregator.solve(grams[-1]).weights_M
                combined = (weights_M @ matrix_MD).float().split([parameter.numel() for parameter in parameters])
                for parameter, part in zip(parameters, combined, strict=True):
                    parameter.grad = part.view_as(parameter)
            else:
                optimizer.zero_grad()
                completion_losses(model, batch, half).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        weights[step] = [parameter.detach().clone() for parameter in parameters]
        metrics = recorded.records[step]
        for row, name in enumerate(NAMES if grams else ()):
            norm = torch.stack([gram_MM[row, row].sqrt() for gram_MM in grams]).mean()
            assert metrics[f"gradient/norm/{name}"] == pytest.approx(float(norm), rel=1e-3)
            assert metrics[f"weight/{name}"] == pytest.approx(float(weights_M[row]), abs=1e-3)
    names = [name for name, _ in base.named_parameters()]
    saved = {0: dict(base.named_parameters())} | {step: weights_of(recorded, step) for step in (3, 6, LAST)}
    for before, after in pairwise(saved):
        moved = torch.cat([(saved[after][name] - saved[before][name]).detach().flatten() for name in names])
        expected = torch.cat([(b - a).flatten() for a, b in zip(weights[before], weights[after], strict=True)])
        assert (moved - expected).norm() < 1e-3 * expected.norm()


def test_a_run_lets_nobody_in(recorded: Run) -> None:
    """Its second step was attacked by somebody who knows none of its secrets; it went on."""
    report = json.loads((recorded.folder / "stranger.json").read_text())
    of_queue = [ip for name, ip, _ in report["listening"] if name.startswith(QUEUE_PROCESSES)]
    # Two of the queue's controller and one of its storage, and Ray's own in both processes.
    assert of_queue == ["127.0.0.1"] * 5
    assert report["let_in"] == []
    assert list(recorded.folder.glob("code-ran-*")) == []
    # Torch's rendezvous cannot be told where to listen.
    assert {name for name, ip, _ in report["listening"] if ip != "127.0.0.1"} <= {"ray::WorkerDict"}


def test_a_few_lost_completions_raise_an_alarm_and_more_stop_the_run(recorded: Run) -> None:
    assert recorded.returncode == 1, recorded.output
    assert [metrics["rollout/missing_rows"] for metrics in recorded.records[1:]] == [0, 0, 0, 0, 0, 0, 4]
    assert "16 of 32 completions were lost, more than ctwa.rollout.max_missing=0.2 allows" in recorded.output
    events = [json.loads(line) for line in (recorded.folder / "events.jsonl").read_text().splitlines()]
    events = [event for event in events if event["kind"] != "phase"]
    assert [(event["kind"], event["step"]) for event in events] == [("start", None), ("alarm", LAST), ("error", LAST)]
    assert events[1]["text"].startswith("lost-completions: 4 completions were lost")
    assert events[2]["text"].startswith(f"failed after step {LAST}: ")
    # Nothing is made of what is left, and the step before it is saved, though none was due.
    assert len(recorded.records) == 1 + LAST
    saved = recorded.folder / f"checkpoints/global_step_{LAST}"
    assert is_complete(saved)
    assert events[2]["text"].endswith(f"the newest checkpoint is {saved.name}: ctwa.resume=true goes on from there")
    state = read_state(saved)
    assert (state["step"], state["metrics"]["weight/accuracy"]) == (LAST, recorded.records[-1]["weight/accuracy"])
    # A step of 8 prompts of the data's 96; not one more.
    assert torch.load(saved / "data.pt", weights_only=False)["_num_yielded"] == LAST


def test_one_rank_and_two_ranks_measure_the_same(recorded: Run, ctwa_on_two_ranks: Run) -> None:
    """The first step is one of the initial weights, whichever the method."""
    one, two = recorded.records[1], ctwa_on_two_ranks.records[1]
    assert one["response_length/mean"] == two["response_length/mean"]
    for name in NAMES:
        assert one[f"objective/{name}/mean"] == two[f"objective/{name}/mean"]
        assert two[f"covariance/{name}"] == pytest.approx(one[f"covariance/{name}"], abs=1e-6)
    assert two["rollout/usable_groups"] == one["rollout/usable_groups"] == 1
    # The same mini-batches of whole prompts, so the same two updates.
    assert two["actor/grad_norm"] == pytest.approx(one["actor/grad_norm"], rel=1e-4)
