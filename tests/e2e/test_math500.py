"""The MATH-500 recipe as a user runs it, on a CPU: mathematical answers, the paper's REINFORCE setting, KL loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.conftest import Run, process

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PROBLEMS = [
    (r"What is $1 + 1$?", "2"),
    (r"Simplify $\frac{2}{4}$.", r"\frac{1}{2}"),
    (r"What is the smallest odd prime?", "3"),
    (r"Compute $2^5$.", "32"),
    (r"Give the interval of all $x$ with $3 < x \le 4$.", "(3,4]"),
    (r"What is $\sqrt{49}$?", "7"),
    (r"Factor $x^2 - 1$.", "(x-1)(x+1)"),
    (r"What is the area of a circle of radius 2?", r"4\pi"),
] * 4


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The prepared data: the user's own where CTWA_MATH500 names it, else a few problems of that form."""
    if own := os.environ.get("CTWA_MATH500"):
        source = Path(own)
    else:
        source = tmp_path / "problems.parquet"
        pd.DataFrame(
            {
                "problem": [f"{question} ({place})" for place, (question, _) in enumerate(PROBLEMS)],
                "answer": [answer for _, answer in PROBLEMS],
            }
        ).to_parquet(source)
    sizes = [] if os.environ.get("CTWA_MATH500") else ["--sizes", "16", "8", "8"]
    script = [sys.executable, str(ROOT / "scripts/prepare_math500.py")]
    subprocess.run([*script, "--from", source, "--out", tmp_path / "math500", *sizes], check=True, capture_output=True)
    return tmp_path / "math500"


def test_the_recipe_runs_two_steps_on_a_cpu(data: Path, testbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in {
        "ENGINE": "cpu",
        "ESTIMATOR": "reinforce",
        "MODEL": str(testbed / "model"),
        "DATA": str(data),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "here" / "trl").mkdir(parents=True)  # the name of a package that others look for
    (tmp_path / "here" / "trl" / "__init__.py").write_text("raise ImportError('this is no trl')\n")
    monkeypatch.chdir(tmp_path / "here")
    lines = tmp_path / "train.jsonl"  # the same problems as a user may have them
    rows = pd.read_parquet(data / "train.parquet")
    questions = [prompt[0]["content"] for prompt in rows["prompt"]]
    answers = [each["ground_truth"] for each in rows["reward_model"]]
    worked = [rf"One sees that it is \boxed{{{answer}}}." for answer in answers]
    pd.DataFrame({"query": questions, "worked": worked}).to_json(lines, orient="records", lines=True)
    folder = tmp_path / "run"
    recipe = [
        *("bash", str(ROOT / "recipes/math500.sh"), "ctwa", f"ctwa.run={folder}", "trainer.total_training_steps=2"),
        *("data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4"),
        *("data.max_prompt_length=256", "data.max_response_length=128", "data.val_max_samples=8"),
        *("trainer.n_gpus_per_node=1", "trainer.save_freq=-1", "trainer.test_freq=2"),
        *(f"data.train_files={lines}", "data.val_files=null", "data.validation_share=0.25"),
        *("data.columns={prompt: query, ground_truth: worked}", "data.system_prompt='You count.'"),
        "data.prompt_template='Solve: {prompt}'",
        "algorithm.use_kl_in_reward=true",
        "+ctwa.objectives.near={reward_fn: 'ctwa.objectives.log_probs:kl', weight: 0.1, target: 0}",
        "+ctwa.objectives.open={reward_fn: 'ctwa.objectives.log_probs:entropy', weight: 0.1, target: 0}",
        "algorithm.kl_ctrl={type: adaptive, kl_coef: 0.5, target_kl: 0.1, horizon: 80}",
        "ctwa.max_unknown_tokens=1",  # the testbed's words are not those of these problems
    ]
    with process(recipe) as running:
        output, _ = running.communicate(timeout=600)
    records = Run(folder, running.returncode, output).checked().records

    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]
    for metrics in records[1:]:
        for name in ("accuracy", "conciseness", "clarity"):
            assert metrics[f"objective/{name}/scored_frac"] == 1
        # The testbed's model cannot do these problems: its validation answers run to the limit, so the fixed reference
        # is near the limit, and only a completion that ended by itself can be shorter.
        assert metrics["objective/conciseness/mean"] <= metrics["response_length/finished_frac"]
        assert metrics["clip/fraction"] == 0  # REINFORCE without clipping
        assert metrics["actor/kl_coef"] == pytest.approx(0.001)
        assert metrics["objective/near/mean"] == pytest.approx(-metrics["actor/reward_kl_penalty"], abs=1e-6)
        assert metrics["objective/open/mean"] > 0
        assert metrics["objective/near/applicable_frac"] == metrics["objective/open/scored_frac"] == 1
        assert {f"{kind}/{name}" for kind in ("covariance", "weight") for name in ("near", "open")} <= metrics.keys()
        assert "val/near" not in metrics
    first, second = (
        {key: metrics[f"actor/reward_kl_penalty{key}"] for key in ("", "_coeff")} for metrics in records[1:]
    )
    # The policy is its reference at first: far below the target, which 16 completions of 80 bring nearer by 0.2.
    assert first == {"": pytest.approx(0, abs=1e-3), "_coeff": 0.5}
    assert second["_coeff"] == pytest.approx(0.5 * (1 - 0.2 * 16 / 80))
    assert second[""] != 0
    assert records[2]["critic/rewards/mean"] != records[2]["critic/score/mean"]
    assert any(metrics["objective/conciseness/mean"] > 0 for metrics in records[1:])
    parts = {name: pd.read_parquet(folder / f"data/{name}.parquet") for name in ("train", "val")}
    assert len(parts["val"]) == round(0.25 * len(rows))
    assert sorted(query for part in parts.values() for query in part["query"]) == sorted(questions)
    truths = {
        row["query"]: row["reward_model"]["ground_truth"] for part in parts.values() for _, row in part.iterrows()
    }
    assert truths == dict(zip(questions, answers, strict=True))
    sampled = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for sample in sampled:
        question = sample["prompt"].removeprefix("You count.\nSolve: ")
        assert question in set(parts["val" if sample["split"] == "held-out" else "train"]["query"])
