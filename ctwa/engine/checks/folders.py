"""The folders that every command needs: the run's, the task's and the model's."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from ctwa.engine.checks.look import model_source
from ctwa.errors import CtwaError, neighbour
from ctwa.models.locate import newest_complete
from ctwa.run.folder import RunFolder


def check_folders(config: DictConfig) -> None:
    """Check what every command needs of the disk: the run's folder, the task's and the model's."""
    run = RunFolder(config.ctwa.run)
    run.refuse_if_taken(resume=config.ctwa.resume, how_to_resume="ctwa.resume=true")
    _check_ranks_of_checkpoint(config, run)
    task_dir = config.ctwa.get("task_dir")
    if task_dir is not None and not (folder := Path(task_dir).expanduser()).is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CtwaError(
            f"ctwa.task_dir: {task_dir} {what}; make it (`ctwa testbed make`, "
            f"scripts/prepare_math500.py) or give the folder of the task's files{neighbour(folder)}"
        )
    model_source(config).local()


def _check_ranks_of_checkpoint(config: DictConfig, run: RunFolder) -> None:
    """Each rank loads the shard that it saved: another number of ranks would be told after the engine is up."""
    checkpoint = newest_complete(run.checkpoints) if config.ctwa.resume else None
    if checkpoint is None or not (file := checkpoint / "actor" / "fsdp_config.json").is_file():
        return
    try:
        saved = json.loads(file.read_text())["world_size"]
    except (ValueError, TypeError, KeyError) as error:
        raise CtwaError(f"{file} cannot be read ({error!r}): restore it, or take {checkpoint} away") from error
    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if saved != num_ranks:
        raise CtwaError(
            f"{checkpoint} was saved by {saved} rank{'s' * (saved > 1)}, and the run has trainer.nnodes x "
            f"trainer.n_gpus_per_node = {num_ranks}: write as many as there were, or begin a new run with the model of "
            f"the checkpoint (actor_rollout_ref.model.path={checkpoint / 'actor' / 'huggingface'})"
        )
