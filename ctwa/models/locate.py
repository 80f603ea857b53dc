"""Which of a run's checkpoints are whole, and where the model is in one, for whoever reads them without the engine."""

from __future__ import annotations

import re
from pathlib import Path

from ctwa.errors import CtwaError
from ctwa.models.seal import added_files, damaged_files, is_complete

BEST = "best"
"""Points to the step that early stopping kept, beside the steps' folders."""
_WEIGHTS = ("*.safetensors", "*.bin")


def step_folder(checkpoints: Path, step: int) -> Path:
    """The folder that verl gives a step."""
    return checkpoints / f"global_step_{step}"


def is_step_folder(folder: Path) -> bool:
    """Whether a folder has a name as :func:`step_folder` gives it."""
    return re.fullmatch(r"global_step_(0|[1-9]\d*)", folder.name, re.ASCII) is not None


def step_of(folder: Path) -> int:
    """The step that :func:`step_folder` gave a folder to."""
    return int(folder.name.removeprefix("global_step_"))


def model_folder(checkpoint: Path) -> Path:
    """The folder of a checkpoint that transformers loads."""
    return checkpoint / "actor" / "huggingface"


def steps(checkpoints: Path) -> list[int]:
    """The steps that have a folder, complete or not, in their order."""
    folders = [folder for folder in checkpoints.glob("global_step_*") if folder.is_dir() and not folder.is_symlink()]
    return sorted(step_of(folder) for folder in folders if is_step_folder(folder))


def newest_complete(checkpoints: Path) -> Path | None:
    """The folder to resume from; None where no step was completed."""
    folders = (step_folder(checkpoints, step) for step in reversed(steps(checkpoints)))
    return next((folder for folder in folders if is_complete(folder)), None)


def locate(name: str) -> Path | str:
    """The folder that transformers loads, or the name on the hub.

    Args:
        name: a model's folder, a run's (the checkpoint that early stopping kept, else the newest complete one), a
            checkpoint of one, a testbed's (its base model), or `owner/name` on the hub.

    Raises:
        CtwaError: there is no such model, or the run has no complete checkpoint, or not the one that was kept; or a
            checkpoint's model is not what was saved.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        folder = _within(path)
        if not any(found for pattern in _WEIGHTS for found in folder.glob(pattern)):
            raise CtwaError(f"{folder} has no weights (*.safetensors, *.bin); give the folder of a whole model")
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CtwaError(
            f"there is no model {name}; give the folder of a model or of a run, or a name on the hub (owner/name)"
        )
    return name


def _within(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    if (path / "checkpoints").is_dir():
        best = path / "checkpoints" / BEST
        if best.is_symlink() and not best.is_dir():
            raise CtwaError(
                f"{best}, which early stopping kept, leads to {best.readlink()}, and there is no such folder: give a "
                f"checkpoint beside it ({best.parent}/global_step_N), or remove the link for the newest one"
            )
        checkpoint = best.resolve() if best.is_dir() else newest_complete(path / "checkpoints")
        if checkpoint is None:
            raise CtwaError(
                f"the run {path} has no complete checkpoint: it ended before its first one, or trainer.save_freq is "
                "not above 0; let it go on to one, or give another run"
            )
        path = checkpoint
    if (model_folder(path) / "config.json").is_file():
        if not is_complete(path):
            raise CtwaError(f"the checkpoint {path} is not complete; give another one")
        if damaged := damaged_files(path, within="actor/huggingface/"):
            raise CtwaError(f"the checkpoint {path} is not what was saved ({', '.join(damaged)}); give another one")
        if added := added_files(path, within="actor/huggingface"):
            raise CtwaError(
                f"the checkpoint {path} was saved without {', '.join(added)}, which would be loaded with it: remove "
                f"what does not belong to it, or give {model_folder(path)}, which is taken as it stands"
            )
        return model_folder(path)
    if (path / "model" / "config.json").is_file():
        return path / "model"
    raise CtwaError(f"{path} holds no model (no config.json) and no run; give a model's folder, a run's or a testbed's")
