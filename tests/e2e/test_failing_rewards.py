"""The project that `ctwa init` makes, trained by its script, with rewards written for other trainers, and some that
fail: what the run makes of it, and what the user reads: an alarm can end it, too.

A judge, a server that scores and a reward model have their part in it. The judge is down at the first and the last of
three steps.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctwa.models.seal import is_complete
from ctwa.starter.make import make_project
from tests.chat.endpoint import Server
from tests.conftest import ROOT
from tests.e2e.conftest import SMALL, Run, process
from tests.reward_fns.classifier import logits, make_model

pytestmark = pytest.mark.e2e

REWARDS = """


def sometimes(response, limit):
    return None if len(response) % 2 else 1.0


def of_trl(prompts, completions, completion_ids, step, progress, split, **columns):
    assert [prompt[0]["role"] for prompt in prompts] == ["user"] * len(completion_ids)
    assert all(answer[0]["role"] == "assistant" and ids for answer, ids in zip(completions, completion_ids))
    assert set(columns["ground_truth"]) <= set("0123456789") and len(columns["extra_info"]) == len(prompts)
    return [step + 10 * progress + 100 * (split == "train")] * len(completions)


def of_a_task(response, data_source):
    assert data_source == "products"
    return float("*" in response)


def of_another(data_source):
    return 1.0 if data_source == "sums" else "not_applicable"


async def of_verifiers(completion, answer, state):
    return float(state["completion"] == completion and completion[-1]["content"].endswith(answer))
"""


def tasks_of(path: Path) -> None:
    """Name the tasks of the project's rows: three sources of data."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        sum_, product = (sign in row["prompt"][0]["content"] for sign in "+*")
        row["data_source"] = "both" if sum_ and product else "products" if product else "sums"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


VERL_SCORE = ROOT / "examples/verl_script/score.py"
"""A function as verl's users have them, which returns the parts of its reward."""


class Project:
    """The project, with the servers that its rewards ask."""

    def __init__(self, folder: Path, judge: Server, scorer: Server) -> None:
        self.folder, self._run = folder, folder / "runs" / "ctwa-s0"
        self.classifier = make_model(folder / "classifier", 1)
        judge.reply, scorer.reply = self._grade, self._score
        self._urls = judge.url, scorer.url
        make_project(folder)
        with (folder / "rewards.py").open("a") as rewards:
            rewards.write(REWARDS)
        for file in ("train", "val"):
            tasks_of(folder / "data" / f"{file}.jsonl")

    def train(self, run: Path, *words: str) -> Run:
        """Train, or go on, in a folder."""
        self._run = run
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
            command = [str(self.folder / "train.sh"), "ctwa", *self._overrides(), f"ctwa.run={run}", *words]
            with process(command) as running:
                output, _ = running.communicate(timeout=600)
        return Run(run, running.returncode, output)

    def _grade(self, body: dict[str, Any], _attempt: int) -> tuple[int, Any]:
        """The judge is there at the second step alone: it likes long answers."""
        records = self._run / "metrics.jsonl"
        if not records.exists() or len(records.read_text().splitlines()) != 1:
            return 503, "down"
        return 200, json.dumps({"score": min(len(body["messages"][0]["content"]) // 200, 9)})

    @staticmethod
    def _score(body: dict[str, Any], _attempt: int) -> tuple[int, Any]:
        return 200, {"score": len(body["response"])}

    def _overrides(self) -> list[str]:
        small = "weight: 0.01, target: 0"
        judge = f"base_url: '{self._urls[0]}', model: m, max_attempts: 1, folder: '{self.folder / 'judge'}'"
        classifier = f"model: '{self.classifier}', batch_size: 1, linger: 0.5"
        served = {
            "judge": f"kwargs: {{{judge}}}, max_unscored: 1",
            "remote_score": f"kwargs: {{url: '{self._urls[1]}'}}, max_unscored: 0",
            "reward_model": f"kwargs: {{{classifier}}}, max_unscored: 0, timeout: 120",
        }
        return [
            *SMALL,
            "ctwa.objectives.short.reward_fn=rewards.py:sometimes",
            f"+ctwa.objectives.of_trl={{reward_fn: 'rewards.py:of_trl', {small}}}",
            f"+ctwa.objectives.of_verifiers={{reward_fn: 'rewards.py:of_verifiers', {small}}}",
            *(
                f"+ctwa.objectives.{part}={{reward_fn: '{VERL_SCORE}:compute_score', key: {part}, {small}}}"
                for part in ("accuracy", "brevity")
            ),
            "+ctwa.objectives.short.max_unscored=1",
            f"+ctwa.objectives.repetition={{reward_fn: 'reward_fns/repetition.py:repetition', {small}}}",
            "+ctwa.objectives.product={reward_fn: 'rewards.py:of_a_task', target: 0, "
            "applies_to: {data_source: products}}",
            "+ctwa.objectives.sum={reward_fn: 'rewards.py:of_another', on_failure: stop, target: 0, every: 2}",
            "+ctwa.objectives.evaluated={reward_fn: 'rewards.py:short', kwargs: {limit: 40}, split: val}",
            *(
                f"+ctwa.objectives.{name}={{reward_fn: 'reward_fns/{name}.py:{name}', {small}, {settings}}}"
                for name, settings in served.items()
            ),
            "data.val_files={easy: data/val.jsonl, again: [data/val.jsonl]}",
            f"+ctwa.objectives.near={{reward_fn: 'ctwa.objectives.log_probs:kl', {small}}}",
            "ctwa.curriculum.sources={both: 1, products: 1, sums: 2}",
            "data.train_batch_size=4",
            "data.val_max_samples=8",
            "trainer.total_training_steps=3",
            "trainer.test_freq=3",
            "trainer.val_before_train=false",
        ]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with Server() as judge, Server() as scorer:
        yield Project(tmp_path_factory.mktemp("project"), judge, scorer)


@pytest.fixture(scope="module")
def stopped(project: Project) -> Run:
    """A run in which one reward cannot score half of the completions, told to end when that raises an alarm."""
    return project.train(project.folder / "runs" / "ctwa-s0", "--stop-on", "unscored")


def samples_of(run: Run) -> list[dict[str, Any]]:
    """What was sampled of its completions."""
    return [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]


def test_entries_that_could_not_be_scored_are_counted_and_left_out(stopped: Run) -> None:
    metrics = stopped.records[0]
    assert 0 < metrics["objective/short/scored_frac"] < 1
    assert metrics["objective/short/mean"] == 1
    assert metrics["objective/correct/scored_frac"] == 1
    # What was scored is constant: no covariance with anything.
    assert metrics["covariance/short"] == pytest.approx(0, abs=1e-12)


def test_objectives_of_some_tasks_are_taken_over_these(stopped: Run) -> None:
    """16 completions of 4 prompts, and of 8 held-out ones of files by name."""
    metrics = stopped.records[0]
    means = {key: value for key, value in metrics.items() if key.startswith("objective_source/correct/")}
    assert means
    assert set(metrics) & {"objective_source/product/sums", "objective_source/sum/products"} == set()
    for name, source in (("product", "products"), ("sum", "sums")):
        assert f"objective_source/{name}/{source}" in metrics
        assert metrics[f"weight/{name}"] > 0
    shares = {"both": 0.25, "products": 0.25, "sums": 0.5}
    assert {source: metrics[f"curriculum/source_share/{source}"] for source in shares} == shares
    assert metrics["objective/product/applicable_frac"] == shares["products"]
    assert metrics["objective/sum/applicable_frac"] == shares["sums"]
    assert "objective/evaluated/mean" not in metrics
    assert metrics["objective/near/applicable_frac"] == 1  # the first step's policy is its reference, which is there
    assert metrics["objective/near/mean"] == pytest.approx(0, abs=1e-3)
    assert "val/near" not in metrics
    assert "weight/evaluated" not in metrics
    assert 0 <= metrics["val/evaluated"] <= 1
    assert "val_source/evaluated/easy" in metrics


def test_functions_of_other_trainers_are_called_as_by_these(stopped: Run) -> None:
    metrics = stopped.records[0]
    assert metrics["objective/of_trl/scored_frac"] == metrics["objective/of_verifiers/scored_frac"] == 1
    assert (metrics["objective/of_trl/mean"], metrics["objective/of_trl/std"]) == (101, 0)  # step 1 begins at 0
    assert metrics["val/of_trl"] == pytest.approx(1 + 10 / 3)  # one step of three is made
    assert 0 <= metrics["val/of_verifiers"] < 1
    assert metrics["objective/repetition/scored_frac"] == 1
    assert -1 <= metrics["objective/repetition/mean"] <= 0
    assert {"covariance/accuracy", "covariance/brevity", "val/accuracy", "val/brevity"} <= set(metrics)
    compute_score = runpy.run_path(str(VERL_SCORE))["compute_score"]
    for sample in samples_of(stopped):
        assert sample["rewards"]["brevity"] == pytest.approx(compute_score("", sample["response"], "")["brevity"])


def test_an_alarm_ends_the_run_with_a_validation_and_a_checkpoint(stopped: Run) -> None:
    assert stopped.returncode == 3, stopped.output
    (metrics,) = stopped.records  # of three steps
    assert "val/correct" in metrics
    events = [json.loads(line) for line in (stopped.folder / "events.jsonl").read_text().splitlines()]
    assert is_complete(stopped.folder / "checkpoints/global_step_1")
    assert [event["kind"] for event in events if event["kind"] != "phase"] == ["start", "alarm", "alarm", "stop"]
    summary = json.loads((stopped.folder / "summary.json").read_text())
    alarms = [(episode["alarm"]["kind"], episode["alarm"]["objective"]) for episode in summary["alarms"]]
    assert alarms == [("unscored", "short"), ("unscored", "judge")]
    said = "stopped by the alarm unscored after step 1, whose checkpoint is saved"
    assert summary["stopped"] == said
    assert stopped.output.count(said) == 2  # as it happened, and in the summary
    assert "alarm: unscored: " in stopped.output
    assert "try the reward function by itself" in stopped.output


def test_a_judge_that_is_down_leaves_its_entries_out_and_stops_nothing(project: Project, stopped: Run) -> None:
    assert stopped.records[0]["objective/judge/scored_frac"] == 0
    folder = project.folder / "runs" / "resumed"
    shutil.copytree(stopped.folder, folder)

    resumed = project.train(folder, "ctwa.resume=true").checked()

    there, down = resumed.records[1:]
    assert (there["objective/judge/scored_frac"], down["objective/judge/scored_frac"]) == (1, 0)
    assert {"val/judge", "val/remote_score", "val/reward_model"} & set(down) == {"val/remote_score", "val/reward_model"}
    assert there["weight/judge"] > 0
    usage = json.loads((project.folder / "judge" / "usage.json").read_text())
    assert 0 < usage["requests"] <= 16
    alarms = json.loads((folder / "summary.json").read_text())["alarms"]
    since = [each["alarm"]["since"] for each in alarms if each["alarm"]["objective"] == "judge"]
    assert since == [1, 3]


def test_a_scorer_and_a_reward_model_score_every_completion(project: Project, stopped: Run) -> None:
    for sample in samples_of(stopped):
        assert sample["rewards"]["remote_score"] == len(sample["response"])
        text = f"user : {sample['prompt']} </s> assistant : {sample['response']} </s>"
        assert sample["rewards"]["reward_model"] == pytest.approx(float(logits(project.classifier, text)[0]), abs=2e-4)
    for name in ("remote_score", "reward_model"):
        assert stopped.records[0][f"objective/{name}/scored_frac"] == 1
        assert stopped.records[0][f"objective/{name}/std"] > 0
