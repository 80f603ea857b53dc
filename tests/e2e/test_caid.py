"""`ctwa caid` on the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctwa.engine.caid_samples import REFERENCE_FILE, Samples
from ctwa.preference.dual import Dual
from tests.e2e.conftest import Run, assert_same_weights, comparable

pytestmark = pytest.mark.e2e

SETTINGS = [
    "ctwa.caid.thresholds={accuracy:0.02}",
    "ctwa.caid.beta=0.5",
    "ctwa.caid.iterations=2",
    "ctwa.caid.stop_at=0",
    "ctwa.steps_per_iteration=2",
    "ctwa.pairs_per_prompt=3",
    "ctwa.labels=drawn",
    "data.train_batch_size=8",
    "data.val_max_samples=16",
    "actor_rollout_ref.rollout.val_kwargs.n=6",
    "trainer.n_gpus_per_node=1",
]
Caid = Callable[..., Run]


@pytest.fixture(scope="module")
def caid(testbed: Path, run_command: Callable[[Path, list[str]], Run]) -> Caid:
    """Start a run of `ctwa caid`, wait for its end."""

    def start(folder: Path, *overrides: str) -> Run:
        # PeCAID: a policy stands in for a scorer.
        policies = f"ctwa.policies={{style:{testbed / 'model'}}}"
        own = [f"ctwa.run={folder}", f"ctwa.task_dir={testbed}", policies]
        return run_command(folder, ["-m", "ctwa.cli", "caid", *own, *SETTINGS, *overrides]).checked()

    return start


@pytest.fixture(scope="module")
def two_policies(caid: Caid, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return caid(tmp_path_factory.mktemp("caid") / "run")


def test_the_multipliers_are_those_of_the_samples_and_move_against_the_slack(two_policies: Run) -> None:
    samples = Samples.read(two_policies.folder / REFERENCE_FILE)
    reward_PS = 0.333 * samples.scores_PS["conciseness"] + 0.334 * samples.scores_PS["clarity"]
    solution = Dual(reward_PS, {"accuracy": samples.scores_PS["accuracy"]}, {"accuracy": 0.02}, beta=0.5).solve()
    records = two_policies.records
    assert records[0]["dual/multiplier/accuracy"] == pytest.approx(solution.multipliers["accuracy"])
    assert records[0]["val/accuracy"] == pytest.approx(float(samples.scores_PS["accuracy"].mean()))
    first = records[2]
    assert {"val_rewards/hidden_seconds", "val_rewards/waited_seconds"} <= set(first)
    assert records[1]["weight/accuracy"] == pytest.approx(solution.multipliers["accuracy"])
    assert first["caid/slack/accuracy"] == pytest.approx(first["val/accuracy"] - records[0]["val/accuracy"] - 0.02)
    eta = 0.5 / solution.curvature["accuracy"]
    moved = max(solution.multipliers["accuracy"] - eta * first["caid/slack/accuracy"], 0)
    assert first["caid/multiplier/accuracy"] == pytest.approx(moved)
    assert records[3]["weight/accuracy"] == pytest.approx(moved)
    assert [len(two_policies.records), max(record["caid/policies"] for record in records[2::2])] == [5, 2]


def test_implicit_rewards_of_a_policy_that_is_the_reference_are_zero(two_policies: Run) -> None:
    """The reference itself prefers nothing."""
    samples = Samples.read(two_policies.folder / REFERENCE_FILE)
    assert samples.scores_PS["style"].abs().max() == 0
    assert "style" in json.loads((two_policies.folder / "run.json").read_text())["objectives"]
    assert [record["val/style"] for record in two_policies.records[2::2]] == [0, 0]


def test_the_last_word_says_what_was_missed_and_how_to_go_on(two_policies: Run) -> None:
    events = [json.loads(line) for line in (two_policies.folder / "events.jsonl").read_text().splitlines()]
    last = [event["text"] for event in events if event["kind"] == "caid"][-1]
    missed = two_policies.records[-1]["caid/slack/accuracy"] < 0
    assert last.startswith("ended after 2 policies: ")
    assert ("accuracy is below its threshold by " in last and "ctwa.caid.iterations=4" in last) == missed


def test_a_run_that_broke_off_before_it_sampled_its_policy_resumes_to_the_same_bits(
    two_policies: Run, caid: Caid, tmp_path: Path
) -> None:
    """Its first policy was trained and saved, and nothing of what came then is there."""
    folder = tmp_path / "run"
    shutil.copytree(two_policies.folder, folder, symlinks=True)
    shutil.rmtree(folder / "checkpoints/global_step_4")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]))
    resumed = caid(folder, "ctwa.resume=true")
    for step, (one, other) in enumerate(zip(two_policies.records, resumed.records, strict=True)):
        assert comparable(one) == comparable(other), step
    assert_same_weights(two_policies, resumed, 4)
