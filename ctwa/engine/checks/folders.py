"""The folders that every command needs: the run's, the task's and the model's."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ctwa.engine.checks.checkpoint import check_checkpoint, check_contents
from ctwa.engine.checks.model import model_source
from ctwa.errors import CtwaError, neighbour
from ctwa.run.folder import RunFolder


def check_folders(config: DictConfig) -> None:
    """Check what every command needs of the disk: the run's folder, the task's and the model's."""
    check_contents(config)
    run = RunFolder(config.ctwa.run)
    run.refuse_if_taken(resume=config.ctwa.resume, how_to_resume="ctwa.resume=true")
    if (run.path / "config.json").is_file():
        raise CtwaError(f"ctwa.run: {run.path} holds a model (config.json): give a folder of the run's own")
    if config.ctwa.resume:
        check_checkpoint(config, run.checkpoints)
    task_dir = config.ctwa.get("task_dir")
    if task_dir is not None and not (folder := Path(task_dir).expanduser()).is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CtwaError(
            f"ctwa.task_dir: {task_dir} {what}; make it (`ctwa testbed make`, "
            f"scripts/prepare_math500.py) or give the folder of the task's files{neighbour(folder)}"
        )
    model_source(config).local()
