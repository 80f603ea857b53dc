"""A verl script of one's own, as docs/verl.md changes it: its reward function's parts are trained on as objectives."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Run, process

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parents[2] / "examples" / "verl_script"


def test_the_script_of_the_example_trains_on_the_parts_of_its_reward(
    testbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MODEL": str(testbed / "model"),
        "TRAIN": str(testbed / "train.parquet"),
        "VAL": str(testbed / "held_out.parquet"),
        "DEVICE": "cpu",
    }.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "run"
    small = ["data.max_response_length=96", "data.val_max_samples=8", "trainer.total_training_steps=2"]
    with process([str(SCRIPT / "train.sh"), "method=gdpo", f"ctwa.run={folder}", *small]) as running:
        output, _ = running.communicate(timeout=600)
    run = Run(folder, running.returncode, output).checked()

    assert len(run.records) == 3
    for metrics in run.records[1:]:
        assert metrics["objective/accuracy/scored_frac"] == metrics["objective/brevity/scored_frac"] == 1
        assert {"covariance/accuracy", "covariance/brevity"} <= metrics.keys()
        assert metrics["weight/brevity"] == pytest.approx(metrics["weight/accuracy"] / 2)
    compute_score = runpy.run_path(str(SCRIPT / "score.py"))["compute_score"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) > 8
    for sample in samples:
        parts = compute_score("", sample["response"], "", {})
        assert sample["rewards"]["brevity"] == pytest.approx(parts["brevity"])
