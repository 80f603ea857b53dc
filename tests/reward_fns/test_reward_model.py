"""A tiny sequence classifier, loaded once by the reward workers and asked by all of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ctwa.chat.scorer import Scorer, ScorerSettings
from ctwa.chat.scorer_process import RewardModel
from ctwa.errors import CtwaError
from tests.reward_fns.classifier import logits, make_model

ROOT = Path(__file__).parents[2]
# Prints what the workers made of some responses, and who the model's process is.
SCRIPT = """
import json, os, sys, psutil
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator

def main():
    kwargs, texts = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    row = {"prompt": [{"role": "user", "content": "what is it"}]}
    completions = [Completion.from_row(row, response=text, response_tokens=1) for text in texts]
    objective = ObjectiveConfig(reward_fn="reward_fns/reward_model.py:reward_model", kwargs=kwargs, timeout=120)
    with RewardEvaluator({"o": objective}, num_workers=2, max_unscored=1) as evaluator:
        evaluation = evaluator.evaluate(completions, [0] * len(completions))
        commands = [(process.pid, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        ours = [(pid, command) for pid, command in commands if "ctwa.chat.scorer_process" in command]
        serving = [pid for pid, command in ours if sys.argv[3] in command[-2]]
    print(json.dumps([evaluation.matrix.to_columns()["o"], [f.text for f in evaluation.failures], serving]))

main()
"""


def scored(
    kwargs: dict[str, object], texts: list[str], tmp_path: Path
) -> tuple[list[float | None], list[str], list[int]]:
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(kwargs), json.dumps(texts), str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    values, failures, serving = json.loads(ran.stdout.splitlines()[-1])
    return values, failures, serving


@pytest.fixture(scope="module")
def short_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def test_all_workers_ask_one_process_which_ends_when_they_have_gone(short_tmp: Path) -> None:
    folder = make_model(short_tmp / "m", 1)
    texts = ["good", "bad", "fine fine fine good", "", "it is good"] * 8
    values, failures, serving = scored({"model": str(folder), "linger": 0.5, "batch_size": 4}, texts, short_tmp)
    assert failures == []
    wanted = [float(logits(folder, f"user : what is it </s> assistant : {text} </s>")[0]) for text in texts[:5]]
    assert values == pytest.approx(wanted * 8, abs=2e-4)
    assert len(serving) == 1
    if psutil.pid_exists(serving[0]):
        psutil.Process(serving[0]).wait(timeout=60)
    assert not psutil.pid_exists(serving[0])


def test_a_label_of_several_is_named(short_tmp: Path) -> None:
    folder = make_model(short_tmp / "n", 3, template=None)
    conversation = [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "good"}]
    wanted = float(logits(folder, "what is it good").softmax(0)[2])
    for label in ("label 2", 2):
        model = RewardModel(ScorerSettings(str(folder), label))
        assert model.scores([conversation, "what is it good"]) == pytest.approx([wanted, wanted], abs=1e-4)
        assert len(model.scores(["half a surrogate pair \ud83d", "good"])) == 2
    with pytest.raises(SystemExit, match=r"it has no label 'label 3' \(it has label 0, label 1, label 2\)"):
        RewardModel(ScorerSettings(str(folder), "label 3"))
    with pytest.raises(SystemExit, match=r"it has 3 labels .*: name one with label"):
        RewardModel(ScorerSettings(str(folder)))


def test_a_process_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctwa.chat.scorer.sys.executable", "/bin/false")
    with pytest.raises(CtwaError, match="the reward model of-no-one does not start: without a word"):
        asyncio.run(Scorer(ScorerSettings("of-no-one")).score("x"))
