"""The smoke test of a GPU, as far as it is a script that judges and reports."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "gpu_smoke.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_smoke", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_smoke"] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_a_report_tells_what_is_well_what_is_left_out_and_what_failed(script: ModuleType, tmp_path: Path) -> None:
    smoke = script.Smoke(tmp_path, cpu=True, model=None)
    (tmp_path / "logs").mkdir()

    def fails(smoke: object) -> str:
        return str(smoke.command("words", sys.executable, "-c", "print('so it ended'); raise SystemExit(3)"))  # type: ignore[attr-defined]

    checks = {"bf16": script.bf16, "vLLM": script.vllm, "SmolLM2": script.smollm2, "words": fails}
    verdicts = [script.judge(name, check, smoke) for name, check in checks.items()]
    told = script.report(verdicts, smoke)

    assert [each.verdict for each in verdicts] == ["ok", "skipped", "skipped", "FAILED"]
    assert told.startswith("# Smoke test of ctwa on a CPU\n\n1 of 4 checks failed. Python ")
    assert "| bf16 | ok | 0 | a product is off by " in told
    assert "| words | FAILED | 0 | below |" in told
    assert "\n## words\n\n```text\n" in told
    assert "so it ended" in told
    assert (tmp_path / "logs/words.log").read_text() == "so it ended\n"


def test_parity_and_log_probs_are_judged_by_the_numbers_of_the_runs(script: ModuleType, tmp_path: Path) -> None:
    smoke = script.Smoke(tmp_path, cpu=True, model=None)
    with pytest.raises(script.Skipped, match="no run ended well"):
        script.log_probs(smoke)

    name = "training/rollout_probs_diff_mean"
    smoke.traces = {"ctwa": [{name: 1e-6}, {name: 2e-6}]}
    assert script.log_probs(smoke) == "probabilities differ by 2e-06 on average in the worst of 2 steps"
    smoke.traces["mgda"] = [{name: 0.1}]
    with pytest.raises(AssertionError, match=r"the mean difference of a step is 0\.1"):
        script.log_probs(smoke)


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--cpu", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, f"error: {tmp_path} exists already: give another folder\n")
