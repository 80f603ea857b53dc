"""`ctwa prefer` on the engine."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ctwa.aggregators.cagrad_clip import CAGradClipConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.preference import (
    DpoLoss,
    PairLogProbs,
    PairTokens,
    PreferenceBatch,
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
from tests.e2e.conftest import Run, assert_same_weights, comparable, weights_of

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
RACO = [
    "method=raco",
    "ctwa.early_stopping={patience: 2}",
    "trainer.n_gpus_per_node=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
]
"""On two ranks, each with several micro-batches: what came of it is compared with one model that takes all at once."""
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
    return prefer(tmp_path_factory.mktemp("raco") / "run", *RACO)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([(one[name] - other[name]).flatten() for name in one]).norm())


def pairs_of(path: Path, tokenizer: PreTrainedTokenizerBase, *names: str) -> list[PairTokens]:
    """Those of a file that has labels for these objectives."""
    (pair_set,) = load_preferences({name: PreferenceSource(data=str(path), label=f"labels.{name}") for name in names})
    return tokenize_pairs(pair_set, tokenizer, max_length=96).pairs


def losses_of(model: PreTrainedModel, reference: PreTrainedModel, batch: PreferenceBatch) -> torch.Tensor:
    """DPO's loss (Rafailov et al. 2023, eq. 7) of each objective, (M,)."""

    def sums(of: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
        logits_NTV = of(batch.input_ids_NT, attention_mask=batch.attention_mask_NT).logits[:, :-1]
        log_probs_NT = logits_NTV.log_softmax(-1).gather(2, batch.input_ids_NT[:, 1:, None])[..., 0]
        return sum_log_probs(log_probs_NT, batch.response_mask_NT[:, 1:])

    with torch.no_grad():
        reference_N, _ = sums(reference)
    sums_N, lengths_N = sums(model)
    log_probs = PairLogProbs(*sums_N.chunk(2), *lengths_N.chunk(2), *reference_N.chunk(2))
    return objective_means(objective_losses(DpoLoss(), log_probs, batch.labels_PM), batch.labelled_PM)


def test_the_engine_takes_the_steps_that_a_plain_torch_loop_takes(raco: Run, testbed: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(testbed / "model")
    pairs = pairs_of(testbed / "pairs/train.parquet", tokenizer, *NAMES)
    reference, model = (AutoModelForCausalLM.from_pretrained(testbed / "model") for _ in range(2))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.999), weight_decay=0)
    aggregator = build_aggregator(CAGradClipConfig(c=0.4), WEIGHTS)
    sampler = PairSampler([len(pairs)], batch_size=16, seed=0)

    for step in range(1, 5):
        batch = collate([pairs[i] for i in sampler.step(step)[0]], NAMES, pad_token_id=tokenizer.pad_token_id)
        losses_M = losses_of(model, reference, batch)
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
    trained, base = weights_of(raco, 4), dict(reference.state_dict())
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


def test_a_run_that_broke_off_resumes_to_the_same_bits(raco: Run, prefer: Prefer, tmp_path: Path) -> None:
    """In the third step, as a crash leaves it."""
    folder = tmp_path / "run"
    shutil.copytree(raco.folder, folder, symlinks=True)
    shutil.rmtree(folder / "checkpoints/global_step_4")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:4]))
    resumed = prefer(folder, *RACO, "ctwa.resume=true")
    for step, (one, other) in enumerate(zip(raco.records, resumed.records, strict=True)):
        assert comparable(one) == comparable(other), step
    assert_same_weights(raco, resumed, 4)


def test_clamp_trains_an_adapter_on_a_data_set_an_objective(prefer: Prefer, testbed: Path, tmp_path: Path) -> None:
    """LoRA on two ranks; every objective has pairs of its own, which say nothing of the other one."""
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
        "trainer.n_gpus_per_node=2",
        "ctwa.gradients.passes=sequential",
    ]
    run = prefer(tmp_path / "run", *settings)
    first = run.records[1]
    for name in NAMES:
        assert first[f"preference/{name}/loss"] == pytest.approx(math.log(2))  # the policy is the reference still
        assert first[f"gradient/norm/{name}"] > 0
    # CLAMP at mu = 100 follows the larger weighted loss alone, and that is accuracy's: .7 log 2 against .3 log 2.
    assert first["weight/accuracy"] == pytest.approx(0.7, abs=1e-6)
    assert first["weight/conciseness"] == pytest.approx(0, abs=1e-6)
    # What is saved for transformers is the plain model, the adapter merged: it has the losses that were measured.
    saved = AutoModelForCausalLM.from_pretrained(run.folder / "checkpoints/global_step_2/actor/huggingface")
    plain = AutoModelForCausalLM.from_pretrained(testbed / "model")
    tokenizer = AutoTokenizer.from_pretrained(testbed / "model")
    assert weights_of(run, 2).keys() <= plain.state_dict().keys()
    for name in NAMES:
        pairs = pairs_of(testbed / f"pairs-{name}/validation.parquet", tokenizer, name)
        batch = collate(pairs, (name,), pad_token_id=tokenizer.pad_token_id)
        with torch.no_grad():
            (loss,) = losses_of(saved, plain, batch).tolist()
        assert abs(loss - math.log(2)) > 1e-4
        assert run.records[2][f"val_preference/{name}/loss"] == pytest.approx(loss, abs=1e-5)
