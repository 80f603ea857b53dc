"""Every registered method trains on the engine; however a run ends, it goes on as if it had not."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from ctwa.aggregators.registry import GRADIENT_METHODS
from ctwa.engine.checkpoint import read_state
from ctwa.models.seal import is_complete
from ctwa.scalarizers import METHODS
from tests.e2e.conftest import Run, assert_same_weights, comparable, end_session, process
from tests.e2e.turns import BROKEN, LAST

pytestmark = pytest.mark.e2e

NUM_METHODS = len(METHODS)
SETTINGS = (
    f"trainer.total_training_steps={LAST + 1}",
    f"trainer.save_freq={NUM_METHODS}",
    f"trainer.test_freq={NUM_METHODS}",
    "actor_rollout_ref.actor.optim.lr=3e-5",  # many steps from a weak model
    "ctwa.diagnostics.gradients_every=1",
    "ctwa.gradients.gram=cross_fitted",  # for the methods that combine gradients
    "policy_loss=geo_mean",  # of which a part is ours; other tests train with the default
    # Prompts are drawn by how often they are solved, and new ones come in the place of some.
    "ctwa.curriculum.difficulty={by: {accuracy: 2, clarity: 1}, target: 0.4}",
    "ctwa.dynamic_sampling={keep:0.6,otherwise:refill,max_rounds:1}",
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "data.val_max_samples=32",
    "data.dataloader_num_workers=1",  # a process that is forked from the driver, and has its pipes and signals
    "ctwa.rewards.standardise=running",
    "+ctwa.objectives.conciseness.gate={by: accuracy, at_least: 1}",
)
HALF_WRITTEN = f"checkpoints/global_step_{LAST + 1}"
PROGRAM = [str(Path(__file__).with_name("rotating_run.py"))]


def read_until_step(running: Popen[str], step: int) -> str:
    """What a run says until it has made a step; waits for it."""
    assert running.stdout is not None
    said = []
    for line in running.stdout:
        said.append(line)
        if line.split()[:1] == [f"{step}/{LAST + 1}"]:
            return "".join(said)
    raise AssertionError(f"the run ended before step {step}: {''.join(said)}")


@pytest.fixture(scope="module")
def rotating(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two turns of every method, a step each; the run is killed while it saves the step after them."""
    folder = tmp_path_factory.mktemp("rotating") / "run"
    with process(command(folder, SETTINGS, PROGRAM)) as running:
        output = read_until_step(running, LAST)
        return Run(folder, running.wait(), output)


def test_every_method_trains(rotating: Run) -> None:
    assert len(rotating.records) == LAST + 1
    for step, metrics in enumerate(rotating.records[1:]):
        method = sorted(METHODS)[step % NUM_METHODS]
        # Some methods leave out completions, and a weak model has steps without any other.
        left_out = metrics.get("pama/zero_rows", metrics.get("gd2po/masked_frac", 0))
        assert metrics["actor/grad_norm"] > 0 or left_out == 1, method
        assert 0 <= metrics["rollout/no_signal_frac"] <= metrics["objective/accuracy/no_signal_frac"], method
        assert 0 <= metrics["curriculum/solve_rate"] <= 1, method
        for name in ("accuracy", "conciseness", "clarity"):
            assert f"covariance/{name}" in metrics, method
            assert f"gradient/norm/{name}" in metrics, method
            assert f"gradient/progress/{name}" in metrics, method
            assert metrics[f"weight/{name}"] >= 0, method
            if step > 0:
                assert f"probe/gain/{name}" in metrics, method
        assert metrics["objective/conciseness/gate_open_frac"] == metrics["objective/accuracy/mean"]
    never_sampled = [each["curriculum/never_sampled_frac"] for each in rotating.records[1:]]
    assert never_sampled == sorted(never_sampled, reverse=True)
    assert 1 > never_sampled[0] > never_sampled[-1]
    measured = [each["conflict/num_measured"] for each in rotating.records if "conflict/num_measured" in each]
    assert measured == sorted(measured)  # over the turns of all methods that combine gradients
    assert measured[-1] > len(GRADIENT_METHODS)
    validated = [each for each in rotating.records if "val_shaped/conciseness" in each]
    assert any(0 < each["val_shaped/conciseness"] < each["val/conciseness"] for each in validated)


def last_event(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "events.jsonl").read_text().splitlines()[-1])


def test_a_run_that_is_killed_while_it_saves_and_then_told_to_end_resumes_to_the_same_bits(
    rotating: Run, watched_process: Callable[..., Popen[str]], train: Callable[..., Run], tmp_path: Path
) -> None:
    """From the first turn's end on, so that every method has a past."""
    folder = tmp_path / "run"
    shutil.copytree(rotating.folder, folder)
    shutil.rmtree(folder / f"checkpoints/global_step_{LAST}")
    assert not is_complete(folder / HALF_WRITTEN)

    running = watched_process(folder, *SETTINGS, "ctwa.resume=true", program=PROGRAM)
    output = read_until_step(running, NUM_METHODS + 1)
    running.send_signal(signal.SIGTERM)
    output += running.communicate(timeout=120)[0]
    end_session(running.pid)
    stopped = last_event(folder)
    assert (running.returncode, stopped["kind"]) == (4, "stop"), output
    assert NUM_METHODS < stopped["step"] < LAST
    assert is_complete(folder / f"checkpoints/global_step_{stopped['step']}")
    assert "SIGTERM: saving after this step; press Ctrl-C to end at once" in output
    assert output.count("whose checkpoint is saved: ctwa.resume=true goes on from there") == 2  # and in the summary
    assert json.loads((folder / "summary.json").read_text())["stopped"] == stopped["text"]

    longer = f"trainer.total_training_steps={LAST + 2 * len(BROKEN)}"
    resumed = train(folder, *SETTINGS, longer, "ctwa.resume=true", program=PROGRAM)

    left = f"global_step_{LAST + 1} was not saved to its end, and was removed"
    after_the_kill = f"continuing from global_step_{NUM_METHODS}; {left}"
    for went_on in (after_the_kill, f"continuing from global_step_{stopped['step']}"):
        assert went_on in (folder / "events.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(LAST + len(BROKEN) + 1)), resumed.output
    for step in range(NUM_METHODS + 1, LAST + 1):
        method = sorted(METHODS)[(step - 1) % NUM_METHODS]
        assert comparable(resumed.records[step]) == comparable(rotating.records[step]), method
    assert_same_weights(resumed, rotating, LAST)
    states = [read_state(run.folder / f"checkpoints/global_step_{LAST}") for run in (resumed, rotating)]
    for part in ("scalarizer", "probe", "shaping"):
        assert states[0][part] == states[1][part]
    assert comparable(states[0]["metrics"]) == comparable(states[1]["metrics"])
    assert_nothing_is_learnt_of_updates_that_are_not_finite(resumed)


def assert_nothing_is_learnt_of_updates_that_are_not_finite(run: Run) -> None:
    """Of the steps behind the last one: they are counted, and end the run."""
    stopped = last_event(run.folder)
    assert (run.returncode, stopped["kind"]) == (3, "stop"), run.output
    assert stopped["text"].startswith(f"stopped by the alarm no-update after step {LAST + len(BROKEN)}")
    for metrics in run.records[LAST + 1 :]:
        assert metrics["gradient/skipped"] == 2
    assert all(metrics["gradient/skipped"] == 0 for metrics in run.records[1 : LAST + 1])
    assert_same_weights(run, run, LAST, LAST + len(BROKEN))
    before, after = (read_state(run.folder / f"checkpoints/global_step_{step}") for step in (LAST, LAST + len(BROKEN)))
    assert not after["probe"]["has_weights"]
    expected, left = before["scalarizer"], after["scalarizer"]
    measured = expected["probe"]["num_measured"]
    assert left["probe"]["num_measured"] == {name: num + 1 for name, num in measured.items()}  # of the last one made
    expected["probe"] = left["probe"]
    expected["hypervolume"] = left["hypervolume"]  # which goes by the validation that came after them
    expected["ctwa"]["num_held"] = {name: num + 1 for name, num in expected["ctwa"]["num_held"].items()}
    for name in ("gradnorm", "upgrad"):
        expected[name]["aggregator"]["num_skipped"] += 2
    assert left == expected
