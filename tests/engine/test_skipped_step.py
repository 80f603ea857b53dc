from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_gradient_that_is_not_finite_moves_nothing_and_the_next_step_does(tmp_path: Path) -> None:
    """In a process of its own: the engine's registries and the process group are global."""
    script = Path(__file__).with_name("skipped_step.py")
    environment = os.environ | {"VERL_USE_EXTERNAL_MODULES": "ctwa.engine.plugin", "VERL_PLATFORM": "cpu"}
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = json.loads((tmp_path / "reports.json").read_text())
    assert first == {"moved": 0.0, "skipped": True, "num_skipped": 1}
    assert second["moved"] > 0
    assert (second["skipped"], second["num_skipped"]) == (False, 1)
