"""What a run does and leaves, through Ray, verl and FSDP2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ctwa.engine.checkpoint import is_complete
from tests.e2e.conftest import Run, assert_same_weights, comparable, weights_of
from tests.e2e.stranger import QUEUE_PROCESSES

pytestmark = pytest.mark.e2e

OBJECTIVES = ("accuracy", "conciseness", "clarity")


def test_a_run_leaves_config_trace_events_samples_summary_and_a_model(six_steps: Run) -> None:
    folder = six_steps.folder
    for name in ("config.yaml", "run.json", "metrics.jsonl", "events.jsonl", "samples.jsonl", "summary.json"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "tensorboard").iterdir())
    assert len(six_steps.records) == 7  # the validation before the first step has a record of its own
    for metrics in six_steps.records[1:]:
        for name in OBJECTIVES:
            assert 0 <= metrics[f"objective/{name}/mean"] <= 1
            assert metrics[f"objective/{name}/scored_frac"] == 1
            for what in ("covariance", "weight", "ctwa/ema", "ctwa/deficit", "ctwa/target"):
                assert f"{what}/{name}" in metrics
    assert {f"val/{name}" for name in OBJECTIVES} <= set(six_steps.records[0]) & set(six_steps.records[6])
    assert set(json.loads((folder / "summary.json").read_text())["objectives"]) == set(OBJECTIVES)


def test_the_terminal_shows_the_objectives_and_not_the_engine(six_steps: Run) -> None:
    assert "accuracy" in six_steps.output
    assert "6/6" in six_steps.output
    assert "held-out" in six_steps.output
    assert len(six_steps.output.splitlines()) < 40, six_steps.output
    assert "Warning" not in six_steps.output
    assert "INFO" not in six_steps.output


def test_a_saved_model_loads_with_plain_transformers(six_steps: Run, testbed: Path) -> None:
    saved = six_steps.folder / "checkpoints/global_step_6/actor/huggingface"
    model, base = (AutoModelForCausalLM.from_pretrained(path) for path in (saved, testbed / "model"))
    prompt = AutoTokenizer.from_pretrained(saved)("Compute mod 10 : 1 + 2 * 3 - 4 ?", return_tensors="pt")["input_ids"]
    completion = model.generate(prompt, max_new_tokens=80, do_sample=False)
    assert completion.shape[1] > prompt.shape[1]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # as it was trained
    trained = dict(model.named_parameters())
    assert any(not torch.equal(parameter, trained[name]) for name, parameter in base.named_parameters())


def test_the_rollout_follows_the_trainer(six_steps: Run) -> None:
    """A stale or wrongly placed weight would show as a difference between the two's token probabilities."""
    for metrics in six_steps.records[1:]:
        assert metrics["training/rollout_probs_diff_max"] < 1e-5
    assert six_steps.records[-1]["actor/ppo_kl"] != 0  # and the policy did move


@pytest.fixture(scope="module")
def two_ranks(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        tmp_path_factory.mktemp("two") / "run", "trainer.n_gpus_per_node=2", "trainer.total_training_steps=1"
    ).checked()


def test_one_rank_and_two_ranks_measure_the_same(six_steps: Run, two_ranks: Run) -> None:
    one, two = six_steps.records[1], two_ranks.records[1]
    assert one["response_length/mean"] == two["response_length/mean"]
    for name in OBJECTIVES:
        assert one[f"objective/{name}/mean"] == two[f"objective/{name}/mean"]
        for key in (f"covariance/{name}", f"ctwa/ema/{name}", f"ctwa/deficit/{name}", f"weight/{name}"):
            assert two[key] == pytest.approx(one[key], abs=1e-6)
    assert two["rollout/usable_groups"] == one["rollout/usable_groups"] == 1
    # The same mini-batches of whole prompts, so the same two updates.
    assert two["actor/grad_norm"] == pytest.approx(one["actor/grad_norm"], rel=1e-4)


@pytest.fixture(scope="module")
def linear(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps with fixed weights; the batch of every update is kept."""
    return train(
        tmp_path_factory.mktemp("linear") / "run",
        "method=linear",
        "trainer.total_training_steps=3",
        "trainer.save_freq=3",
        program=[str(Path(__file__).with_name("recorded_run.py"))],
    ).checked()


def completion_losses(
    model: PreTrainedModel, batch: dict[str, list[torch.Tensor]], rows: slice, *, advantages: str = "advantages"
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


def assert_steps_of_a_plain_torch_loop(run: Run, testbed: Path, *, num_prompts: int) -> None:
    """Its three steps over completions of so many prompts are AdamW's on the clipped surrogate."""
    base, model = (AutoModelForCausalLM.from_pretrained(testbed / "model") for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.999), weight_decay=0)
    for step in (1, 2, 3):
        batch = torch.load(run.folder / f"batches/{step}.pt")
        scores_BK = (batch["rewards_NM"].float() @ torch.tensor([0.333, 0.333, 0.334])).view(num_prompts, 4)
        advantages_BK = (scores_BK - scores_BK.mean(1, keepdim=True)) / (scores_BK.std(1, keepdim=True) + 1e-6)
        assert scores_BK.std() > 0
        for of_engine_L, of_row in zip(batch["advantages"], advantages_BK.flatten(), strict=True):
            torch.testing.assert_close(of_engine_L, of_row.expand_as(of_engine_L), rtol=1e-5, atol=1e-5)
        for half in (slice(0, 16), slice(16, 32)):
            optimizer.zero_grad()
            completion_losses(model, batch, half).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    trained = weights_of(run, 3)
    moved = torch.cat([(trained[name] - p.detach()).flatten() for name, p in base.named_parameters()])
    expected = torch.cat(
        [(q - p).detach().flatten() for p, q in zip(base.parameters(), model.parameters(), strict=True)]
    )
    assert (moved - expected).norm() < 1e-3 * expected.norm()


def test_the_engine_makes_the_steps_of_a_plain_torch_loop(linear: Run, testbed: Path) -> None:
    assert_steps_of_a_plain_torch_loop(linear, testbed, num_prompts=8)


def test_a_run_lets_nobody_in(linear: Run) -> None:
    """Its second step was attacked by somebody who knows none of its secrets; it went on to the end."""
    report = json.loads((linear.folder / "stranger.json").read_text())
    of_queue = [ip for name, ip, _ in report["listening"] if name.startswith(QUEUE_PROCESSES)]
    # Two of the queue's controller and one of its storage, and Ray's own in both processes.
    assert of_queue == ["127.0.0.1"] * 5
    assert report["let_in"] == []
    assert list(linear.folder.glob("code-ran-*")) == []
    # Torch's rendezvous cannot be told where to listen.
    assert {name for name, ip, _ in report["listening"] if ip != "127.0.0.1"} <= {"ray::WorkerDict"}


@pytest.fixture(scope="module")
def losing(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that loses a prompt in each of three steps, and half of them in the fourth."""
    return train(
        tmp_path_factory.mktemp("losing") / "run",
        "method=linear",
        "trainer.total_training_steps=4",
        "trainer.save_freq=3",
        "ctwa.rollout.max_missing=0.2",
        program=[str(Path(__file__).with_name("recorded_run.py")), "--lose-a-prompt"],
    )


def test_rows_in_the_place_of_a_lost_prompt_weigh_nothing(losing: Run, testbed: Path) -> None:
    assert [metrics["rollout/missing_rows"] for metrics in losing.records[1:]] == [4, 4, 4]
    assert_steps_of_a_plain_torch_loop(losing, testbed, num_prompts=7)


def test_a_few_lost_completions_raise_an_alarm_and_more_stop_the_run(losing: Run) -> None:
    assert losing.returncode == 1, losing.output
    assert "16 of 32 completions were lost, more than ctwa.rollout.max_missing=0.2 allows" in losing.output
    events = [json.loads(line) for line in (losing.folder / "events.jsonl").read_text().splitlines()]
    assert [(event["kind"], event["step"]) for event in events] == [("start", None), ("alarm", 1)]
    assert events[1]["text"].startswith("lost-completions: 4 completions were lost")
    # Nothing is made of what is left, and the checkpoint before it is whole.
    assert len(losing.records) == 4
    assert is_complete(losing.folder / "checkpoints/global_step_3")


def test_ctwa_without_a_step_size_is_linear_to_the_last_bit(
    train: Callable[..., Run], linear: Run, tmp_path: Path
) -> None:
    ctwa = train(
        tmp_path / "run",
        "ctwa.method.eta=0",
        "ctwa.method.statistic=in_update",
        "trainer.total_training_steps=3",
        "trainer.save_freq=3",
    ).checked()
    for of_ctwa, of_linear in zip(ctwa.records, linear.records, strict=True):
        assert comparable(of_linear).items() <= comparable(of_ctwa).items()
    assert_same_weights(ctwa, linear, 3)


def test_the_order_of_the_objectives_changes_nothing(
    train: Callable[..., Run], six_steps: Run, testbed: Path, tmp_path: Path
) -> None:
    """The same three objectives, declared the other way round."""
    rewards = "ctwa.testbed.rewards"
    weights = {"clarity": 0.334, "conciseness": 0.333, "accuracy": 0.333}
    reversed_order = ",".join(f"{name}:{{reward_fn:'{rewards}:{name}',weight:{w}}}" for name, w in weights.items())
    run = train(
        tmp_path / "run", "~ctwa.objectives", f"+ctwa.objectives={{{reversed_order}}}", "trainer.total_training_steps=3"
    ).checked()
    assert list(json.loads((run.folder / "run.json").read_text())["objectives"]) == list(weights)
    for step in range(4):
        assert comparable(run.records[step]) == comparable(six_steps.records[step])
