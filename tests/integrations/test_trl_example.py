"""The examples of trainings with TRL: the script from its command line to a summary, and the notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL is not here: scripts/test.sh runs these with a folder of its own on the path")

from ctwa.report.summary import summarize
from examples import trl_grpo
from tests.examples.notebook_cells import FOLDER, NEEDS_TRL, run_notebook
from tests.integrations import tiny_trl


def test_the_example_runs(tmp_path: Path) -> None:
    trl_grpo.main(
        ["--model", tiny_trl.saved(tmp_path / "model"), "--out", str(tmp_path / "run"), "--steps", "2", "--batch", "8"]
    )

    summary = summarize(tmp_path / "run")
    assert (summary.method, summary.num_steps, set(summary.objectives)) == ("ctwa", 2, {"correct", "brief"})


def test_the_notebook_runs_and_keeps_its_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"STEPS, LENGTH = 40, 12": "STEPS, LENGTH = 2, 12"}
    run_notebook(FOLDER / f"{NEEDS_TRL}.ipynb", tmp_path, monkeypatch, steps)
