"""verl's loggers without a network and without an account, as docs/trace.md has them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ctwa.imports.make import import_run
from ctwa.run.trace import read_trace

METRICS = {"objective/a/mean": 0.5, "val/a": 0.25, "weight/a": 1.0, "covariance/a": 0.125, "ctwa/ema/a": 0.1}
PROGRAM = f"""
import sys
from verl.utils.tracking import Tracking
config = {{"ctwa": {{"objectives": {{"a": {{"weight": 1.0}}}}}}, "trainer": {{"logger": sys.argv[1:]}}}}
tracking = Tracking("project", "run", sys.argv[1:], config=config)
for step in range(3):
    tracking.log({METRICS!r}, step)
tracking.finish()
"""
LEFT = {
    "wandb": "wandb/offline-run-*/*.wandb",
    "trackio": "trackio/project.db",
    "mlflow": "mlflow.db",
    "swanlab": "swanlog/run-*/*.swanlab",
    "file": "run.jsonl",
}


def test_loggers_leave_their_files_where_they_are_told(tmp_path: Path) -> None:
    """Those that are installed: verl brings two of them, and each import of verl costs seconds."""
    loggers = [name for name in LEFT if name == "file" or find_spec(name) is not None]
    told = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "SWANLAB_MODE": "offline",
        "SWANLAB_LOG_DIR": str(tmp_path / "swanlog"),
        "VERL_FILE_LOGGER_PATH": str(tmp_path / "run.jsonl"),
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-c", PROGRAM, *loggers]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | told)

    assert made.returncode == 0, made.stderr
    assert {"file", "wandb"} <= set(loggers)
    assert [name for name in loggers if not any(path.stat().st_size for path in tmp_path.glob(LEFT[name]))] == []
    run = import_run([tmp_path / "run.jsonl"], tmp_path / "imported").folder  # what `file` left is a trace again
    assert [(record["step"], record["metrics"]) for record in read_trace(run.metrics)] == [
        (step, METRICS) for step in range(3)
    ]
