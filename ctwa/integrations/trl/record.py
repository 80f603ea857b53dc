"""The folder of a TRL run: ctwa's own files in TRL's ``output_dir``, and the method's state in TRL's checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError
from ctwa.gradients.settings import GradientSettings
from ctwa.run.documents import Document
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.jsonl import write_atomically
from ctwa.run.recorder import RunRecorder
from ctwa.scalarizers.base import Scalarizer
from ctwa.state import Stateful

STATE_FILE = "ctwa_state.json"
"""In a checkpoint of TRL: the method's state, and the record of its step."""
HOW_TO_RESUME = "trainer.train(resume_from_checkpoint=True)"
NUM_SAMPLES = 4
_ELSEWHERE = ("output_dir", "logging_dir", "run_name", "hub_token", "push_to_hub_token")
"""Settings that are not of the training: where it is kept, and secrets."""


def begin(
    args: Any,
    scalarizer: Scalarizer,
    gradients: GradientSettings,
    model: str,
    *,
    num_steps: int,
    resume_after: int | None,
) -> RunRecorder:
    """Make or continue the run's folder.

    Args:
        args: the ``GRPOConfig``.
        scalarizer: the method.
        gradients: how it takes the objectives' gradients.
        model: its name, or its folder.
        num_steps: optimizer steps in all.
        resume_after: the step of the checkpoint that the run continues from; None for a new run.

    Raises:
        CtwaError: the folder holds a run and is not to be continued.
    """
    targets = scalarizer.covariance_targets
    info = RunInfo(
        method=scalarizer.config.type,
        objectives={
            name: ObjectiveInfo(weight=weight, target=targets.get(name))
            for name, weight in scalarizer.initial_weights.items()
        },
        num_steps=num_steps,
        engine=f"TRL {version('trl')}",
        model=model,
        seed=args.seed,
        decoding=f"sampled at temperature {args.temperature:g}, as in training",
        in_python=True,
        versions={package: version(package) for package in ("ctwa", "trl", "torch", "transformers")},
    )
    settings = {key: value for key, value in args.to_dict().items() if key not in _ELSEWHERE}
    objectives = {name: each.model_dump(exclude_none=True) for name, each in info.objectives.items()}
    own = {"method": scalarizer.config.model_dump(mode="json"), "objectives": objectives}
    if scalarizer.aggregator is not None:
        own["gradients"] = gradients.model_dump(mode="json")
    config = {"trl": json.loads(json.dumps(settings, default=str)), "ctwa": own}
    run = RunFolder.create(
        args.output_dir, config, info, resume=resume_after is not None, how_to_resume=HOW_TO_RESUME, folders=()
    )
    recorder = RunRecorder(run, resume_after=resume_after, num_samples=NUM_SAMPLES, seed=args.seed)
    if resume_after is not None:
        recorder.event("resume", f"continuing from checkpoint-{resume_after}", step=resume_after)
    return recorder


def save_state(checkpoint: Path, parts: Mapping[str, Stateful], *, step: int, metrics: Mapping[str, float]) -> None:
    """Put what the method keeps into a checkpoint that is being made.

    Args:
        checkpoint: its folder.
        parts: what has a state, by name.
        step: optimizer steps made.
        metrics: of that step, whose record may not be written yet.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "metrics": dict(metrics)} | {name: part.state_dict() for name, part in parts.items()}
    write_atomically(checkpoint / STATE_FILE, json.dumps(state).encode())


def load_state(
    checkpoint: Path, parts: Mapping[str, Stateful], *, steps_per_batch: int
) -> tuple[int, dict[str, float]]:
    """Restore what the method keeps to the last bit.

    Args:
        checkpoint: TRL's folder of it.
        parts: of this run, by name.
        steps_per_batch: optimizer steps on a batch of completions.

    Returns:
        The checkpoint's step, and its metrics.

    Raises:
        CtwaError: no state is there, or a damaged one; it is another method's, or the checkpoint is from the middle of
            a batch.
    """
    path = checkpoint / STATE_FILE
    if not checkpoint.is_dir():
        raise CtwaError(f"there is no checkpoint {checkpoint}: give the folder of one")
    if not path.is_file():
        raise CtwaError(
            f"{checkpoint} has no {STATE_FILE}, so that the method cannot go on from there: give a checkpoint that "
            "MultiObjectiveGRPOTrainer saved, or begin anew with that one as the model"
        )
    document = Document(path, "resume from another checkpoint")
    step: int = document.get("step", int)
    metrics: dict[str, float] = document.get("metrics")
    state = {name: value for name, value in document.content.items() if name not in ("step", "metrics")}
    if step % steps_per_batch:
        raise CtwaError(
            f"{checkpoint} is from the middle of a batch of completions, which are trained on for {steps_per_batch} "
            f"steps, and TRL does not keep them: resume from a step that is a multiple of {steps_per_batch}"
        )
    if state.keys() != parts.keys():
        raise CtwaError(
            f"{checkpoint} has the state of {sorted(state)}, and this run that of {sorted(parts)}: resume with the "
            "method and the gradients that the checkpoint was made with"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return step, metrics


def how_to_go_on(output_dir: str) -> str:
    """What is to be done with a run that has ended too early."""
    from transformers.trainer_utils import get_last_checkpoint

    newest = get_last_checkpoint(output_dir)
    if newest is None:
        return "there is no checkpoint: begin anew, in another output_dir"
    return f"the newest checkpoint is {Path(newest).name}: {HOW_TO_RESUME} goes on from there"
