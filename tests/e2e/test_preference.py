"""`ctwa prefer` on the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctwa.aggregators.cagrad_clip import CAGradClipConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.preference import (
    DpoLoss,
    PairLogProbs,
    PreferenceSource,
    collate,
    load_preferences,
    objective_losses,
    objective_means,
    sum_log_probs,
    tokenize_pairs,
)
from ctwa.preference.sampling import PairSampler
from ctwa.testbed.preferences import make_preferences
from tests.e2e.conftest import Run

pytestmark = pytest.mark.e2e

NAMES = ("accuracy", "conciseness")
WEIGHTS = {"accuracy": 0.7, "conciseness": 0.3}
SMALL = [
    "data.train_batch_size=16",
    "trainer.n_gpus_per_node=1",
    "trainer.total_training_steps=4",
    "trainer.test_freq=2",
    "trainer.save_freq=2",
    "actor_rollout_ref.actor.optim.lr=3e-4",
    *(f"ctwa.objectives.{name}.weight={weight}" for name, weight in WEIGHTS.items()),
]
Prefer = Callable[..., Run]


@pytest.fixture(scope="session")
def prefer(testbed: Path, run_command: Callable[[Path, list[str]], Run]) -> Prefer:
    """Start a run of `ctwa prefer`, wait for its end."""
    if not (testbed / "pairs").exists():
        make_preferences("D", testbed / "pairs", num_train=96, num_validation=24, num_test=8)

    def start(folder: Path, *overrides: str) -> Run:
        own = [f"ctwa.run={folder}", f"ctwa.task_dir={testbed}", f"ctwa.reference_cache={testbed / 'reference'}"]
        return run_command(folder, ["-m", "ctwa.cli", "prefer", *own, *SMALL, *overrides]).checked()

    return start


@pytest.fixture(scope="module")
def raco(prefer: Prefer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return prefer(tmp_path_factory.mktemp("raco") / "run", "method=raco", "ctwa.early_stopping={patience: 2}")


def weights_of(run: Run, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(run.folder / f"checkpoints/global_step_{step}/actor/huggingface/model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([(one[name] - other[name]).flatten() for name in one]).norm())


def test_the_engine_takes_the_steps_that_a_plain_torch_loop_takes(raco: Run, testbed: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(testbed / "model")
    source = {
        name: PreferenceSource(data=str(testbed / "pairs/train.parquet"), label=f"labels.{name}") for name in NAMES
    }
    (pair_set,) = load_preferences(source)
    pairs = tokenize_pairs(pair_set, tokenizer, max_length=96).pairs
    reference, model = (AutoModelForCausalLM.from_pretrained(testbed / "model") for _ in range(2))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.999), weight_decay=0)
    aggregator = build_aggregator(CAGradClipConfig(c=0.4), WEIGHTS)
    sampler = PairSampler([len(pairs)], batch_size=16, seed=0)

    def sums(of: torch.nn.Module, batch: object) -> tuple[torch.Tensor, torch.Tensor]:
        logits = of(batch.input_ids_NT, attention_mask=batch.attention_mask_NT).logits[:, :-1]  # type: ignore[attr-defined]
        log_probs = logits.log_softmax(-1).gather(2, batch.input_ids_NT[:, 1:, None])[..., 0]  # type: ignore[attr-defined]
        return sum_log_probs(log_probs, batch.response_mask_NT[:, 1:])  # type: ignore[attr-defined]

    for step in range(1, 5):
        batch = collate([pairs[i] for i in sampler.step(step)[0]], NAMES, pad_token_id=tokenizer.pad_token_id)
        with torch.no_grad():
            reference_N, _ = sums(reference, batch)
        sums_N, lengths_N = sums(model, batch)
        log_probs = PairLogProbs(*sums_N.chunk(2), *lengths_N.chunk(2), *reference_N.chunk(2))
        losses_PM = objective_losses(DpoLoss(), log_probs, batch.labels_PM)
        losses_M = objective_means(losses_PM, batch.labelled_PM)
        gradients_MD = torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
                for loss in losses_M
            ]
        ).double()
        weights_M = aggregator.solve(gradients_MD @ gradients_MD.T).weights_M
        combined = (weights_M @ gradients_MD).float().split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, combined, strict=True):
            parameter.grad = part.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        metrics = raco.records[step]
        for m, name in enumerate(NAMES):
            assert metrics[f"preference/{name}/loss"] == pytest.approx(losses_M[m].item(), abs=1e-5)
            assert metrics[f"weight/{name}"] == pytest.approx(float(weights_M[m]), abs=1e-3)
    expected = dict(model.state_dict())
    trained, base = weights_of(raco), dict(reference.state_dict())
    assert distance(trained, expected) < 1e-3 * distance(trained, base)


def test_the_first_validation_is_of_the_reference_and_the_best_step_is_kept(raco: Run) -> None:
    first = raco.records[0]
    assert first["val/accuracy"] == first["val/conciseness"] == 0.5
    values = {step: raco.records[step]["early_stopping/value"] for step in (0, 2, 4)}
    best = min(values, key=lambda step: values[step])
    assert raco.records[4]["early_stopping/best_value"] == pytest.approx(values[best])
    if best:
        assert (raco.folder / "checkpoints/best").resolve().name == f"global_step_{best}"
    summary = json.loads((raco.folder / "summary.json").read_text())
    assert summary["objectives"]["conciseness"]["start"] == 0.5


def test_ranks_micro_batches_and_passes_change_nothing(raco: Run, prefer: Prefer, tmp_path: Path) -> None:
    """One rank, one micro-batch, one forward pass; against two ranks, four micro-batches, M forward passes."""
    other = prefer(
        tmp_path / "run",
        "method=raco",
        "trainer.n_gpus_per_node=2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
        "ctwa.gradients.passes=sequential",
    )
    for step in (1, 2):
        for name in NAMES:
            for key in (f"gradient/norm/{name}", f"weight/{name}", f"preference/{name}/loss"):
                assert other.records[step][key] == pytest.approx(raco.records[step][key], rel=1e-5)
    moved = distance(weights_of(raco), weights_of(raco, 2))
    assert distance(weights_of(raco), weights_of(other)) < 1e-2 * moved


def test_a_resumed_run_is_the_unbroken_one_to_the_bit(raco: Run, prefer: Prefer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("method=raco", "ctwa.early_stopping={patience: 2}")
    prefer(folder, *settings, "trainer.total_training_steps=2")
    resumed = prefer(folder, *settings, "ctwa.resume=true")
    assert len(resumed.records) == len(raco.records) == 5
    assert distance(weights_of(raco), weights_of(resumed)) == 0
    for key in ("weight/accuracy", "early_stopping/value", "val/accuracy"):
        assert resumed.records[4][key] == raco.records[4][key]


def test_without_a_radius_raco_is_loss_weighting_to_the_bit(prefer: Prefer, tmp_path: Path) -> None:
    short = "trainer.total_training_steps=2"
    linear = prefer(tmp_path / "linear", "method=linear", short)
    raco = prefer(tmp_path / "raco", "method=raco", "ctwa.method.c=0", short)
    assert distance(weights_of(linear, 2), weights_of(raco, 2)) == 0
    assert linear.records[2]["weight/accuracy"] == pytest.approx(0.7)


def test_clamp_trains_an_adapter_on_a_data_set_an_objective(prefer: Prefer, testbed: Path, tmp_path: Path) -> None:
    """LoRA, on one rank and on two; every objective has pairs of its own, which say nothing of the other one."""
    for seed, name in enumerate(NAMES):
        make_preferences("D", testbed / f"pairs-{name}", num_train=48, num_validation=12, num_test=8, seed=seed)
    separate = [
        f"ctwa.objectives.{name}.{key}={testbed}/pairs-{name}/{part}.parquet"
        for name in NAMES
        for key, part in (("data", "train"), ("validation", "validation"))
    ]
    settings = [
        "method=clamp",
        *separate,
        f"ctwa.reference_cache={testbed / 'reference-separate'}",
        "actor_rollout_ref.model.lora_rank=4",
        "actor_rollout_ref.model.target_modules=all-linear",
        "trainer.total_training_steps=2",
    ]
    one = prefer(tmp_path / "one", *settings)
    two = prefer(
        tmp_path / "two",
        *settings,
        "trainer.n_gpus_per_node=2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    )
    for name in NAMES:
        for key in (f"gradient/norm/{name}", f"weight/{name}", f"val_preference/{name}/loss"):
            assert two.records[2][key] == pytest.approx(one.records[2][key], rel=1e-3)
        assert one.records[1][f"gradient/norm/{name}"] > 0
    # CLAMP at mu = 100 follows the larger weighted loss alone, and that is accuracy's: .7 log 2 against .3 log 2.
    assert one.records[1]["weight/accuracy"] == pytest.approx(0.7, abs=1e-6)
    assert one.records[1]["weight/conciseness"] == pytest.approx(0, abs=1e-6)
    # What is saved for transformers is the plain model, the adapter merged.
    plain = AutoModelForCausalLM.from_pretrained(testbed / "model").state_dict()
    assert weights_of(two, 2).keys() <= plain.keys()
    assert distance(weights_of(two, 2), plain) > 0
