"""Every registered method trains on the engine, and goes on after a restart as if there had been none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctwa.engine.checkpoint import read_state
from ctwa.scalarizers import METHODS
from tests.e2e.conftest import Run
from tests.e2e.test_training import assert_same_weights, comparable

pytestmark = pytest.mark.e2e

NUM_METHODS, TURNS = len(METHODS), 3
SETTINGS = (
    f"trainer.total_training_steps={TURNS * NUM_METHODS}",
    f"trainer.save_freq={NUM_METHODS}",
    "actor_rollout_ref.actor.optim.lr=3e-5",  # many steps from a weak model
    "ctwa.diagnostics.gradients_every=1",
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "data.val_max_samples=8",
)
PROGRAM = [str(Path(__file__).with_name("rotating_run.py"))]


@pytest.fixture(scope="module")
def rotating(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three turns of every method, a step each."""
    return train(tmp_path_factory.mktemp("rotating") / "run", *SETTINGS, program=PROGRAM).checked()


def test_every_method_trains(rotating: Run) -> None:
    for step, metrics in enumerate(rotating.records[1:]):
        method = sorted(METHODS)[step % NUM_METHODS]
        # PAMA trains on what is good by every objective, and a weak model has steps without any.
        assert metrics["actor/grad_norm"] > 0 or metrics["pama/zero_rows"] == 1, method
        for name in ("accuracy", "conciseness", "clarity"):
            assert f"covariance/{name}" in metrics, method
            assert f"gradient/norm/{name}" in metrics, method
            assert metrics[f"weight/{name}"] >= 0, method
            if step > 0:
                assert f"probe/gain/{name}" in metrics, method


def test_every_method_resumes_to_the_same_bits(rotating: Run, train: Callable[..., Run], tmp_path: Path) -> None:
    last = TURNS * NUM_METHODS
    folder = tmp_path / "run"
    shutil.copytree(rotating.folder, folder)
    shutil.rmtree(folder / f"checkpoints/global_step_{last}")
    resumed = train(folder, *SETTINGS, "ctwa.resume=true", program=PROGRAM).checked()
    assert len(resumed.records) == last + 1
    for step in range(last - NUM_METHODS + 1, last + 1):
        method = sorted(METHODS)[(step - 1) % NUM_METHODS]
        assert comparable(resumed.records[step]) == comparable(rotating.records[step]), method
    assert_same_weights(resumed, rotating, last)
    states = [read_state(run.folder / f"checkpoints/global_step_{last}") for run in (resumed, rotating)]
    for part in ("scalarizer", "probe"):
        assert states[0][part] == states[1][part]
