"""Methods that combine the objectives' gradients, on the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import build_aggregator
from tests.e2e.conftest import Run, weights_of
from tests.e2e.test_training import completion_losses

pytestmark = pytest.mark.e2e

NAMES = ("accuracy", "clarity", "conciseness")  # the order in which the method sees them
RECORDED = [str(Path(__file__).with_name("recorded_run.py"))]


@pytest.fixture(scope="module")
def mgda(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        tmp_path_factory.mktemp("mgda") / "run",
        "method=mgda",
        "trainer.total_training_steps=2",
        "trainer.save_freq=2",
        program=RECORDED,
    ).checked()


def test_the_engine_descends_along_the_gradients_that_a_plain_torch_loop_combines(mgda: Run, testbed: Path) -> None:
    base, model = (AutoModelForCausalLM.from_pretrained(testbed / "model") for _ in range(2))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.999), weight_decay=0)
    aggregator = build_aggregator(MgdaConfig(), {"accuracy": 0.333, "conciseness": 0.333, "clarity": 0.334})
    for step in (1, 2):
        batch = torch.load(mgda.folder / f"batches/{step}.pt")
        grams = []
        for half in (slice(0, 16), slice(16, 32)):
            gradients_MD = []
            for column in range(3):
                loss = completion_losses(model, batch, half, advantages=f"objective_advantages_{column}")
                gradients = torch.autograd.grad(loss, parameters)
                gradients_MD.append(torch.cat([gradient.flatten() for gradient in gradients]))
            matrix_MD = torch.stack(gradients_MD).double()
            grams.append(matrix_MD @ matrix_MD.T)
            weights_M = aggregator.solve(grams[-1]).weights_M
            combined_D = (weights_M @ matrix_MD).float()
            for parameter, part in zip(
                parameters, combined_D.split([parameter.numel() for parameter in parameters]), strict=True
            ):
                parameter.grad = part.view_as(parameter)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        metrics = mgda.records[step]
        for row, name in enumerate(NAMES):
            norm = torch.stack([gram_MM[row, row].sqrt() for gram_MM in grams]).mean()
            assert metrics[f"gradient/norm/{name}"] == pytest.approx(float(norm), rel=1e-3)
            assert metrics[f"weight/{name}"] == pytest.approx(float(weights_M[row]), abs=1e-3)
    trained = weights_of(mgda, 2)
    moved = torch.cat([(trained[name] - p.detach()).flatten() for name, p in base.named_parameters()])
    expected = torch.cat(
        [(q - p).detach().flatten() for p, q in zip(base.parameters(), model.parameters(), strict=True)]
    )
    assert (moved - expected).norm() < 1e-3 * expected.norm()


def test_ranks_micro_batches_and_passes_change_nothing(mgda: Run, train: Callable[..., Run], tmp_path: Path) -> None:
    """One rank, one micro-batch, one forward pass; against two ranks, several micro-batches, M forward passes."""
    other = train(
        tmp_path / "run",
        "method=mgda",
        "trainer.total_training_steps=1",
        "trainer.n_gpus_per_node=2",
        "ctwa.gradients.passes=sequential",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=128",
    ).checked()
    expected = {key: value for key, value in mgda.records[1].items() if key.startswith(("gradient/", "ctwa/"))}
    assert {"gradient/norm/accuracy", "gradient/cosine/accuracy:clarity", "weight/clarity"} <= expected.keys()
    for key, value in expected.items():
        assert other.records[1][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
