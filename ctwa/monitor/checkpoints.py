"""Which of a run's checkpoints are whole, and where the model is in one, for whoever reads them without the engine."""

from __future__ import annotations

import json
from pathlib import Path

SEAL_FILE = "complete.json"
BEST = "best"
"""Points to the step that early stopping kept, beside the steps' folders."""


def step_folder(checkpoints: Path, step: int) -> Path:
    """The folder that verl gives a step."""
    return checkpoints / f"global_step_{step}"


def model_folder(checkpoint: Path) -> Path:
    """The folder of a checkpoint that transformers loads."""
    return checkpoint / "actor" / "huggingface"


def is_complete(folder: Path) -> bool:
    """Whether the folder has a seal and every file of it, at its size (verl prunes old folders file by file)."""
    try:
        files = json.loads((folder / SEAL_FILE).read_text())["files"]
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())


def newest_complete(checkpoints: Path) -> Path | None:
    """The folder to resume from; None where no step was completed."""
    steps = {
        int(number): folder
        for folder in checkpoints.glob("global_step_*")
        if (number := folder.name.removeprefix("global_step_")).isdigit()
    }
    return next((steps[step] for step in sorted(steps, reverse=True) if is_complete(steps[step])), None)
